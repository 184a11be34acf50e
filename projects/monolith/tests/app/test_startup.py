import asyncio
import errno
import os
import tempfile
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from app import startup
from app.jobs import Entry, changelog
from app.jobs.tools import Tools
from app.jobs.vault import push
from app.resources import started_now
from app.startup import STARTUP_POINTS, started
from preview.sinks.github import TOKEN as GITHUB_TOKEN
from preview.sinks.github import FakeGitHub
from preview.sinks.payloads import CHANNEL, TOKEN
from shared.database import Database
from shared.errors import AuditError, StartupPointError, WorkingTreeError
from shared.guard import StartupPoint
from shared.settings import Settings
from tests.environment import environment, full_log
from tests.source import until_says

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
                await until_says(resources.pool, RAN, 2)
                await discord.identified.wait()
                await discord.mention("tide")
                answer = await discord.sent.get()

    assert answer["content"] == "No note matches 'tide'."
    assert before[:2] == ["scheduler loop enabled (production)", "discord bot enabled (production)"]
    assert before[2].startswith("audit: production, scheduler loop enabled")
    assert [line for line in logged if line["log_level"] == "error"] == []
    assert discord.gateway.connected == 0


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


@pytest.mark.parametrize("writable", [True, False])
async def test_no_temporary_directory(made, vault, tmp_path, monkeypatch, writable):
    """
    Without a directory for the vault's working tree the scheduler loop is no traceback but a
    refusal, which names what to do; with one it starts.
    """
    trees = tmp_path / "trees"
    if writable:
        trees.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(trees))
    said = "No such file or directory.*Point TMPDIR"
    refused = nullcontext() if writable else pytest.raises(WorkingTreeError, match=said)
    async with made(VAULT_GIT_REMOTE=vault.remote) as resources:
        with refused:
            async with STARTUP_POINTS[StartupPoint.SCHEDULER](resources):
                assert list(trees.glob("monolith-vault-*"))


async def test_connections_of_its_own(made, monkeypatch):
    """
    The scheduler loop claims on two connections of its own, however many requests hold the pool.
    """
    monkeypatch.setattr(startup, "ASK_SECONDS", 0.1)
    async with made() as resources:
        held = [await resources.pool.acquire() for _ in range(resources.pool.get_max_size())]
        backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        async with STARTUP_POINTS[StartupPoint.SCHEDULER](resources):
            await until_says(held[0], LEASED, 2)
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
            await until_says(resources.pool, RAN, 1)
            await until_says(resources.pool, LEASED, 1)
            ending = asyncio.ensure_future(point.__aexit__(None, None, None))
            await asyncio.sleep(0.3)
            assert not ending.done()
        await ending

        assert await resources.pool.fetchval(RAN) == 2


async def test_end_of_what_is_stuck(made, monkeypatch):
    """
    A job that does not end in time holds up nobody: it is given back, due at once.
    """
    monkeypatch.setattr(startup, "ASK_SECONDS", 0.3)
    monkeypatch.setattr("shared.scheduler.GRACE_SECONDS", 60)
    async with made() as resources, resources.database.pool(1) as other:
        async with other.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE ships.positions")
            async with asyncio.timeout(10), STARTUP_POINTS[StartupPoint.SCHEDULER](resources):
                await until_says(resources.pool, RAN, 1)
                await until_says(resources.pool, LEASED, 1)

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
        await until_says(resources.pool, RAN, 2)

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


@dataclass
class Stubborn:
    """Work that heeds no cancellation until it is let go, and writes each down."""

    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: list[str] = field(default_factory=list)

    async def work(self, who):
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(who)


