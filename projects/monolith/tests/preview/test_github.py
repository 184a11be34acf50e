import re
from contextlib import closing

import pytest
from aiohttp import web
from pydantic import SecretStr

from preview.console import Console
from preview.errors import GitHubError, RateLimitError
from preview.github import GitHub
from preview.label import shut
from tests.fake_github import BOT, REPOSITORY, RIGHTS, TOKEN, FakeGitHub


@pytest.fixture
def ask(server):
    """Make clients of the server, with whatever token."""
    made = []

    def client(token=TOKEN, repository=REPOSITORY):
        made.append(GitHub(repository, SecretStr(token), Console(), url=server.url))
        return made[-1]

    yield client
    for each in made:
        each.__exit__(None, None, None)


class TestReading:
    """What is read is whole."""

    def test_pages(self, server, ask):
        """
        A list is read to its end, however GitHub cuts it into pages.
        """
        numbers = list(range(1, 8))
        for number in numbers:
            server.open(number)
        server.largest_page = 3

        assert [pull["number"] for pull in ask().open_pulls()] == numbers

    @pytest.mark.parametrize("happens", ["closed", "reopened"])
    def test_list_that_moves(self, server, ask, happens):
        """
        A pull request that comes or goes while page follows page hides none, and doubles none.
        """
        for number in range(1, 8):
            server.open(number)
            server.pass_time(minutes=1)
        server.largest_page = 2
        if happens == "reopened":
            server.close(1)

        def meanwhile(request):
            if "page=2" in request.query_string:
                server.before = lambda _: None
                (server.close if happens == "closed" else server.reopen)(1)

        server.before = meanwhile
        found = [pull["number"] for pull in ask().open_pulls()]

        assert found == ([1] if happens == "reopened" else []) + [2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize(
        "link",
        ["{other}/repos/ada/monolith/pulls?page=2", "http://x@{own}/pulls?page=2", "//{at}/pulls",
         "https://{own}/repos/ada/monolith/pulls?page=2", "/pulls?page=2", "http://["],
        ids=["host", "user", "no scheme", "scheme", "no host", "no URL"],
    )  # fmt: skip
    def test_next_page_elsewhere(self, server, ask, link):
        """
        The token is shown to nobody else, whatever a page says where the next one is.
        """
        server.open(7)
        with FakeGitHub().running() as other:
            at, own = other.url.partition("://")[2], server.url.partition("://")[2]
            said = f'<{link.format(other=other.url, at=at, own=own)}>; rel="next"'
            server.limits.append(lambda: web.json_response([], headers={"Link": said}))
            with pytest.raises(GitHubError, match="next page is elsewhere"):
                ask().open_pulls()

        assert other.requests == []
        assert len(ask().open_pulls()) == 1

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect(self, server, ask, status):
        """
        No redirect is followed.
        """
        with FakeGitHub().running() as other:
            server.limit(status, "Moved", Location=f"{other.url}/repos/ada/monolith/pulls")
            with pytest.raises(GitHubError, match=str(status)):
                ask().open_pulls()

        assert other.requests == []
        assert len(server.requests) == 1

    def test_pages_in_a_circle(self, server, ask):
        """
        Pages that lead back to one that was read are a refusal, not a list without end.
        """
        server.before = lambda request: server.limits.append(
            lambda: web.json_response([], headers={"Link": f'<{request.url}>; rel="next"'})
        )
        with pytest.raises(GitHubError, match="next page is elsewhere"):
            ask().open_pulls()

    def test_page_inside_an_object(self, server, ask):
        """
        A list inside an object is read to its end too.
        """
        sha = server.open(7)
        for name in ("image", "make", "green"):
            server.build(7, name=name)
        server.largest_page = 2
        runs = ask().pages(f"commits/{sha}/check-runs", "check_runs")

        assert sorted(run["name"] for run in runs) == ["green", "image", "make"]

    def test_closed(self, server, ask):
        """
        A closed pull request is not among the open ones.
        """
        server.open(7)
        server.open(8)
        server.close(7)

        assert [pull["number"] for pull in ask().open_pulls()] == [8]

    def test_clock(self, server, ask):
        """
        The time is GitHub's, so that it can be compared with the times of its events.
        """
        server.pass_time(days=400)
        github = ask()
        github.open_pulls()

        assert github.now == server.now

    def test_viewer(self, server, ask):
        """
        The token's owner is known, also for a workflow's token, which REST tells nothing.
        """
        server.tokens["ghp_ada"] = ("ada", dict(RIGHTS))

        assert (ask().viewer(), ask("ghp_ada").viewer()) == (BOT, "ada")


class TestWriting:
    """What is written is one label."""

    def test_one_label(self, server, ask):
        """
        A label is added and removed alone: what others put there meanwhile stays.
        """
        server.open(7)
        server.label(7, "preview-keep")
        github = ask()
        github.add_label(7)
        assert server.labelled(7) == {"preview", "preview-keep"}
        server.labels.add("bug")
        server.label(7, "bug")
        assert github.remove_label(7) is True
        assert github.remove_label(7) is False

        assert server.labelled(7) == {"preview-keep", "bug"}
        assert all(not write.startswith("PUT") for write in server.writes)

    def test_label_twice(self, server, ask):
        """
        A label that is there already is no event, so two writers leave one.
        """
        server.open(7)
        ask().add_label(7)
        ask().add_label(7)

        assert [event["event"] for event in server.events[7]] == ["labeled"]


class TestRefusals:
    """What GitHub refuses ends in a sentence."""

    def test_expired_token(self, server, ask):
        """
        An unknown token ends in a sentence that names the remedy and not the token.
        """
        with pytest.raises(GitHubError, match=r"401 Bad credentials.*GITHUB_TOKEN") as caught:
            ask("ghp_wrong").open_pulls()

        assert "ghp_wrong" not in str(caught.value)
        assert server.writes == []

    def test_no_permission(self, server, ask):
        """
        A token that may not write is told which permission it lacks; nothing was written.
        """
        server.open(7)
        server.tokens["ghs_reader"] = (BOT, {**RIGHTS, "pull_requests": "read"})
        with pytest.raises(GitHubError, match=r"403.*permission: pull_requests=write"):
            ask("ghs_reader").add_label(7)
        assert server.previews() == set()
        ask().add_label(7)

        assert server.previews() == {7}

    @pytest.mark.parametrize("rights", [{}, RIGHTS], ids=["unseen", "elsewhere"])
    def test_not_found(self, server, ask, rights):
        """
        A repository that the token may not see, or that is not there, is never an empty one.
        """
        server.tokens["ghs_other"] = (BOT, dict(rights))
        repository = REPOSITORY if not rights else "ada/other"
        with pytest.raises(GitHubError, match=r"404 Not Found.*GITHUB_REPOSITORY"):
            ask("ghs_other", repository).open_pulls()

    def test_renamed(self, server, ask):
        """
        A repository with another name now is not followed, but named.
        """
        server.limit(301, "Moved Permanently")
        with pytest.raises(GitHubError, match="another name now"):
            ask().open_pulls()

    def test_no_json(self, server, ask):
        """
        A proxy's page in place of an answer is a refusal, not a crash.
        """
        server.limits.append(lambda: web.Response(text="<html>"))
        with pytest.raises(GitHubError, match="not JSON"):
            ask().open_pulls()

    def test_broken_answer(self, server, ask):
        """
        An answer that cannot be unpacked is a refusal, not a crash.
        """
        for _ in range(3):
            headers = {"Content-Encoding": "gzip"}
            server.limits.append(
                lambda headers=headers: web.Response(body=b"no gzip", headers=headers)
            )
        with pytest.raises(GitHubError, match="no answer"):
            ask().open_pulls()

    def test_no_list(self, server, ask):
        """
        Another JSON than was asked for is a refusal too.
        """
        for said in ({"message": "Welcome"}, 7, None):
            server.limits.append(lambda said=said: web.json_response(said))
            with pytest.raises(GitHubError, match=r"no list.*GITHUB_API_URL"):
                ask().open_pulls()

    def test_label_of_another_case(self, server, ask):
        """
        A label that the repository spells otherwise, which GitHub takes for the same, is told.
        """
        server.open(7)
        server.labels = {"Preview"}
        with pytest.raises(GitHubError, match=r"its label is 'Preview'.*Rename it to 'preview'"):
            ask().add_label(7)

    def test_nobody_listens(self):
        """
        Silence is asked three times where that is harmless, then it is a refusal.
        """
        github = GitHub("a/b", SecretStr("x"), Console(), url="http://127.0.0.1:1")
        with closing(github._http), pytest.raises(GitHubError, match=r"no answer \(ConnectError\)"):
            github.open_pulls()


class TestRate:
    """GitHub's limits are kept."""

    @pytest.mark.parametrize(
        ("status", "message", "headers"),
        [
            (429, "You have exceeded a secondary rate limit", {"Retry_After": "0"}),
            (403, "You have exceeded a secondary rate limit", {"Retry_After": "1"}),
        ],
        ids=["secondary-429", "secondary-403"],
    )
    def test_wait(self, server, ask, capsys, status, message, headers):
        """
        A limit is sat out, visibly, and then the answer comes.
        """
        server.open(7)
        server.limit(status, message, **headers)

        assert [pull["number"] for pull in ask().open_pulls()] == [7]
        assert "wait for GitHub" in capsys.readouterr().out

    def test_reset(self, server, ask, capsys):
        """
        The hourly limit is sat out until it is reset by GitHub's clock, not by ours.
        """
        server.open(7)
        server.pass_time(days=9)
        reset = str(int(server.now.timestamp()))
        server.limit(403, "API rate limit exceeded", X_RateLimit_Remaining="0",
                     X_RateLimit_Reset=reset)  # fmt: skip

        assert [pull["number"] for pull in ask().open_pulls()] == [7]
        assert "wait for GitHub" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "headers",
        [
            {"Retry_After": "301"},
            {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "99999999999"},
        ],
        ids=["secondary", "primary"],
    )
    def test_too_long(self, server, ask, headers):
        """
        A longer wait than five minutes is refused at once, with the time to come back.
        """
        server.limit(403, "rate limit", **headers)
        with pytest.raises(RateLimitError, match=r"within 300 s.*until \d\d:\d\d:\d\d UTC"):
            ask().open_pulls()

    @pytest.mark.parametrize(
        "headers",
        [
            {"Retry_After": "9" * 30},
            {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "9" * 400},
        ],
        ids=["secondary", "primary"],
    )
    def test_for_ever(self, server, ask, headers):
        """
        A limit beyond any calendar is refused like one of an hour.
        """
        server.limit(403, "rate limit", **headers)
        with pytest.raises(RateLimitError):
            ask().open_pulls()

    @pytest.mark.parametrize("reset", ["soon", "nan", ""])
    def test_no_time(self, server, ask, monkeypatch, reset):
        """
        A limit that does not say until when is sat out as long as GitHub asks for then.
        """
        monkeypatch.setattr("preview.github._PAUSE", 0)
        server.open(7)
        server.limit(403, "rate limit", X_RateLimit_Remaining="0", X_RateLimit_Reset=reset)

        assert len(ask().open_pulls()) == 1

    def test_too_often(self, server, ask, monkeypatch):
        """
        Several waits count together.
        """
        monkeypatch.setattr("preview.github._LONGEST_WAIT", 1.5)
        for _ in range(2):
            server.limit(429, Retry_After="1")
        with pytest.raises(RateLimitError):
            ask().open_pulls()

        assert len(server.requests) == 2

    def test_no_limit(self, server, ask):
        """
        A plain 403 is not waited for.
        """
        server.limit(403, "Resource not accessible by integration")
        with pytest.raises(GitHubError):
            ask().open_pulls()

        assert len(server.requests) == 1

    def test_away(self, server, ask):
        """
        A gateway error is asked again where that is harmless, and only there.
        """
        server.open(7)
        github = ask()
        server.limit(502)
        server.limit(503)
        assert len(github.open_pulls()) == 1
        server.limit(502)
        with pytest.raises(GitHubError, match="502"):
            github.add_label(7)

        assert server.previews() == set()


