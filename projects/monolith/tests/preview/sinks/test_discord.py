import asyncio
import os
from contextlib import asynccontextmanager

import httpx2
import pytest
from aiohttp import ClientSession

from preview.sinks.discord import FakeDiscord
from preview.sinks.gateway import Op
from preview.sinks.payloads import BOT, CHANNEL, TOKEN

NOW_MS = 1_795_000_000_000  # well into 2026


@pytest.fixture
async def fake():
    """A Discord on loopback."""
    async with FakeDiscord().serve() as served:
        yield served


@pytest.fixture
async def rest(fake):
    """A client of its REST API with the bot's token."""
    headers = {"Authorization": f"Bot {TOKEN}"}
    async with httpx2.AsyncClient(base_url=fake.url, headers=headers, trust_env=False) as client:
        yield client


async def post(rest, content, **more):
    """Post a message to the only channel."""
    body = {"content": content, **more}
    return await rest.post(f"/channels/{CHANNEL}/messages", json=body)


async def once(rest, content, nonce="n1"):
    """Post a message that says how to know it again."""
    return await post(rest, content, nonce=nonce, enforce_nonce=True)


async def test_same_nonce(rest, fake):
    """
    The same nonce with enforce_nonce gets the message that is there; another makes a new one.
    """
    first, again, other = [(await once(rest, "tide", nonce)).json() for nonce in ("n1", "n1", "n2")]

    assert first == again
    assert other["id"] != first["id"]
    assert [(one.nonce, one.asked) for one in fake.posted] == [("n1", 2), ("n2", 1)]


async def test_nonce_that_is_not_enforced(rest, fake):
    """
    A nonce alone keeps nothing from being said twice, as on Discord.
    """
    for _ in range(2):
        await post(rest, "tide", nonce="n1")

    assert [one.asked for one in fake.posted] == [1, 1]


async def test_memory_of_nonces_ends(rest, fake):
    """
    After its memory has ended the same nonce makes a new message.
    """
    await once(rest, "tide")
    fake.forget_nonces()
    await once(rest, "tide")
    fake.nonce_memory = 0
    await once(rest, "tide")

    assert len(fake.posted) == 3


@pytest.mark.parametrize(
    "body",
    [{"content": ""}, {"content": "x" * 2001}, {"content": "x", "nonce": "n" * 26}],
    ids=["empty", "too-long", "nonce-too-long"],
)
async def test_form_that_is_invalid(rest, fake, body):
    """
    What Discord would not take is not taken, and nothing is said.
    """
    refused = await rest.post(f"/channels/{CHANNEL}/messages", json=body)

    assert (refused.status_code, refused.json()["code"]) == (400, 50035)
    assert fake.posted == []
    assert (await post(rest, "x" * 2000, nonce="n" * 25)).is_success


async def test_who_posted(rest, fake):
    """
    What was posted names the process that did, when, and what it answers.
    """
    answered = await fake.mention("tide")
    await post(rest, "high at noon", message_reference={"message_id": answered})
    (posted,) = fake.posted

    assert (posted.process, posted.reply_to) == (os.getpid(), answered)
    assert posted.at >= fake.said[0].at
    assert {asked.process for asked in fake.asked} == {os.getpid()}


async def test_ids(rest, fake):
    """
    Ids are snowflakes: distinct, rising, and with the time in them.
    """
    ids = [int(await fake.say("x")) for _ in range(50)]
    ids += [int((await post(rest, "x")).json()["id"]) for _ in range(50)]

    assert sorted(set(ids)) == ids
    assert (ids[0] >> 22) + 1_420_070_400_000 > NOW_MS


async def test_rate_limit(rest, fake):
    """
    On request the next message gets 429 with retry_after, and is not made.
    """
    fake.limit(0.5)
    limited = await post(rest, "tide")

    assert (limited.status_code, limited.json()["retry_after"]) == (429, 0.5)
    assert fake.posted == []
    assert (await post(rest, "tide")).is_success


