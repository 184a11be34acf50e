import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from preview.clone import CLONE_SETTINGS, clone
from preview.postgres import rotate_passwords
from preview.sinks.outside import REPOSITORIES, Outside
from preview.sinks.site import Site
from shared import dsn as dsns
from tests.e2e.processes import serve

MESSAGES = 200
SLASHES = 20
CREDENTIALS = ["DISCORD_BOT_TOKEN", "GITHUB_TOKEN", "VAULT_GIT_REMOTE"]
NOTES = 60
PREVIEWS = ("preview 1", "preview 2", "preview 3")
STOP_SECONDS = 5.0
SLACK_SECONDS = 10.0
"""For a machine that does other things; the figure itself is a property of the test's report."""
LONG_ENOUGH_SECONDS = 10.0
"""A job of this size has ended by then, unless its worker was killed."""

FILL = f"""
INSERT INTO notes.notes (title, body)
SELECT 'Note ' || n, 'See [[Note ' || n + 1 || ']] and [[Stub ' || n || ']].'
FROM generate_series(1, {NOTES}) AS n;
INSERT INTO ships.ships (mmsi, name, kind) VALUES (200000000, 'Aurora', 'ferry');
INSERT INTO ships.positions (mmsi, seen_at, latitude, longitude, speed_knots)
SELECT 200000000, now() - interval '40 days' - n * interval '1 minute', 50, 0, 7
FROM generate_series(1, 500) AS n;
INSERT INTO scheduler.jobs (name, interval, next_run_at)
SELECT name, interval '1 day', now() - interval '1 hour'
FROM unnest(ARRAY['changelog', 'gardener', 'ships', 'vault']) AS name;
"""
ALL_RAN = """
SELECT count(*) = 4 AND bool_and(runs >= $1 AND lease_id IS NULL) FROM scheduler.jobs
"""
NOTHING_WAITS = "SELECT NOT EXISTS (SELECT FROM outbox.messages WHERE sent_at IS NULL)"
END_LEASES = """
UPDATE scheduler.jobs SET lease_until = clock_timestamp() WHERE lease_id IS NOT NULL;
UPDATE outbox.messages SET claimed_until = clock_timestamp() WHERE claimed_until IS NOT NULL;
"""
"""What a minute does to the leases of a worker that was killed."""


@pytest.fixture
async def outside(tmp_path):
    """A Discord, a GitHub and a vault on loopback."""
    made = Outside.make(tmp_path)
    async with Site.serve(made):
        yield made


@pytest.fixture
async def production(database):
    """The DSN of production's database, which has notes, positions, and all jobs due."""
    dsn = await database()
    async with connected(dsn) as connection:
        await connection.execute(FILL)
    return dsn


@pytest.fixture
def clones(source, engine, production):
    """Clone production for a preview, and return the clone's DSN: `await clones("preview 1")`."""

    async def make(preview):
        made = engine(f"monolith-pg-pr-{preview.split()[1]}")
        await clone(source, made)
        await made.start(CLONE_SETTINGS, die_with_parent=True)
        await rotate_passwords(made)
        return made.dsn(database=dsns.parse(production).database).get_secret_value()

    return make


@asynccontextmanager
async def connected(dsn):
    """Connect to a database of a test."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def run(outside):
    """
    Serve with the same outward settings and tokens whoever it is: `await run("preview 1", …)`.

    Every process is ended after the test.
    """
    async with AsyncExitStack() as stack:

        async def start(name, dsn):
            preview = {"PR_ENV": "true"} if name in PREVIEWS else {"PR_ENV": "false"}
            served = await stack.enter_async_context(
                serve(DATABASE_URL=dsn, **preview, **outside.environment())
            )
            outside.names[served.pid] = name
            return served

        yield start


async def said(outside, count):
    """Wait until so much has been said; the test's timeout ends it otherwise."""
    while len(outside.discord.posted) < count:
        await asyncio.sleep(0.02)


async def settled(connection, runs):
    """Wait until each job ran this often and nothing waits to be said; end a dead one's leases."""
    loop = asyncio.get_running_loop()
    dead_at = loop.time() + LONG_ENOUGH_SECONDS
    while not (
        await connection.fetchval(ALL_RAN, runs) and await connection.fetchval(NOTHING_WAITS)
    ):
        if loop.time() > dead_at:
            await connection.execute(END_LEASES)
            dead_at += LONG_ENOUGH_SECONDS
        await asyncio.sleep(0.1)


async def speak(outside, messages, slashes):
    """Let a person mention the bot and use /notes, many times at once, and return the ids."""
    asked = [outside.discord.mention(f"stub {n}") for n in range(messages)]
    asked += [outside.discord.slash(f"note {n}") for n in range(slashes)]
    return await asyncio.gather(*asked)


async def make_all_due(*databases):
    """Make every job due at once, in production and in clones."""
    for dsn in databases:
        async with connected(dsn) as connection:
            await connection.execute("UPDATE scheduler.jobs SET next_run_at = clock_timestamp()")