class TestShut:
    """The kill switch."""

    def test_shut(self, server, ask, capsys):
        """
        Every open pull request loses the label, forks and other branches too, and no other label.
        """
        for number in range(1, 6):
            server.open(number, base="main" if number % 2 else "release")
            server.label(number)
            server.label(number, "preview-keep")
        server.open(6, repository="eve/monolith")
        server.label(6)
        server.open(7)
        server.largest_page = 2

        assert shut(ask(), "Access is open") == [1, 2, 3, 4, 5, 6]
        assert server.previews() == set()
        assert server.labelled(1) == {"preview-keep"}
        assert capsys.readouterr().out.count("Access is open") == 6

    def test_somebody_labels_meanwhile(self, server, ask):
        """
        A label that is put on while it shuts goes too.
        """
        server.open(7)
        server.open(8)
        server.label(7)

        def meanwhile(request):
            if request.method == "DELETE":
                server.before = lambda _: None
                server.label(8)

        server.before = meanwhile

        assert shut(ask(), "Access is open") == [7, 8]
        assert server.previews() == set()

    def test_one_is_refused(self, server, ask):
        """
        One that GitHub refuses keeps none of the others open, and is tried again.
        """
        for number in (7, 8, 9):
            server.open(number)
            server.label(number)

        def refuse_once(request):
            if request.method == "DELETE":
                server.before = lambda _: None
                server.limit(500, "Server Error")

        server.before = refuse_once

        assert shut(ask(), "Access is open") == [7, 8, 9]
        assert server.previews() == set()

    def test_refused_for_good(self, server, ask):
        """
        Where a label stays on, that is an error, after all the others are off.
        """
        for number in (7, 8, 9):
            server.open(number)
            server.label(number)

        def refuse(request):
            if re.search("issues/7/", request.path):
                server.limit(500, "Server Error")

        server.before = refuse
        with pytest.raises(GitHubError, match="500"):
            shut(ask(), "Access is open")

        assert server.previews() == {7}

    def test_hidden_refusal(self, server, ask):
        """
        A 404 that hides a lack of rights is not taken for a label that is off.
        """
        server.open(7)
        server.label(7)

        def hide(request):
            if request.method == "DELETE":
                server.limit(404, "Not Found")

        server.before = hide
        with pytest.raises(GitHubError, match="404, and the label is still there"):
            shut(ask(), "Access is open")

        assert server.previews() == {7}

    def test_added_again_and_again(self, server, ask):
        """
        Where somebody adds the label each time, that is an error that says so.
        """
        server.open(7)
        server.label(7)
        server.before = lambda _: server.label(7)
        with pytest.raises(GitHubError, match="somebody adds it again"):
            shut(ask(), "Access is open")

    @pytest.mark.parametrize(("status", "wait"), [(403, None), (403, "999")])
    def test_no_comment(self, server, ask, status, wait):
        """
        Where GitHub takes no comment, the labels are off all the same, and are named.
        """
        for number in (7, 8):
            server.open(number)
            server.label(number)

        def refuse(request):
            if request.path.endswith("/comments"):
                server.limit(status, "no", **({"Retry_After": wait} if wait else {}))

        server.before = refuse

        assert shut(ask(), "Access is open") == [7, 8]
        assert server.previews() == set()
