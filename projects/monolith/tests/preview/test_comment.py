import asyncio
import re
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from app.problems import StartupGate
from preview.comment import MARKER
from preview.console import Console
from preview.github import GitHub
from preview.label import shut
from tests.fake_github import BOT, REPOSITORY, TOKEN
from tests.fake_preview import CLIENT, NUMBER, FakePreview, attestation


def startup_answer():
    """Return what the app itself answers before its startup has finished."""
    said = []

    async def never(*_):
        raise AssertionError

    async def send(message):
        said.append(message)

    state = SimpleNamespace(state=SimpleNamespace(ready=False))
    asyncio.run(StartupGate(never)({"type": "http", "app": state, "headers": []}, never, send))
    return said[0]["status"], said[1]["body"].decode()


@pytest.fixture
def app(tmp_path):
    """What answers where preview 7 should be."""
    with FakePreview().running(tmp_path) as fake:
        yield fake


@pytest.fixture
def told(server, label, app, tmp_path):
    """Run the command with a service token; gives what the comment on 7 says then."""

    def run(**variables):
        label.wildcard = app.wildcard
        given = {**CLIENT, "SSL_CERT_FILE": str(tmp_path / "ca.pem")} | variables
        label.run(**given)
        ours = [
            said["body"]
            for said in server.comments[NUMBER]
            if said["user"]["login"] == BOT and said["body"].startswith(MARKER)
        ]
        assert len(ours) == 1
        return ours[0]

    return run


@pytest.fixture
def head(server):
    """Pull request 7, whose image exists; gives its head."""
    sha = server.open(NUMBER)
    server.build(NUMBER)
    return sha


