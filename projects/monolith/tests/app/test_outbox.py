import asyncio
from datetime import timedelta

import discord
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app import outbox
from app.bot import make_bot
from app.outbox import Delivery, Message
from preview.sinks.discord import FakeDiscord
from preview.sinks.payloads import TOKEN
from tests.app.waiting import until


@pytest.fixture
async def fake():
    """A Discord on loopback."""
    async with FakeDiscord().serve() as fake:
        yield fake


@pytest.fixture
async def delivery(pool, fake):
    """A worker that delivers to it with the real discord.py."""
    async with make_bot(pool, fake.url, asyncio.Event()) as bot:
        await bot.login(TOKEN)
        yield Delivery(pool, bot.post)


def said(fake):
    return [(int(one.channel), one.content) for one in fake.posted]


async def row(pool, key="a"):
    return await pool.fetchrow(
        "SELECT *, due_at = 'infinity' AS parked,"
        " least(due_at, now() + interval '1 day') - now() AS due_in"
        " FROM outbox.messages WHERE key = $1",
        key,
    )


async def sent(pool, many):
    """Return once so many rows are marked as sent."""
    while await pool.fetchval("SELECT count(sent_at) FROM outbox.messages") < many:
        await asyncio.sleep(0.02)


async def drain(delivery):
    while await delivery.deliver_one():
        pass


async def make_due(pool):
    await pool.execute(
        "UPDATE outbox.messages SET due_at = least(due_at, now()), claimed_until = now()"
        " WHERE due_at < 'infinity' AND sent_at IS NULL"
    )


@given(st.text())
def test_shortened(text):
    """
    A text of any length becomes one that Discord takes, and is cut nowhere but at its end.
    """
    for long in (text, text + "x" * 1990 + "😀" * 20):
        short = outbox.shortened(long)

        assert outbox.units(short) <= outbox.LONGEST_TEXT
        assert short == long or (long.startswith(short[:-1]) and short.endswith("…"))


async def test_added_once(pool, delivery, fake):
    """
    A message is kept once for its key and posted once; a second one of the same key is dropped.
    """
    for text in ("first", "second"):
        await outbox.add(pool, Message("a", 300, text))
    await drain(delivery)
    await outbox.add(pool, Message("a", 300, "third"))
    await drain(delivery)

    found = await row(pool)
    assert said(fake) == [(300, "first")]
    assert (found["message_id"], found["attempts"]) == (int(fake.posted[0].id), 1)
    assert (found["claimed_until"], found["last_error"]) == (None, None)


async def test_two_deliveries(pool, delivery, fake):
    """
    However many workers deliver, each row is posted once and by one of them.
    """
    for i in range(60):
        await outbox.add(pool, Message(f"key {i}", 300, f"text {i}"))
    await asyncio.gather(*(drain(delivery) for _ in range(6)))

    assert sorted(said(fake)) == sorted((300, f"text {i}") for i in range(60))
    assert {one.asked for one in fake.posted} == {1}


async def test_claimed(pool, delivery, fake):
    """
    While a row is claimed nobody else posts it; when the lease has ended, the next one does.
    """
    await outbox.add(pool, Message("a", 300, "text"))
    await pool.fetchrow(outbox._CLAIM, timedelta(seconds=60))
    refused = await delivery.deliver_one()
    before = said(fake)
    await make_due(pool)
    await drain(delivery)

    assert (refused, before, said(fake)) == (False, [], [(300, "text")])


async def test_crash_after_post(pool, delivery, fake, monkeypatch):
    """
    A crash between post and bookkeeping posts nothing twice, also where another says it again.
    """
    await outbox.add(pool, Message("a", 300, "text"))
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "_SENT", "SELECT crash($1, $2)")
        with pytest.raises(Exception, match="crash"):
            await delivery.deliver_one()
    unmarked = await row(pool)
    await make_due(pool)
    await drain(delivery)

    assert (unmarked["sent_at"], unmarked["claimed_until"] is None) == (None, False)
    assert said(fake) == [(300, "text")]
    assert fake.posted[0].asked == 2  # the nonce was known
    assert (await row(pool))["message_id"] == int(fake.posted[0].id)


async def test_the_one_repeat(pool, delivery, fake):
    """
    Only a message whose answer was lost, and whose nonce Discord has forgotten since, is repeated.
    """
    fake.lose_answers()
    await outbox.add(pool, Message("a", 300, "text"))
    await drain(delivery)
    fake.forget_nonces()
    await make_due(pool)
    await drain(delivery)
    await make_due(pool)
    await drain(delivery)

    assert said(fake) == [(300, "text")] * 2


async def test_lost_answer(pool, delivery, fake):
    """
    An answer of Discord that is lost on its way leads to no second message.
    """
    fake.lose_answers()
    await outbox.add(pool, Message("a", 300, "text"))
    await drain(delivery)
    await make_due(pool)
    await drain(delivery)

    assert said(fake) == [(300, "text")]
    assert fake.posted[0].asked >= 2


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_never(pool, delivery, fake, status):
    """
    What Discord will never take is parked with its reason, once, and the rows behind it go out.
    """
    fake.fail(status)
    await outbox.add(pool, Message("a", 300, "refused"))
    await outbox.add(pool, Message("b", 300, "behind"))
    with capture_logs() as logs:
        await drain(delivery)
    await make_due(pool)
    await drain(delivery)

    found = await row(pool)
    assert said(fake) == [(300, "behind")]
    assert (found["parked"], found["attempts"]) == (True, 1)
    assert str(status) in found["last_error"]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["message parked"]


