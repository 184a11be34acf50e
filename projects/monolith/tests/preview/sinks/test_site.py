import os

import httpx2
import pytest

from preview.sinks.outside import REPOSITORIES, Outside
from preview.sinks.site import Site
from tests.preview.sinks.pushing import push


@pytest.fixture
def outside(tmp_path):
    """An outside world that knows this process as production, and a preview."""
    made = Outside.make(tmp_path)
    made.names = {os.getpid(): "production", 1: "preview 7"}
    return made


@pytest.fixture
async def client(outside):
    """A client of its site."""
    async with (
        Site.serve(outside) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        yield client


async def answer(outside, content="high at noon"):
    """Post a message as the bot would."""
    settings = outside.environment()
    headers = {"Authorization": f"Bot {settings['DISCORD_BOT_TOKEN']}"}
    channel = f"{settings['DISCORD_API_URL']}/channels/{settings['CHANGELOG_CHANNEL']}/messages"
    async with httpx2.AsyncClient(headers=headers, trust_env=False) as bot:
        assert (await bot.post(channel, json={"content": content})).is_success


async def test_shares(client, outside, tmp_path):
    """
    Page and JSON say whose everything was; a preview that did nothing is there, too.
    """
    await answer(outside)
    push(outside.vault, tmp_path / "tree", "tide-table")
    received = (await client.get("/received")).json()
    page = (await client.get("/")).text

    assert received["shares"]["production"] == {"messages": 1, "requests": 1, "pushes": 1}
    assert received["shares"]["preview 7"] == {"messages": 0, "requests": 0, "pushes": 0}
    assert [one["by"] for one in received["messages"]] == ["production"]
    assert "<th>preview 7</th>" in page
    assert "high at noon" in page
    assert "tide-table" in page


async def test_say(client, outside):
    """
    Whoever says something from the page or with a program has said it to the bot.
    """
    said = await client.post("/say", data={"text": "tide"})
    slashed = await client.post("/say", data={"text": "ebb", "how": "slash"})
    received = (await client.get("/received")).json()

    first, last = outside.discord.said
    assert [one["by"] for one in received["messages"]] == ["ada", "ada"]
    assert (first.id, first.content) == (said.json()["id"], "<@100> tide")
    assert (last.id, last.content) == (slashed.json()["id"], "/notes ebb")
    assert "@monolith tide" in (await client.get("/")).text


async def test_commit(client, outside):
    """
    A commit from the page is in the repository that GitHub serves.
    """
    made = await client.post("/commit", data={"repository": REPOSITORIES[0], "message": "Mend"})
    listed = await client.get(f"/github/repos/{REPOSITORIES[0]}/commits")

    assert listed.json()[0]["sha"] == made.json()["sha"]
    assert len(listed.json()) == 2


async def test_browser(client):
    """
    A person who posts from the page is led back to it.
    """
    browser = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    posted = await client.post("/say", data={"text": "tide"}, headers=browser)

    assert (posted.status_code, posted.headers["Location"]) == (303, "/")


async def test_what_others_said_is_escaped(client, outside):
    """
    Nothing that came from elsewhere is HTML of the page, and the page runs no script but its own.
    """
    evil = "<script>alert(1)</script>"
    outside.names[os.getpid()] = evil
    await client.post("/say", data={"text": evil})
    await client.post("/commit", data={"repository": REPOSITORIES[0], "message": evil})
    await answer(outside, evil)
    page = await client.get("/")

    assert evil not in page.text
    assert page.text.count("&lt;script&gt;") >= 4
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/say", {"text": " "}),
        ("/say", {"text": "x" * 201}),
        ("/say", {"text": "tide", "how": "shout"}),
        ("/commit", {"repository": "ada/other", "message": "x"}),
        ("/commit", {"repository": REPOSITORIES[0]}),
    ],
    ids=["empty", "too-long", "unknown-way", "unknown-repository", "no-message"],
)
async def test_order_that_makes_no_sense(client, outside, path, data):
    """
    An order that cannot be done is refused, and nothing is said or committed.
    """
    refused = await client.post(path, data=data)

    assert refused.status_code == 400
    assert outside.discord.said == []
    assert [len(commits) for commits in outside.github.repositories.values()] == [1, 1]


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}],
    ids=["another-page", "another-name"],
)
async def test_another_site(client, outside, headers):
    """
    Another site's page can order nothing, whatever it calls this address.
    """
    refused = await client.post("/say", data={"text": "tide"}, headers=headers)

    assert (refused.status_code, outside.discord.said) == (403, [])


async def test_files(client):
    """
    The page's style and script are served.
    """
    for name in ("page.css", "page.js"):
        assert f"/{name}" in (await client.get("/")).text
        assert (await client.get(f"/{name}")).is_success