async def test_failure(rest, fake):
    """
    On request the next message gets an error, and is not made.
    """
    fake.fail(502)

    assert (await post(rest, "tide")).status_code == 502
    assert fake.posted == []


async def test_answer_that_is_lost(rest, fake):
    """
    On request a message is made and its answer lost; only its nonce tells it from a new one.
    """
    fake.lose_answers()
    with pytest.raises(httpx2.TransportError):
        await once(rest, "tide")
    again = await once(rest, "tide")

    assert [one.id for one in fake.posted] == [again.json()["id"]]


async def test_interaction_is_answered_once(rest, fake):
    """
    The second answer to an interaction gets 40060, and one that nobody asked for 10062.
    """
    number = await fake.slash("tide")
    path, body = f"/interactions/{number}/token-of-{number}/callback", {"data": {"content": "x"}}
    first, second = await rest.post(path, json=body), await rest.post(path, json=body)
    unknown = await rest.post("/interactions/1/token-of-1/callback", json=body)

    assert first.is_success
    assert (second.status_code, second.json()["code"]) == (400, 40060)
    assert (unknown.status_code, unknown.json()["code"]) == (404, 10062)
    assert len(fake.posted) == 1


async def test_token(rest, fake):
    """
    Without the right token nothing is said, and what is not there says so.
    """
    rest.headers["Authorization"] = "Bot other"
    refused = await post(rest, "tide")
    rest.headers["Authorization"] = f"Bot {TOKEN}"

    assert (refused.status_code, fake.posted) == (401, [])
    assert (await rest.get("/nowhere")).status_code == 404
    assert (await rest.get("/users/@me")).json() == BOT


@asynccontextmanager
async def bot(fake, token=TOKEN):
    """Connect to the gateway as a bot does."""
    async with ClientSession() as session, session.ws_connect(fake.gateway.url) as socket:
        assert (await socket.receive_json())["op"] == Op.HELLO
        await socket.send_json({"op": Op.IDENTIFY, "d": {"token": token}})
        yield socket


async def heard(socket, count=1):
    """Return type and content of the next events."""
    events = [await socket.receive_json() for _ in range(count)]
    return [(event["t"], event["d"].get("content")) for event in events]


async def test_several_bots(fake, rest):
    """
    Each connected bot gets every event, also what a bot itself has posted.
    """
    async with bot(fake) as one, bot(fake) as other:
        ready = [await heard(socket) for socket in (one, other)]
        await fake.say("tide")
        await post(rest, "high at noon")
        events = [await heard(socket, 2) for socket in (one, other)]

    assert ready == [[("READY", None)]] * 2
    assert events == [[("MESSAGE_CREATE", "tide"), ("MESSAGE_CREATE", "high at noon")]] * 2


async def test_bot_that_was_killed(fake):
    """
    A bot whose connection broke a moment ago keeps no event from the others.
    """
    async with bot(fake) as one, bot(fake) as other:
        await asyncio.gather(heard(one), heard(other))
        fake.gateway._bots[0]._req.transport.abort()
        await fake.say("tide")
        await fake.say("ebb")

        assert [content for _, content in await heard(other, 2)] == ["tide", "ebb"]


async def test_gateway_answers(fake):
    """
    A heartbeat is answered, and no session that was lost is taken up again.
    """
    async with bot(fake) as socket:
        await heard(socket)
        await socket.send_json({"op": Op.HEARTBEAT, "d": 1})
        await socket.send_json({"op": Op.RESUME, "d": {}})
        answers = [await socket.receive_json() for _ in range(2)]

    assert answers == [{"op": Op.HEARTBEAT_ACK}, {"op": Op.INVALID_SESSION, "d": False}]


async def test_gateway_refuses(fake):
    """
    The gateway turns a wrong token away; with the right one it does not.
    """
    async with bot(fake, "other") as socket:
        await socket.receive()
    refused = fake.gateway.connected
    async with bot(fake) as welcome:
        await heard(welcome)

        assert (socket.close_code, refused, fake.gateway.connected) == (4004, 0, 1)
