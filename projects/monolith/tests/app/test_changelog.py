import asyncio

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app import outbox
from app.github import MOST_PAGES, PAGE, Commit, Feed, GitHub, News
from app.jobs import changelog
from app.jobs.tools import Tools
from preview.sinks.github import TOKEN, FakeGitHub
from shared.errors import PollError

ONE, TWO = "ada/harbour", "ada/tide-table"


@pytest.fixture
async def github():
    """A GitHub on loopback with two repositories of one commit each."""
    async with FakeGitHub().serve() as fake:
        for name in (ONE, TWO):
            fake.commit(name, "Begin")
        yield fake


@pytest.fixture
async def client():
    """The HTTP client that the startup point makes."""
    async with httpx2.AsyncClient() as client:
        yield client


@pytest.fixture
def tools(pool, client, github):
    """What the changelog works with."""
    return Tools(pool, feed=Feed(GitHub(client, github.url, SecretStr(TOKEN)), (ONE, TWO), 300))


async def said(pool):
    rows = await pool.fetch("SELECT channel, text FROM outbox.messages ORDER BY created_at, key")
    return [row["text"] for row in rows]


async def row(pool, name=ONE):
    return await pool.fetchrow(
        "SELECT *, not_before - now() AS wait FROM changelog.repositories WHERE name = $1", name
    )


async def test_digest(pool, tools, github):
    """
    The first look says nothing; then each change is told once, the latest commit first.
    """
    await changelog.poll(tools)
    silent = await said(pool)
    shas = [github.commit(ONE, f"Mend quay {i}\n\nBody", author="grace").sha for i in (1, 2)]
    await changelog.poll(tools)
    await changelog.poll(tools)

    assert silent == []
    [text] = await said(pool)
    assert text.splitlines() == [
        "**ada/harbour**: 2 new commits",
        f"`{shas[1][:7]}` Mend quay 2 (grace)",
        f"`{shas[0][:7]}` Mend quay 1 (grace)",
    ]
    assert (await row(pool))["last_seen"] == shas[1]


async def test_conditional(pool, tools, github):
    """
    What has not changed costs nothing: the second request is answered with 304.
    """
    await changelog.poll(tools)
    await changelog.poll(tools)

    assert [asked.status for asked in github.asked] == [200, 200, 304, 304]


async def test_empty_repository(pool, tools, github):
    """
    A repository without a commit is no trouble, and its first commits are news.
    """
    github.repositories[ONE].clear()
    await changelog.poll(tools)
    github.commit(ONE, "Begin at last")
    await changelog.poll(tools)

    assert len(await said(pool)) == 1
    assert "1 new commit\n" in (await said(pool))[0]


@pytest.mark.parametrize(
    ("many", "whole", "requests"),
    [(PAGE - 1, True, 1), (PAGE, True, 2), (250, True, 3), (PAGE * MOST_PAGES, False, 3)],
    ids=["page", "exactly-a-page", "pages", "too-many"],
)
async def test_many(pool, tools, github, many, whole, requests):
    """
    Pages are read up to the last commit seen, within a bound, and one message tells of them all.
    """
    await changelog.poll(tools)
    for i in range(many):
        github.commit(ONE, f"Commit {i}")
    github.asked.clear()
    await changelog.poll(tools)

    [text] = await said(pool)
    assert sum(ONE in asked.what for asked in github.asked) == requests
    assert (f"{many} new commits" in text) is whole
    assert text.endswith(f"… and {many - changelog.SHOWN} more")
    assert len(text) <= outbox.LONGEST_TEXT


async def test_rewritten(pool, tools, github):
    """
    Where the last commit seen is gone, that is said, and the new one is remembered.
    """
    github.commit(ONE, "To be forgotten")
    await changelog.poll(tools)
    github.repositories[ONE].clear()
    sha = github.commit(ONE, "Begin anew").sha
    await changelog.poll(tools)
    await changelog.poll(tools)

    [text] = await said(pool)
    assert text.startswith("**ada/harbour**: the history was rewritten, or more than 1 commits")
    assert (await row(pool))["last_seen"] == sha


@pytest.mark.parametrize(
    ("trouble", "wait", "reason"),
    [
        (lambda fake: fake.slow_down(900, 1), 900, "it answers 403"),
        (lambda fake: fake.exhaust(1800), 1800, "it answers 403"),
        (lambda fake: fake.fail(502), 60, "it answers 502"),
        (lambda fake: fake.fail(429), 60, "it answers 429"),
        (lambda fake: fake.fail(200), 60, "its answer is no list of commits"),
        (lambda fake: fake.repositories.pop(ONE), 60, "it answers 404"),
    ],
    ids=["secondary", "primary", "server", "unsaid", "nonsense", "gone"],
)
async def test_back_off(pool, tools, github, trouble, wait, reason):
    """
    GitHub is left alone for as long as it says, also by a process that starts meanwhile, and the
    job says what is wrong; then it goes on where it was.
    """
    await changelog.poll(tools)
    commits = github.repositories[ONE]
    github.commit(ONE, "Mend the quay")
    trouble(github)
    for _ in range(2):
        with pytest.raises(PollError, match=f"{ONE}: {reason}"):
            await changelog.poll(tools)
    found = await row(pool)
    asked = [one for one in github.asked if ONE in one.what]
    github.remaining, github.repositories[ONE] = 10, commits
    await pool.execute("UPDATE changelog.repositories SET not_before = now()")
    await changelog.poll(tools)

    assert len(asked) == 2  # the second poll did not ask
    assert wait - 30 < found["wait"].total_seconds() <= wait
    assert len(await said(pool)) == 1
    assert ((await row(pool))["failures"], (await row(pool))["last_error"]) == (0, None)