async def test_point_that_does_not_let_go(made, monkeypatch):
    """
    A point that does not end when it is told to holds up nobody either.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.2)
    stubborn = Stubborn()
    work = partial(stubborn.work, "point")
    async with made() as resources, asyncio.timeout(10):
        async with startup._kept(StartupPoint.DISCORD, work, resources) as task:
            await asyncio.sleep(0)
        assert not task.done()
        stubborn.let_go.set()
        await task

    assert task.get_name() == "discord bot"
    assert stubborn.cancelled == ["point"]


async def test_points_stop_at_once(made, monkeypatch):
    """
    No point waits for another to stop, so the time that one may take is the time for all; one that
    fails to stop keeps no other from it, and is logged.
    """
    stopping = {point: asyncio.Event() for point in STARTUP_POINTS}

    def until_all_stop(point):
        @asynccontextmanager
        async def start(_):
            yield
            stopping[point].set()
            await asyncio.gather(*(event.wait() for event in stopping.values()))
            raise LookupError(point)

        return start

    for point in stopping:
        monkeypatch.setitem(STARTUP_POINTS, point, until_all_stop(point))
    async with made(DISCORD_BOT_TOKEN=TOKEN, DISCORD_API_URL=NOBODY) as resources:
        with capture_logs() as logged:
            async with asyncio.timeout(30), started(resources):
                pass

    failed = [line["error"] for line in logged if line["event"] == "startup point did not stop"]
    assert sorted(failed) == ["LookupError: discord bot", "LookupError: scheduler loop"]


async def test_point_that_fails_to_stop_and_full_log(made, monkeypatch):
    """
    A point that fails to stop keeps nothing from stopping, also where that cannot be logged.
    """
    stopped = []

    @asynccontextmanager
    async def start(_):
        yield
        stopped.append(StartupPoint.SCHEDULER)
        raise LookupError

    monkeypatch.setitem(STARTUP_POINTS, StartupPoint.SCHEDULER, start)
    with ExitStack() as later:
        async with made() as resources, started(resources):
            later.enter_context(full_log())

    assert stopped == [StartupPoint.SCHEDULER]


async def test_job_and_bot_that_do_not_let_go(made, discord, monkeypatch):
    """
    A job that heeds no cancellation and keeps its connection, and a bot that does not say goodbye,
    hold up the end of production no longer than a point may take.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.4)
    monkeypatch.setattr(startup, "ASK_SECONDS", 0.2)
    stubborn = Stubborn()

    async def work(tools):
        async with tools.pool.acquire():
            await stubborn.work("job")

    monkeypatch.setattr("app.jobs.JOBS", (Entry("stuck", timedelta(hours=1), work),))
    from app.bot import NotesBot  # noqa: PLC0415  discord warns when it is imported

    close = NotesBot.close

    async def linger(bot):
        await stubborn.work("bot")
        await close(bot)

    monkeypatch.setattr(NotesBot, "close", linger)
    before = asyncio.all_tasks()
    variables = {"DISCORD_BOT_TOKEN": TOKEN, "DISCORD_API_URL": discord.url}
    async with asyncio.timeout(30), made(**variables) as resources, started(resources):
        await until_says(resources.pool, LEASED, 1)
        await discord.identified.wait()

    assert "job" in stubborn.cancelled
    stubborn.let_go.set()
    await asyncio.wait(asyncio.all_tasks() - before, timeout=30)


async def test_muted_point_is_not_started_by_hand(made, discord):
    """
    The bot without its token, which a preview has dropped, is a bug and not a bot.
    """
    async with made(DISCORD_API_URL=discord.url) as resources:
        with pytest.raises(AssertionError, match="discord bot"):
            async with STARTUP_POINTS[StartupPoint.DISCORD](resources):
                pytest.fail("it started")

    assert discord.requests == []


async def test_until_one_ends():
    """
    A delivery that dies takes the bot with it, so that both start again, and says why.
    """
    ended = asyncio.Event()

    async def stay():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def die():
        await asyncio.sleep(0)
        raise KeyError

    with pytest.raises(KeyError):
        await startup._until_one_ends([stay(), die()])

    assert ended.is_set()


