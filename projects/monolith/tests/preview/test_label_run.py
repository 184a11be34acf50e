import json

import pytest

from tests.fake_github import BOT, RIGHTS
from tests.labelling import ready, rows_of

FORK = "eve/monolith"


class TestRun:
    """One run, whatever happens to it."""

    def test_dry_run(self, server, label):
        """
        A dry run shows what would be done and why, and writes nothing; any token may do it.
        """
        server.tokens["ghp_ada"] = ("ada", {**RIGHTS, "pull_requests": "read"})
        ready(server, 1)
        ready(server, 2, repository=FORK)
        server.label(2)
        said = label.run("--dry-run", GITHUB_TOKEN="ghp_ada").stdout

        assert server.writes == []
        assert server.previews() == {2}
        for part in ("add", "takes a place", "remove", "its branch is in another repository"):
            assert part in said
        label.run()
        assert server.previews() == {1}

    def test_rows(self, server, label):
        """
        With --json a program reads the same.
        """
        ready(server, 1)
        rows = rows_of(label.run("--dry-run", "--json"))

        assert rows == [
            {
                "event": "row",
                "number": 1,
                "labelled": False,
                "change": "add",
                "reason": "takes",
                "because": "takes a place",
                "behind": [],
            }
        ]

    def test_somebody_elses_token(self, server, label):
        """
        With a person's token nothing is written, because it would be that person's wish.
        """
        server.tokens["ghp_ada"] = ("ada", dict(RIGHTS))
        ready(server, 1)
        said = label.run(code=78, GITHUB_TOKEN="ghp_ada").stderr

        assert "Refused to write labels" in said
        assert server.writes == []

    @pytest.mark.parametrize("writes", range(12))
    def test_cut_off(self, server, label, writes):
        """
        A run that is cut off after any write leaves at most three, and the next makes up for it;
        only a fork may not be told why its label went.
        """
        ready(server, 1, 2, 3, 4, 5)
        server.label(5)
        server.label(4, "preview-keep")
        ready(server, 6, repository=FORK)
        server.label(6)
        server.breaks_after = writes
        label.run(code=78)
        assert len(server.previews() - {6}) <= 3
        server.breaks_after = None
        label.run()

        assert server.previews() == {1, 2, 5}
        assert [len(server.comments[number]) for number in range(1, 6)] == [1] * 5
        assert len(server.comments[6]) <= 1
        assert len(server.deployments) == 3

    def test_one_deployment_is_refused(self, server, label):
        """
        A deployment that GitHub refuses holds up no other either, nor the end of an old one.
        """
        ready(server, 1, 2)
        label.run()
        server.close(1)
        ready(server, 3, 4)

        def refuse_once(request):
            if request.path.endswith("/statuses") and request.method == "POST":
                server.before = lambda _: None
                server.limit(422, "Validation Failed")

        server.before = refuse_once
        assert "422" in label.run(code=78).output
        server.before = lambda _: None

        assert {made["task"] for made in server.deployments.values()} >= {
            "preview-pr-2", "preview-pr-3", "preview-pr-4",
        }  # fmt: skip

    def test_one_is_refused(self, server, label):
        """
        A pull request that GitHub refuses holds up no other, and the run is red.
        """
        ready(server, 1, 2)
        ready(server, 3, 4, repository=FORK)
        server.label(3)
        server.label(4)

        def refuse(request):
            if "issues/3/labels" in request.path:
                server.limit(500, "Server Error")

        server.before = refuse
        assert "500 Server Error" in label.run(code=78).stderr
        assert server.previews() == {3}
        server.before = lambda _: None
        label.run()

        assert server.previews() == {1, 2}

    def test_nobody_is_told_too_early(self, server, label):
        """
        A label that GitHub refused is told nobody as if it were there.
        """
        ready(server, 1)

        def refuse(request):
            if request.method == "POST" and request.path.endswith("/labels"):
                server.limit(500, "Server Error")

        server.before = refuse
        label.run(code=78)
        assert (server.comments[1], server.deployments) == ([], {})
        server.before = lambda _: None
        label.run()

        assert len(server.comments[1]) == len(server.deployments) == 1

    def test_never_the_whole_set(self, server, label):
        """
        Labels that others add or remove meanwhile stay as they want them.
        """
        server.labels.add("bug")
        ready(server, 1)
        ready(server, 2, repository=FORK)
        server.label(2)

        def meanwhile(request):
            if request.method == "POST" and request.path.endswith("labels"):
                server.label(1, "bug")
            if request.method == "DELETE":
                server.label(2, "bug")

        server.before = meanwhile
        label.run()

        assert server.labelled(1) == {"preview", "bug"}
        assert server.labelled(2) == {"bug"}

    @pytest.mark.parametrize("moment", [2, 6, 12, 18, 24, 30])
    def test_two_writers(self, server, label, moment):
        """
        Two writers at once give no label too many and take none away, also when everything changes
        under their hands; the next run makes up for what neither has seen, with one comment each.
        """
        ready(server, 1, 2, 3)

        def change(_request):
            if len(server.requests) == moment:
                ready(server, 4, 5)
                server.close(1)

        server.before = change
        writers = [label.start(), label.start()]
        assert [writer.wait() for writer in writers] == [0, 0]
        assert {2, 3} <= server.previews() <= {2, 3, 4}
        label.run()

        assert server.previews() == {2, 3, 4}
        taken = [event for number in (2, 3) for event in server.events[number]]
        assert {event["event"] for event in taken} == {"labeled"}
        for said in server.comments.values():
            assert len([one for one in said if one["user"]["login"] == BOT]) <= 1

    def test_limit(self, server, label):
        """
        A limit in the middle is sat out, and the run ends as if there had been none.
        """
        ready(server, 1, 2)

        def once(request):
            if request.method == "POST" and request.path.endswith("labels"):
                server.before = lambda _: None
                server.limit(429, "secondary rate limit", Retry_After="0")

        server.before = once
        said = label.run().stdout

        assert "wait for GitHub" in said
        assert server.previews() == {1, 2}

    def test_no_such_label(self, server, label):
        """
        A repository without the label is told so: the workflow may put labels on, not make them.
        """
        server.labels.discard("preview")
        ready(server, 1)
        said = label.run(code=78).stderr

        assert "create labels" in said
        assert "docs/operations.md" in said

    def test_secrets_are_not_shown(self, server, label):
        """
        Neither token is in what a run says, whether it works or fails.
        """
        ready(server, 1)
        secrets = {"CF_ACCESS_CLIENT_ID": "x" * 20, "CF_ACCESS_CLIENT_SECRET": "s3cr3t"}
        said = label.run("--json", **secrets).output
        server.tokens.clear()
        said += label.run(code=78, **secrets).output

        assert json.loads(said.splitlines()[0])
        assert "s3cr3t" not in said
        assert "ghs_workflow" not in said


@pytest.mark.parametrize("name", ["pr.jomcgi.dev", "*.*.dev", "https://*.dev", "*.dev/x", "*.dev:"])
def test_wildcard(label, name):
    """
    A name without exactly one place for the number is refused.
    """
    assert "--wildcard" in label.run(f"--wildcard={name}", code=2).stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GITHUB_TOKEN", "ghs_x\n"),
        ("GITHUB_REPOSITORY", "monolith"),
        ("GITHUB_REPOSITORY", "../other/monolith"),
        ("GITHUB_API_URL", "api.github.com"),
        ("GITHUB_API_URL", "http://api.github.com"),
        ("GITHUB_API_URL", "https://ada@api.github.com"),
        ("GITHUB_API_URL", "https://api.github.com?x"),
    ],
)
def test_environment(server, label, variable, value):
    """
    What cannot be GitHub, or would show it the token in the clear, is refused by name, unasked.
    """
    result = label.run(code=2, **{variable: value})

    assert variable in result.stderr
    assert "ghs_x" not in result.output
    assert server.requests == []