async def change(outside, production, what):
    """Add a note, and a commit to each repository; return the commits."""
    await production.execute("INSERT INTO notes.notes (title) VALUES ($1)", what)
    return [outside.github.commit(repository, what) for repository in REPOSITORIES]


def assert_said_once(discord, asked, commits):
    """Each question has one answer, and each commit is in one digest."""
    answers = Counter(one.reply_to for one in discord.posted if one.reply_to)
    digests = [one.content for one in discord.posted if one.reply_to is None]

    assert answers == dict.fromkeys(asked, 1)
    assert [sum(one.sha[:7] in text for text in digests) for one in commits] == [1] * len(commits)
    assert len(digests) == len(commits)


def assert_kept_once(vault, notes):
    """No two commits keep the same, and each note has one file."""
    trees = [one.tree for one in vault.history()]

    assert len(set(trees)) == len(trees) > 1
    assert len(set(vault.files())) == len(vault.files()) == notes > NOTES


async def assert_silent(outside, clones):
    """Nothing that came out was a preview's; as the control, some of each kind is production's."""
    shares = (await outside.received())["shares"]
    known = {one.process for one in outside.discord.asked + outside.github.asked}

    assert {sum(share.values()) for name, share in shares.items() if name in PREVIEWS} == {0}
    spoke = [share for name, share in shares.items() if name not in PREVIEWS]
    assert all(sum(share[kind] for share in spoke) for kind in ("messages", "requests", "pushes"))
    assert known <= {*outside.names, None}
    for dsn in clones:
        async with connected(dsn) as clone:
            assert await clone.fetchval("SELECT sum(runs) FROM scheduler.jobs") == 0
            assert await clone.fetchval("SELECT count(*) FROM outbox.messages") == 0


@pytest.mark.timeout(300)
async def test_everything_once(outside, production, clones, run):
    """
    Two productions and three previews with the same tokens: each thing happens once, by production.

    200 messages come while all jobs are due; one production is killed with -9 in the middle, and
    comes back. SIGTERM ends every process cleanly, and a preview has done nothing until then.
    """
    cloned = {name: await clones(name) for name in PREVIEWS}
    previews = [await run(name, dsn) for name, dsn in cloned.items()]
    killed, other = [await run(name, production) for name in ("production 1", "production 2")]
    async with connected(production) as connection:
        await settled(connection, 1)
        commits = await change(outside, connection, "before the kill")
        await make_all_due(production, *cloned.values())
        asked = await speak(outside, MESSAGES // 2, SLASHES // 2)
        await said(outside, MESSAGES // 8)
        killed.process.kill()
        asked += await speak(outside, MESSAGES // 2, SLASHES // 2)
        back = await run("production 3", production)
        await settled(connection, 2)
        commits += await change(outside, connection, "after it came back")
        await make_all_due(production)
        await settled(connection, 3)
        notes = await connection.fetchval("SELECT count(*) FROM notes.notes")
    attested = [(await one.client.get("/api/preview")).json() for one in previews]
    ends = await asyncio.gather(*(one.end(signal.SIGTERM) for one in (*previews, other, back)))

    assert_said_once(outside.discord, asked, commits)
    assert_kept_once(outside.vault, notes)
    await assert_silent(outside, cloned.values())
    assert [one["dropped_credentials"] for one in attested] == [CREDENTIALS] * len(PREVIEWS)
    assert [code for code, _ in ends] == [0] * len(ends)


@pytest.mark.timeout(300)
async def test_stop_in_the_middle(outside, production, clones, run, record_property):
    """
    SIGTERM stops preview and production cleanly within seconds, and what was begun is done once.

    It comes while production answers and pushes; the next production goes on. The preview, whose
    jobs are due as well, neither pushes nor says anything when it ends.
    """
    cloned = await clones(PREVIEWS[0])
    both = [await run(PREVIEWS[0], cloned), await run("production 1", production)]
    async with connected(production) as connection:
        await settled(connection, 1)
        commits = await change(outside, connection, "before the stop")
        await make_all_due(production, cloned)
        asked = await speak(outside, MESSAGES // 4, 0)
        while await connection.fetchval("SELECT count(*) FROM outbox.messages") < len(asked):
            await asyncio.sleep(0.02)
        ends = await asyncio.gather(*(one.end(signal.SIGTERM) for one in both))
        record_property("seconds to stop", [round(seconds, 2) for _, seconds in ends])
        await run("production 2", production)
        await settled(connection, 2)
        notes = await connection.fetchval("SELECT count(*) FROM notes.notes")

    assert [code for code, _ in ends] == [0, 0]
    assert max(seconds for _, seconds in ends) < STOP_SECONDS + SLACK_SECONDS
    assert_said_once(outside.discord, asked, commits)
    assert_kept_once(outside.vault, notes)
    await assert_silent(outside, [cloned])