async def test_until_one_ends_for_ever(monkeypatch):
    """
    What does not let go when another ends holds up nobody.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.2)
    stubborn = Stubborn()
    async with asyncio.timeout(10):
        await startup._until_one_ends([stubborn.work("one"), asyncio.sleep(0.1)])
    assert stubborn.cancelled == ["one"]
    stubborn.let_go.set()


async def test_answer_at_once(made, discord, monkeypatch):
    """
    An answer is sent when it is there, and does not wait until the outbox is looked into again.
    """
    monkeypatch.setattr("app.outbox.POLL_SECONDS", 60)
    async with (
        made(DISCORD_BOT_TOKEN=TOKEN, DISCORD_API_URL=discord.url) as resources,
        asyncio.timeout(15),
        STARTUP_POINTS[StartupPoint.DISCORD](resources),
    ):
        await discord.identified.wait()
        await asyncio.sleep(0.5)  # the outbox has been looked into, and was empty
        await discord.mention("tide")
        assert (await discord.sent.get())["content"] == "No note matches 'tide'."


async def test_feed(made):
    """
    The changelog polls the repositories with the token, at the address that the settings name,
    and tells the channel; without repositories and channel it polls nothing.
    """
    async with FakeGitHub().serve() as github:
        for name in ("ada/harbour", "ada/quay"):
            github.commit(name, "Begin")
        variables = {
            "CHANGELOG_CHANNEL": CHANNEL,
            "CHANGELOG_REPOSITORIES": "ada/harbour,ada/quay",
            "DISCORD_BOT_TOKEN": TOKEN,
            "GITHUB_API_URL": github.url,
            "GITHUB_TOKEN": GITHUB_TOKEN,
        }
        async with made(**variables) as resources, startup._feed(resources.settings) as feed:
            tools = Tools(resources.pool, feed)
            await changelog.poll(tools)
            github.commit("ada/quay", "Mend it")
            await changelog.poll(tools)
            told = await resources.pool.fetch("SELECT channel, text FROM outbox.messages")
    async with made() as resources, startup._feed(resources.settings) as nothing:
        assert nothing is None

    assert [(row["channel"], "Mend it" in row["text"]) for row in told] == [(int(CHANNEL), True)]
    assert feed
    assert feed.github.token == SecretStr(GITHUB_TOKEN)


async def test_jobs_and_their_tools(made, vault):
    """
    The scheduler loop runs every job that has its settings, with what they name; of any other it
    says which setting is missing, and does not run it.
    """
    point, names = STARTUP_POINTS[StartupPoint.SCHEDULER], "SELECT name FROM scheduler.jobs"
    async with FakeGitHub().serve() as github:
        github.commit("ada/harbour", "Begin")
        variables = {
            "CHANGELOG_CHANNEL": CHANNEL,
            "CHANGELOG_REPOSITORIES": "ada/harbour",
            "DISCORD_BOT_TOKEN": TOKEN,
            "GITHUB_API_URL": github.url,
            "VAULT_GIT_REMOTE": vault.remote,
        }
        with capture_logs() as logged:
            async with made(**variables) as resources, point(resources):
                await until_says(resources.pool, RAN, 4)
    assert [line for line in logged if line["event"] == "job does not run"] == []
    with capture_logs() as logged:
        async with made() as resources, point(resources):
            found = {row["name"] for row in await resources.pool.fetch(names)}

    lacking = {"changelog": "CHANGELOG_REPOSITORIES", "vault": "VAULT_GIT_REMOTE"}
    assert found == {"gardener", "ships"}
    assert [line for line in logged if "lacking" in line or "job" in line] == [
        {"event": "job does not run", "job": job, "lacking": setting, "log_level": "info"}
        for job, setting in lacking.items()
    ]
    assert len(github.asked) == 1


async def test_working_tree(made, vault, tmp_path, monkeypatch):
    """
    The vault's branch is pushed to from a directory of its own that is there as long as the point
    runs; without a remote there is none.
    """
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    variables = {"VAULT_GIT_REMOTE": vault.remote, "VAULT_GIT_BRANCH": "main"}
    async with made(**variables) as resources:
        await resources.pool.execute("INSERT INTO notes.notes (title) VALUES ('Tides')")
        async with startup._vault(resources.settings) as tree:
            await push(Tools(resources.pool, vault=tree))
            names = [path.name for path in home.iterdir()]
        assert list(home.iterdir()) == []
    async with (
        made(VAULT_GIT_REMOTE=vault.remote, VAULT_GIT_BRANCH="notes") as resources,
        startup._vault(resources.settings) as other,
    ):
        assert other
        assert (other.remote.url, other.remote.branch) == (vault.remote, "notes")
    async with made() as resources, startup._vault(resources.settings) as nothing:
        assert nothing is None

    assert [name.startswith("monolith-vault-") for name in names] == [True]
    assert [path.startswith("notes/tides-") for path in vault.files()] == [True]


async def test_working_tree_that_stays(made, vault, tmp_path, monkeypatch):
    """
    A working tree that cannot be removed fails no end.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with made(VAULT_GIT_REMOTE=vault.remote) as resources:
        with monkeypatch.context() as busy:
            async with startup._vault(resources.settings) as tree:
                busy.setattr(os, "rmdir", refused)
        assert tree
        assert tree.directory.exists()


def refused(*_arguments, **_more):
    """Remove nothing."""
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
