import os
from datetime import UTC, datetime

import httpx2
import pytest

from preview.sinks.github import HOURLY, TOKEN, FakeGitHub

COMMITS = "/repos/ada/harbour/commits"


@pytest.fixture
async def github():
    """A GitHub on loopback with three commits in one repository."""
    async with FakeGitHub().serve() as fake:
        for day in (1, 2, 3):
            fake.commit("ada/harbour", f"day {day}", at=datetime(2026, 11, day, tzinfo=UTC))
        yield fake


@pytest.fixture
async def client(github):
    """A client of it with a token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(base_url=github.url, headers=headers, trust_env=False) as client:
        yield client


def messages(response):
    """Return what the commits of an answer say."""
    return [entry["commit"]["message"] for entry in response.json()]


async def test_commits(client, github):
    """
    Commits come newest first, each with its SHA, author, date and parent.
    """
    newest, middle, _ = (await client.get(COMMITS)).json()

    assert newest["sha"] == github.repositories["ada/harbour"][-1].sha
    assert newest["commit"]["message"] == "day 3"
    assert newest["commit"]["author"]["date"] == "2026-11-03T00:00:00Z"
    assert [parent["sha"] for parent in newest["parents"]] == [middle["sha"]]


async def test_pages(client):
    """
    Pages lead to one another by the Link header, and end.
    """
    pages, url = [], f"{COMMITS}?per_page=2"
    while url:
        page = await client.get(url)
        pages.append(messages(page))
        url = page.links.get("next", {}).get("url")

    assert pages == [["day 3", "day 2"], ["day 1"]]
    assert page.links["prev"]["url"].endswith("page=1")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"since": "2026-11-02T00:00:00Z"}, ["day 3", "day 2"]),
        ({"sha": "main", "per_page": "1"}, ["day 3"]),
        ({"page": "9"}, []),
    ],
    ids=["since", "branch", "past-the-end"],
)
async def test_queries(client, query, found):
    """
    `since`, `sha` and the page choose what is listed.
    """
    assert messages(await client.get(COMMITS, params=query)) == found


async def test_from_a_commit(client, github):
    """
    A SHA lists that commit and those before it.
    """
    middle = github.repositories["ada/harbour"][1]

    assert messages(await client.get(COMMITS, params={"sha": middle.sha})) == ["day 2", "day 1"]


async def test_nothing_new(client, github):
    """
    With its ETag an unchanged list is a 304 without a body, free of charge; a new commit ends that.
    """
    first = await client.get(COMMITS)
    tag = {"If-None-Match": first.headers["ETag"]}
    same = await client.get(COMMITS, headers=tag)
    github.commit("ada/harbour", "day 4")
    changed = await client.get(COMMITS, headers=tag)

    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["X-RateLimit-Remaining"] == str(HOURLY - 1)
    assert messages(changed)[0] == "day 4"


async def test_primary_limit(client, github):
    """
    Once the hour's limit is used up the answer is 403 until its reset, which it names.
    """
    github.exhaust(3600)
    limited = await client.get(COMMITS)
    github.exhaust(0)

    assert (limited.status_code, limited.headers["X-RateLimit-Remaining"]) == (403, "0")
    assert int(limited.headers["X-RateLimit-Reset"]) > datetime.now(UTC).timestamp() + 3000
    assert (await client.get(COMMITS)).is_success


async def test_secondary_limit(client, github):
    """
    On request the next answer is the secondary limit's, with Retry-After.
    """
    github.slow_down(60)
    limited = await client.get(COMMITS)

    assert (limited.status_code, limited.headers["Retry-After"]) == (403, "60")
    assert limited.headers["X-RateLimit-Remaining"] != "0"
    assert (await client.get(COMMITS)).is_success


async def test_what_is_not_there(client, github):
    """
    An unknown repository or SHA is a 404, an empty repository a 409, a wrong query a 422.
    """
    github.create("ada/empty")
    paths = ["/repos/ada/other/commits", "/repos/ada/empty/commits"]
    paths += [f"{COMMITS}?sha=0", f"{COMMITS}?page=x"]

    assert [(await client.get(path)).status_code for path in paths] == [404, 409, 404, 422]


async def test_failure(client, github):
    """
    On request the next answer is an error.
    """
    github.fail(502)

    assert [(await client.get(COMMITS)).status_code for _ in range(2)] == [502, 200]


async def test_token(client, github):
    """
    A wrong token is refused, and every request names the process that made it.
    """
    client.headers["Authorization"] = "Bearer other"
    await client.get(COMMITS)

    assert [(asked.status, asked.process) for asked in github.asked] == [(401, os.getpid())]
