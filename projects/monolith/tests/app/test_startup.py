import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from app import startup
from app.resources import started_now
from app.startup import STARTUP_POINTS, started
from shared.database import Database
from shared.errors import AuditError, StartupPointError
from shared.guard import StartupPoint
from shared.settings import Settings
from tests.environment import environment, full_log
from tests.fake_discord import TOKEN
from tests.source import until

pytestmark = pytest.mark.filterwarnings("ignore:'audioop' is deprecated")  # by discord.py

NOBODY = "http://127.0.0.1:9/api"
LEASED = "SELECT count(lease_id) FROM scheduler.jobs"
RAN = "SELECT count(*) FROM scheduler.jobs WHERE last_result = 'ok'"


@pytest.fixture
async def made(database):
    """Make what startup points are handed: `async with made(PR_ENV="true") as resources`."""

    @asynccontextmanager
    async def make(dsn=None, **variables):
        with environment(DATABASE_URL=dsn or await database(), **variables):
            settings = Settings()
        identified = Database.from_settings(settings)
        async with identified.pool() as pool:
            yield started_now(settings, identified, pool, None)

    return make


@pytest.fixture
def hasty(monkeypatch):
    """Pauses of a hundredth of a second, of four hundredths at most."""
    monkeypatch.setattr(startup, "RESTART_SECONDS", 0.01)
    monkeypatch.setattr(startup, "LONGEST_PAUSE_SECONDS", 0.04)


async def test_production(made, discord):
    """
    Production writes down that both points run, then runs both: jobs run, the bot is there.
    """
    async with made(DISCORD_BOT_TOKEN=TOKEN, DISCORD_API_URL=discord.url) as resources:
        with capture_logs() as logged:
            async with started(resources):
                before = [line["event"] for line in logged[:3]]
                await until(resources.pool, RAN, 2)
                await discord.identified.wait()
                await discord.mention("tide")
                answer = await discord.sent.get()

    assert answer["content"] == "No note matches 'tide'."
    assert before[:2] == ["scheduler loop enabled (production)", "discord bot enabled (production)"]
    assert before[2].startswith("audit: production, scheduler loop enabled")
    assert [line for line in logged if line["log_level"] == "error"] == []
    assert all(bot.closed for bot in discord._bots)


async def test_preview(standing_clone, discord):
    """
    A preview writes down that both points are muted, and starts neither.
    """
    variables = {"DISCORD_BOT_TOKEN": TOKEN, "DISCORD_API_URL": discord.url, "PR_ENV": "true"}
    with environment(DATABASE_URL=standing_clone.dsn().get_secret_value(), **variables):
        settings = Settings()
    identified = Database.from_settings(settings)
    async with identified.pool() as pool:
        with capture_logs() as logged:
            async with started(started_now(settings, identified, pool, None)):
                await asyncio.sleep(0.5)
        registered = await pool.fetchval("SELECT count(*) FROM scheduler.jobs")

    assert [line["event"] for line in logged[:2]] == [
        "scheduler loop disabled (PR_ENV)",
        "discord bot disabled (PR_ENV)",
    ]
    assert logged[2]["event"].startswith("audit: preview 7, ")
    assert logged[2]["database"]["verdict"] == "MATCH"
    assert (registered, discord.requests) == (0, [])


async def test_log_that_takes_nothing(made):
    """
    Where the decisions cannot be written, no startup point is started.
    """
    async with made() as resources:
        with full_log(), pytest.raises(AuditError):
            async with started(resources):
                pytest.fail("it started")
        assert await resources.pool.fetchval("SELECT count(*) FROM scheduler.jobs") == 0
        async with started(resources):
            assert await resources.pool.fetchval("SELECT count(*) FROM scheduler.jobs") == 2


async def test_no_table(made, database):
    """
    A scheduler loop without its table is refused with what the database says, and nothing runs.
    """
    async with made(await database(migrated=False)) as resources:
        with pytest.raises(StartupPointError) as caught:
            async with started(resources):
                pytest.fail("it started")

    assert caught.value.point == "scheduler loop"
    assert caught.value.reason == 'relation "scheduler.jobs" does not exist'