def row(body, name):
    """Return what the comment's table says of one thing."""
    (value,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", body, re.MULTILINE)
    return value


class TestState:
    """The state is what the preview itself says through Access, and no more than that."""

    def test_ready(self, told, head, app):
        """
        Ready is said only when the head itself answers; then also whose data and what is muted.
        """
        said = attestation(head)
        app.answers = (200, said)
        body = told()

        assert row(body, "state") == f"ready: `{head[:7]}` answers"
        assert row(body, "where") == f"https://127.0.0.7:{app.wildcard.partition(':')[2]}"
        assert row(body, "whose data") == (
            "production's, a clone of its own, made harmless at 2026-11-24 13:00 UTC"
        )
        assert row(body, "muted") == "scheduler loop, discord bot"
        assert row(body, "audit") == f"`{said['digest']}`"
        for part in ("CF-Access-Client-Id", "label `preview` off", "preview-keep", "3 days"):
            assert part in body
        assert app.asked == ["/api/preview"]

    def test_older_commit(self, told, head, app, server):
        """
        An older commit that answers is not ready: the newest is on its way.
        """
        app.answers = (200, attestation(head))
        assert "ready" in row(told(), "state")
        new = server.push(NUMBER)
        server.build(NUMBER)
        state = row(told(), "state")

        assert "ready" not in state
        assert f"`{head[:7]}` answers, `{new[:7]}` comes" in state

    @pytest.mark.parametrize(
        ("answers", "state"),
        [
            ((404, ""), "cloning: there is no route yet"),
            ((503, "no healthy upstream"), "starting: clone and route are there"),
            (startup_answer(), "starting: the app is there"),
            ((200, "<html>"), "failed: what answers is not this preview"),
            ((200, []), "failed: what answers is not this preview"),
            ((200, {"mode": "production"}), "failed: what answers is not this preview"),
            ((200, {"mode": "preview", "pr_number": 8}), "failed: what answers is not"),
            ((200, {"mode": "preview", "pr_number": 7}), "one that does not say which answers"),
            ((530, "error code: 1033"), "not known, 127.0.0.7"),
            ((302, ""), "not known, Access refuses the service token (302)"),
            ((401, ""), "not known, Access refuses the service token (401)"),
        ],
        ids=["no-route", "no-app", "starting", "page", "list", "production", "other-number",
             "no-commit", "tunnel", "login", "refused"],
    )  # fmt: skip
    def test_not_ready(self, told, head, app, answers, state):
        """
        Whatever else answers is not ready, and is told as what it is.
        """
        app.answers = answers
        said = row(told(), "state")

        assert state in said
        assert "ready" not in said

    def test_origin_refuses(self, told, head, app):
        """
        A refusal by the preview itself is told apart from one by Access.
        """
        app.answers, app.headers = (403, ""), {"X-Origin-Access": "denied"}

        assert row(told(), "state") == "not known, the preview refuses the service token (403)"

    def test_no_token(self, told, head, app):
        """
        Without a service token nobody is asked, and readiness is not known.
        """
        app.answers = (200, attestation(head))
        state = row(told(CF_ACCESS_CLIENT_SECRET=""), "state")

        assert state == "not known, there is no service token to ask with"
        assert app.asked == []

    def test_wrong_token(self, told, head, app):
        """
        A wrong service token is not a preview that does not start.
        """
        app.answers = (200, attestation(head))

        assert "Access refuses the service token" in row(told(CF_ACCESS_CLIENT_ID="x"), "state")

    def test_too_long(self, told, head, app, server):
        """
        What takes too long says where to look.
        """
        app.answers = (404, "")
        assert "too long" not in told()
        server.pass_time(minutes=21)
        body = told()

        assert "It takes too long" in row(body, "state")
        assert "describe pod -l monolith.jomcgi.dev/pr=7" in body

    def test_something_runs(self, told, head, app):
        """
        A startup point that runs in a preview is named.
        """
        said = attestation(head)
        said["startup_points"][0]["runs"] = True
        app.answers = (200, said)
        body = told()

        assert row(body, "**not muted**") == "scheduler loop"
        assert row(body, "muted") == "discord bot"

    @pytest.mark.parametrize("part", ["digest", "head_sha", "neutralized", "startup_points"])
    def test_code_of_the_pull_request_writes_nothing(self, told, head, app, part):
        """
        The attestation is the pull request's own word; none of its text gets into our comment.
        """
        evil = "@everyone [click](https://evil.example) | `"
        said = attestation(head)
        app.answers = (200, said | {part: evil})
        assert "evil" not in told()
        nested = {"neutralized": {"at": evil}, "startup_points": [{"point": evil, "runs": True}]}
        app.answers = (200, said | {part: nested.get(part, [evil])})

        assert "evil" not in told()

    def test_endless_answer(self, told, head, app):
        """
        An endless answer is not read to its end.
        """
        app.answers = (200, attestation(head) | {"more": "x" * 1_000_000})

        assert "failed" in row(told(), "state")

    def test_dripping_answer(self, told, head, app, monkeypatch):
        """
        An answer that comes letter by letter keeps the one writer of labels from nobody else.
        """
        monkeypatch.setattr("preview.access_edge.TIMEOUT_SECONDS", 1)
        app.drips = True

        assert "ready" not in row(told(), "state")

    @pytest.mark.parametrize(
        "body",
        [
            "[" * 60_000,
            '{"mode":' * 20_000,
            {"mode": "preview", "pr_number": 7, "startup_points": [{"point": [], "runs": True}]},
        ],
        ids=["lists", "objects", "odd point"],
    )
    def test_answer_that_breaks_readers(self, told, head, app, body):
        """
        Code of a pull request cannot end the run that looks at it, whatever it answers.
        """
        app.answers = (200, body)

        assert "ready" not in row(told(), "state")

    def test_text_of_a_broken_answer(self, told, head, app):
        """
        What a preview answers against all rules is not quoted either.
        """
        app.headers = {"Content-Length": "3, evil"}
        app.answers = (200, attestation(head))
        state = row(told(), "state")

        assert "no answer" in state
        assert "evil" not in state


class TestComment:
    """One comment, ours, changed only when it says something else."""

    def test_in_place(self, told, head, app, server):
        """
        The same comment is changed when the state changes, and left alone when it does not.
        """
        app.answers = (404, "")
        told()
        first = server.comments[NUMBER][0]["id"]
        app.answers = (200, attestation(head))
        told()
        writes = list(server.writes)
        told()

        assert server.comments[NUMBER][0]["id"] == first
        assert server.writes == writes

    def test_marker_of_somebody_else(self, told, head, server):
        """
        A comment that copies our marker is not ours, and is left alone.
        """
        copied = f"{MARKER}\nThis preview is at https://evil.example"
        server.comment(NUMBER, copied, "eve")
        told()

        assert server.comments[NUMBER][0]["body"] == copied
        assert len(server.comments[NUMBER]) == 2

    def test_other_comment_of_ours(self, told, head, server):
        """
        What other workflows say under the same name is left alone.
        """
        server.comment(NUMBER, "Coverage: 100 %", BOT)
        told()
        bodies = [said["body"] for said in server.comments[NUMBER]]

        assert [body.splitlines()[0] for body in bodies] == ["Coverage: 100 %", MARKER]

    def test_two_of_ours(self, told, head, server):
        """
        Of two comments that two writers made, the first stays.
        """
        first = server.comment(NUMBER, f"{MARKER}\nold", BOT)
        server.comment(NUMBER, f"{MARKER}\nold", BOT)
        told()

        assert [said["id"] for said in server.comments[NUMBER]] == [first["id"]]

    def test_beyond_the_first_page(self, told, head, server):
        """
        The comment is found among any number of others.
        """
        server.largest_page = 3
        for _ in range(7):
            server.comment(NUMBER, "Looks good")
        told()
        told()

        assert len(server.comments[NUMBER]) == 8

    def test_line_ends(self, told, head, server):
        """
        A comment that GitHub gives back with other line ends is the same comment.
        """
        said = server.comments[NUMBER]
        told()
        said[0]["body"] = said[0]["body"].replace("\n", "\r\n")
        writes = list(server.writes)
        told()

        assert server.writes == writes

    def test_queue(self, server, label):
        """
        Who waits reads behind whom, and what they read changes as the queue does.
        """
        for number in range(1, 6):
            server.pass_time(minutes=1)
            server.open(number)
            server.build(number)
        label.run()
        assert "Before it: #1, #2, #3, #4." in server.comments[5][0]["body"]
        server.close(2)
        label.run()

        assert "Before it: #1, #3, #4." in server.comments[5][0]["body"]

    def test_opt_out(self, server, label, head):
        """
        Whoever took the label off reads that it stays off, and how to have it again.
        """
        label.run()
        server.unlabel(NUMBER)
        label.run()
        body = server.comments[NUMBER][0]["body"]

        assert "a person took the label `preview` off, so it stays off" in body
        assert "Add the label `preview`" in body

    def test_nothing_to_say(self, server, label):
        """
        Who never had to do with a preview gets no comment.
        """
        server.open(1, draft=True)
        server.open(2, author="renovate[bot]")
        server.open(3, files=("docs/README.md",))
        server.open(4, repository="eve/monolith")
        label.run()

        assert {number: said for number, said in server.comments.items() if said} == {}

    def test_waits_no_longer(self, server, label):
        """
        Who waited, and no longer does, does not read that they wait.
        """
        server.open(1)
        label.run()
        assert "waits for the image" in server.comments[1][0]["body"]
        server.draft(1, draft=True)
        label.run()

        assert "None while it is a draft" in server.comments[1][0]["body"]

    def test_closed(self, server, label, head):
        """
        A closed pull request says that its preview goes; one without a comment stays silent.
        """
        server.open(1, draft=True)
        label.run()
        server.close(NUMBER)
        server.close(1)
        label.run()

        assert "Closed, so the preview is torn down" in server.comments[NUMBER][0]["body"]
        assert server.comments[1] == []

    def test_closed_long_ago(self, server, label, head):
        """
        What was closed long ago is not asked about at every run.
        """
        label.run()
        server.close(NUMBER)
        server.pass_time(hours=3)
        before = len(server.requests)
        label.run()

        assert not [asked for asked in server.requests[before:] if "issues/7/" in asked]

    def test_kill_switch(self, server, label, head):
        """
        The kill switch says why.
        """
        label.run()
        with GitHub(REPOSITORY, SecretStr(TOKEN), Console(), url=server.url) as github:
            shut(github, "Access is open")

        assert "Taken away: Access is open." in server.comments[NUMBER][0]["body"]
        assert server.previews() == set()


class TestDeployment:
    """GitHub's own button."""

    def test_button(self, told, head, app, server):
        """
        A preview is one transient deployment of its head, whose status follows its state.
        """
        told()
        (made,) = server.deployments.values()
        assert server.state_of(made["id"]) == "in_progress"
        app.answers = (200, attestation(head))
        told()
        status = server.statuses[made["id"]][-1]

        assert list(server.deployments) == [made["id"]]
        assert (status["state"], status["environment_url"]) == (
            "success",
            f"https://{app.wildcard.replace('*', '7')}",
        )
        assert made["sha"] == head
        assert (made["environment"], made["task"]) == ("preview", "preview-pr-7")
        assert made["transient_environment"] is True
        assert made["production_environment"] is False

    def test_push(self, told, head, server):
        """
        A push retires the old commit's deployment and makes one of the new.
        """
        told()
        (old,) = server.deployments
        new = server.push(NUMBER)
        told()

        assert [made["sha"] for made in server.deployments.values()] == [new]
        assert server.state_of(old) == "inactive"

    @pytest.mark.parametrize("end", ["close", "unlabel"])
    def test_end(self, told, head, server, end):
        """
        It is inactive, and gone, when the pull request is closed or loses the label.
        """
        told()
        (made,) = server.deployments
        getattr(server, end)(NUMBER)
        told()

        assert server.state_of(made) == "inactive"
        assert server.deployments == {}

    def test_others(self, told, head, server):
        """
        Deployments that are not of previews are left alone.
        """
        body = {"ref": head, "auto_merge": False, "required_contexts": []}
        others = [
            server.deployments.setdefault(number, {"id": number, "sha": head, **body, **how})
            for number, how in [
                (1, {"environment": "production", "task": "deploy"}),
                (2, {"environment": "preview", "task": "deploy"}),
            ]
        ]
        told()

        assert [server.deployments[other["id"]] for other in others] == others
        assert len(server.deployments) == 3

    def test_stranger(self, told, head, app, server):
        """
        A preview that somebody else answers for is a failure.
        """
        app.answers = (200, {"mode": "production"})
        told()

        assert [server.state_of(made) for made in server.deployments] == ["failure"]