async def test_back_off(pool, delivery, fake, monkeypatch):
    """
    What fails is tried again ever later, with its reason kept, does not hold up the rows behind
    it, and is parked in the end.
    """
    monkeypatch.setattr(outbox, "MOST_ATTEMPTS", 3)
    pauses = []

    async def fail(message):
        if message.key == "a":
            raise ConnectionResetError(104, "away")
        return await delivery.post(message)

    failing = Delivery(pool, fail)
    await outbox.add(pool, Message("a", 300, "refused"))
    await outbox.add(pool, Message("b", 300, "behind"))
    for _ in range(2):
        await drain(failing)
        found = await row(pool)
        pauses.append(found["due_in"])
        assert (found["parked"], found["last_error"]) == (
            False,
            "ConnectionResetError: [Errno 104] away",
        )
        await make_due(pool)
    await drain(failing)

    assert said(fake) == [(300, "behind")]
    assert pauses[0] < pauses[1] < timedelta(seconds=5)
    assert (await row(pool))["parked"] is True


async def test_slow_post(pool, fake, monkeypatch):
    """
    A post that does not end is given up before its claim ends, and holds up no other worker.
    """
    monkeypatch.setattr(outbox, "POST_SECONDS", 0.1)
    posted = []

    async def post(message):
        if message.key == "a":
            await asyncio.Event().wait()
        posted.append(message.key)
        return 1

    await outbox.add(pool, Message("a", 300, "slow"))
    await outbox.add(pool, Message("b", 300, "behind"))
    await drain(Delivery(pool, post))

    assert posted == ["b"]
    assert (await row(pool))["last_error"] == "TimeoutError: "
    assert timedelta(seconds=outbox.POST_SECONDS) < outbox.LEASE


async def test_wake_up(pool, delivery, fake, monkeypatch):
    """
    What is added with a wake-up goes out at once, and what is added without one at the next poll.
    """
    monkeypatch.setattr(outbox, "POLL_SECONDS", 3600)
    async with running(delivery):
        await asyncio.sleep(0.3)
        await outbox.add(pool, Message("a", 300, "text"))
        delivery.added.set()
        await sent(pool, 1)
    monkeypatch.setattr(outbox, "POLL_SECONDS", 0.05)
    async with running(delivery):
        await outbox.add(pool, Message("b", 300, "text"))
        await sent(pool, 2)

    assert len(said(fake)) == 2


async def test_database_trouble(pool, delivery, fake):
    """
    A delivery whose database fails for a while goes on when it is back.
    """
    await outbox.add(pool, Message("a", 300, "text"))
    await pool.execute("ALTER TABLE outbox.messages RENAME TO away")
    with capture_logs() as logs:
        async with running(delivery):
            await until(lambda: logs)
            await pool.execute("ALTER TABLE outbox.away RENAME TO messages")
            await sent(pool, 1)

    assert said(fake) == [(300, "text")]
    assert logs[0]["event"] == "outbox cannot be read"


async def test_full_log(pool, delivery, fake, monkeypatch):
    """
    A log that takes no more writes stops no delivery.
    """

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("info", "warning", "error"):
        monkeypatch.setattr(outbox.log, name, full, raising=False)
    fake.fail(403)
    await outbox.add(pool, Message("a", 300, "refused"))
    await outbox.add(pool, Message("b", 300, "behind"))
    async with running(delivery):
        await sent(pool, 1)

    assert said(fake) == [(300, "behind")]
    assert (await row(pool))["parked"] is True


async def test_forgets(pool, delivery):
    """
    What was sent long ago is forgotten; what waits, is parked or was sent lately stays.
    """
    await pool.execute(
        "INSERT INTO outbox.messages (key, channel, text, sent_at, message_id, due_at, created_at)"
        " SELECT key, 1, 'x', sent_at, length(sent_at::text), due_at, '2020-01-01' FROM (VALUES"
        " ('old', now() - interval '31 d', now()), ('new', now(), now()), ('parked', NULL,"
        " 'infinity')) AS given (key, sent_at, due_at)"
    )
    async with running(delivery):
        await until(lambda: delivery._forget_at)

    keys = await pool.fetch("SELECT key FROM outbox.messages ORDER BY key")
    assert [found["key"] for found in keys] == ["new", "parked"]


async def test_nonce_reaches_discord(pool, delivery, fake):
    """
    A nonce is the same for the same key, different for another, and one that Discord takes.
    """
    for key in ("a", "b"):
        await outbox.add(pool, Message(key, 300, "text"))
    await drain(delivery)

    nonces = [one.nonce for one in fake.posted]
    assert nonces == [Message("a", 1, "").nonce, Message("b", 2, "x").nonce]
    assert len(set(nonces)) == 2
    assert all(len(nonce) <= 25 for nonce in nonces)


class running:  # noqa: N801  it reads as a verb
    """Run a delivery as its startup point does."""

    def __init__(self, delivery):
        self.delivery = delivery

    async def __aenter__(self):
        self.task = asyncio.create_task(self.delivery.run())

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])


def test_discord_py_enforces_nonces():
    """
    The installed discord.py sends `enforce_nonce` with a nonce, which alone makes Discord heed it.
    """
    with discord.http.handle_message_parameters(content="x", nonce="n") as parameters:
        assert parameters.payload == {
            "content": "x", "tts": False, "nonce": "n", "enforce_nonce": True,
        }  # fmt: skip