async def test_connections_of_its_own(made, monkeypatch):
    """
    The scheduler loop claims on two connections of its own, however many requests hold the pool.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.1)
    async with made() as resources:
        held = [await resources.pool.acquire() for _ in range(resources.pool.get_max_size())]
        backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        async with STARTUP_POINTS[StartupPoint.SCHEDULER](resources):
            await until(held[0], LEASED, 2)
            found = await held[0].fetchval(backends)
        for connection in held:
            await resources.pool.release(connection)

    assert found - len(held) in (1, startup.OWN_CONNECTIONS)


async def test_end_of_what_runs(made):
    """
    At the end a job that runs may finish, and its result is recorded.
    """
    async with made() as resources, resources.database.pool(1) as other:
        async with other.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE ships.positions")
            point = STARTUP_POINTS[StartupPoint.SCHEDULER](resources)
            await point.__aenter__()
            await until(resources.pool, RAN, 1)
            await until(resources.pool, LEASED, 1)
            ending = asyncio.ensure_future(point.__aexit__(None, None, None))
            await asyncio.sleep(0.3)
            assert not ending.done()
        await ending

        assert await resources.pool.fetchval(RAN) == 2


async def test_end_of_what_is_stuck(made, monkeypatch):
    """
    A job that does not end in time holds up nobody: it is given back, due at once.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.3)
    monkeypatch.setattr("shared.scheduler.GRACE_SECONDS", 60)
    async with made() as resources, resources.database.pool(1) as other:
        async with other.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE ships.positions")
            async with asyncio.timeout(10), STARTUP_POINTS[StartupPoint.SCHEDULER](resources):
                await until(resources.pool, RAN, 1)
                await until(resources.pool, LEASED, 1)

        assert await resources.pool.fetchval(LEASED) == 0
        assert await resources.pool.fetchval(RAN) == 1


async def test_failing_point(made, hasty):
    """
    A point that fails is counted and logged, and starts again after ever longer pauses.
    """
    async with made(DISCORD_BOT_TOKEN=TOKEN, DISCORD_API_URL=NOBODY) as resources:
        with capture_logs() as logged:
            async with STARTUP_POINTS[StartupPoint.DISCORD](resources):
                while resources.failures[StartupPoint.DISCORD] < 5:
                    await asyncio.sleep(0.01)

    failed = [line for line in logged if line["event"] == "startup point failed"]
    assert [line["again_in"] for line in failed[:5]] == [0.01, 0.02, 0.04, 0.04, 0.04]
    assert {(line["point"], line["log_level"]) for line in failed} == {("discord bot", "error")}
    assert failed[0]["error"].startswith("ClientConnectorError: Cannot connect to host 127.0.0.1")
    assert set(resources.failures) == {StartupPoint.DISCORD}


async def test_failing_loop(made, hasty, monkeypatch):
    """
    A scheduler loop that ends by a bug is counted too, and comes back.
    """
    monkeypatch.setattr("shared.scheduler.BATCH", None)
    async with made() as resources, STARTUP_POINTS[StartupPoint.SCHEDULER](resources):
        while not resources.failures[StartupPoint.SCHEDULER]:
            await asyncio.sleep(0.01)
        monkeypatch.undo()
        await until(resources.pool, RAN, 2)

    assert set(resources.failures) == {StartupPoint.SCHEDULER}


async def test_failing_point_and_full_log(made, hasty, discord):
    """
    A point that failed comes back, also where its failure could not be logged.
    """
    discord.away = 1
    async with made(DISCORD_BOT_TOKEN=TOKEN, DISCORD_API_URL=discord.url) as resources:
        with full_log():
            async with STARTUP_POINTS[StartupPoint.DISCORD](resources):
                await discord.identified.wait()

    assert resources.failures == {StartupPoint.DISCORD: 1}


async def test_point_that_does_not_let_go(made, monkeypatch):
    """
    A point that does not end when it is told to holds up nobody either.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.2)
    let_go = asyncio.Event()

    async def stubborn():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await let_go.wait()

    async with made() as resources, asyncio.timeout(10):
        async with startup._kept(StartupPoint.DISCORD, stubborn, resources) as task:
            await asyncio.sleep(0)
        assert not task.done()
        let_go.set()
        await task

    assert task.get_name() == "discord bot"


async def test_muted_point_is_not_started_by_hand(made, discord):
    """
    The bot without its token, which a preview has dropped, is a bug and not a bot.
    """
    async with made(DISCORD_API_URL=discord.url) as resources:
        with pytest.raises(AssertionError, match="discord bot"):
            async with STARTUP_POINTS[StartupPoint.DISCORD](resources):
                pytest.fail("it started")

    assert discord.requests == []