async def test_ever_later(pool, tools, github):
    """
    A repository that fails again and again is asked ever less often, and the others go on.
    """
    await changelog.poll(tools)
    github.repositories.pop(ONE)
    waits = []
    for i in range(9):
        github.commit(TWO, f"Commit {i}")
        with pytest.raises(PollError):
            await changelog.poll(tools)
        waits.append(round((await row(pool))["wait"].total_seconds(), -1))
        await pool.execute("UPDATE changelog.repositories SET not_before = now()")

    assert sorted(waits) == waits
    assert (waits[0], waits[-1]) == (60, changelog.LONGEST_WAIT_SECONDS)
    assert len(await said(pool)) == 9


async def test_no_answer(pool, client):
    """
    A GitHub that cannot be reached is left alone for a while, and the reason is kept.
    """
    feed = Feed(GitHub(client, "http://127.0.0.1:9", None), (ONE,), 300)
    with pytest.raises(PollError, match="ConnectError"):
        await changelog.poll(Tools(pool, feed))

    assert (await row(pool))["wait"].total_seconds() > 30


async def test_wrong_token(pool, tools, github, client):
    """
    A token that GitHub refuses is said, and never echoed.
    """
    feed = Feed(GitHub(client, github.url, SecretStr("wrong-token")), (ONE,), 300)
    with pytest.raises(PollError, match="it answers 401") as refused:
        await changelog.poll(Tools(pool, feed))

    assert "wrong-token" not in str(refused.value)


async def test_crash(pool, tools, github, monkeypatch):
    """
    The digest and the last commit seen are written together or not at all.
    """
    await changelog.poll(tools)
    sha = github.commit(ONE, "Mend the quay").sha

    async def crash(_connection, _message):
        raise KeyError

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "add", crash)
        with pytest.raises(KeyError):
            await changelog.poll(tools)
    between = await row(pool), await said(pool)
    await changelog.poll(tools)
    await changelog.poll(tools)

    assert (between[0]["last_seen"] == sha, between[1]) == (False, [])
    assert ((await row(pool))["last_seen"], len(await said(pool))) == (sha, 1)


async def test_two_workers(pool, tools, github):
    """
    Workers that poll at once put one digest into the outbox.
    """
    await changelog.poll(tools)
    github.commit(ONE, "Mend the quay")
    await asyncio.gather(*(changelog.poll(tools) for _ in range(5)))

    assert len(await said(pool)) == 1


async def test_overtaken(pool, tools, github):
    """
    A worker that comes late with older news says nothing, and takes nothing back.
    """
    await changelog.poll(tools)
    seen = (await row(pool))["last_seen"]
    github.commit(ONE, "First")
    older = await tools.feed.github.news(ONE, seen, None)
    latest = github.commit(ONE, "Second").sha
    await changelog.poll(tools)
    await changelog._remember(pool, tools.feed, ONE, seen, older)

    assert len(await said(pool)) == 1
    assert (await row(pool))["last_seen"] == latest


async def test_nobody_is_mentioned(pool, tools, github):
    """
    What authors write is shown as it is: no mention, no link, no Markdown, one line a commit.
    """
    await changelog.poll(tools)
    github.commit(
        ONE, "@everyone <@100> **bold** `x` https://x.y [a](b)\u202e\nmore", author="@here"
    )
    await changelog.poll(tools)

    [text] = await said(pool)
    line = text.splitlines()[1]
    assert "@everyone" not in line
    assert "@here" not in line
    assert "\\*\\*bold\\*\\*" in line
    assert "https\\://" in line
    assert "\u202e" not in line
    assert len(text.splitlines()) == 2


@given(
    st.lists(
        st.builds(
            lambda subject, author: Commit(
                sha="a" * 40, commit={"message": subject, "author": {"name": author}}
            ),
            st.text(),
            st.text(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_any_commits(commits):
    """
    Whatever commits say, the digest is one message that Discord and Postgres take.
    """
    text = changelog.digest("o" * 39 + "/" + "n" * 100, News("a" * 40, tuple(commits), True, None))

    assert outbox.shortened(text) == text
    assert "\0" not in text
    assert len(text.splitlines()) <= changelog.SHOWN + 2
