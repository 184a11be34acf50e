import asyncio
import tempfile
import time
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from app import startup
from app.jobs import Entry
from app.resources import started_now
from app.startup import STARTUP_POINTS, started
from preview.sinks.discord import FakeDiscord
from preview.sinks.github import FakeGitHub
from preview.sinks.payloads import CHANNEL, TOKEN
from preview.sinks.vault import Vault
from shared.database import Database
from shared.errors import AuditError, StartupPointError, WorkingTreeError
from shared.guard import StartupPoint
from shared.settings import Settings
from tests.app.waiting import until
from tests.environment import environment, full_log, read
from tests.source import until_says

pytestmark = pytest.mark.filterwarnings("ignore:'audioop' is deprecated")  # by discord.py

NOBODY = "http://127.0.0.1:9/api"
LEASED = "SELECT count(lease_id) FROM scheduler.jobs"
RAN = "SELECT count(*) FROM scheduler.jobs WHERE last_result = 'ok'"
HOOK = """#!/bin/sh
echo $$ > {asleep}.new
mv {asleep}.new {asleep}
exec sleep 999
"""
TENDED = "SELECT count(*) > 0 FROM notes.notes WHERE title = 'Flood'"


@pytest.fixture
def vault(tmp_path):
    """An empty bare repository to push to."""
    remote = Vault(tmp_path / "vault.git")
    remote.make()
    return remote


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
    refused = nullcontext() if writable else pytest.raises(WorkingTreeError, match="Point TMPDIR")
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


async def test_job_and_bot_that_do_not_let_go(made, discord, monkeypatch):
    """
    A job that heeds no cancellation and keeps its connection, and a bot that does not say goodbye,
    hold up the end of production no longer than a point may take.
    """
    monkeypatch.setattr(startup, "STOP_SECONDS", 0.4)
    monkeypatch.setattr(startup, "ASK_SECONDS", 0.2)
    let_go, cancelled = asyncio.Event(), []

    async def stuck(who):
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                cancelled.append(who)

    async def work(tools):
        async with tools.pool.acquire():
            await stuck("job")

    monkeypatch.setattr("app.jobs.JOBS", (Entry("stuck", timedelta(hours=1), work),))
    monkeypatch.setattr("app.bot.NotesBot.close", lambda _: stuck("bot"))
    before = asyncio.all_tasks()
    variables = {"DISCORD_BOT_TOKEN": TOKEN, "DISCORD_API_URL": discord.url}
    async with asyncio.timeout(30), made(**variables) as resources, started(resources):
        await until_says(resources.pool, LEASED, 1)
        await discord.identified.wait()

    assert "job" in cancelled
    let_go.set()
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


async def test_all_jobs(served, database, vault):
    """
    In production all four jobs run by themselves, and each change is told once.
    """
    async with FakeGitHub().serve() as github, FakeDiscord().serve() as discord:
        github.commit("ada/harbour", "Begin")
        variables = {
            "DATABASE_URL": await database(),
            "CHANGELOG_CHANNEL": CHANNEL,
            "CHANGELOG_REPOSITORIES": "ada/harbour",
            "DISCORD_API_URL": discord.url,
            "DISCORD_BOT_TOKEN": TOKEN,
            "GITHUB_API_URL": github.url,
            "VAULT_GIT_REMOTE": vault.remote,
        }
        async with served(**variables) as (client, process):
            await client.post("/api/notes", json={"title": "Tides", "body": "[[Ebb]]"})
            await until(lambda: github.asked)
            github.commit("ada/harbour", "Mend the quay")
            for job in ("gardener", "changelog", "vault"):
                await client.post(f"/api/scheduler/jobs/{job}/run")
            await until(lambda: discord.posted and len(vault.files()) == 2)
            jobs = (await client.get("/api/scheduler/jobs")).json()
        events = [line["event"] for line in process.log]

    assert {job["name"] for job in jobs} == {"changelog", "gardener", "ships", "vault"}
    assert {job["last_result"] for job in jobs} <= {"ok", None}
    assert ["Mend the quay" in one.content for one in discord.posted] == [True]
    assert "job does not run" not in events


async def test_jobs_without_settings(served, database):
    """
    A job whose setting is missing does not run, and one line at the start says which it lacks.
    """
    dsn = await database()
    async with served(DATABASE_URL=dsn) as (client, process):
        await until_ran(client)
    lines = [line for line in process.log if line["event"] == "job does not run"]

    assert {line["job"]: line["lacking"] for line in lines} == {
        "changelog": "CHANGELOG_REPOSITORIES",
        "vault": "VAULT_GIT_REMOTE",
    }
    async with read(dsn).pool() as pool:
        names = await pool.fetch("SELECT name FROM scheduler.jobs ORDER BY name")
    assert [row["name"] for row in names] == ["gardener", "ships"]


async def until_ran(client):
    """Return once every job has run."""
    while not all(job["runs"] for job in (await client.get("/api/scheduler/jobs")).json()):
        await asyncio.sleep(0.05)


async def test_sigterm_in_a_push(served, database, vault, tmp_path, monkeypatch):
    """
    SIGTERM in the middle of a push ends the process, git and its working tree, and the job is due
    again at once for the next process.
    """
    asleep, trees = tmp_path / "asleep", tmp_path / "tmp"
    trees.mkdir()
    hook = vault.path / "hooks/pre-receive"
    hook.write_text(HOOK.format(asleep=asleep))
    hook.chmod(0o755)
    variables = {"DATABASE_URL": await database(), "VAULT_GIT_REMOTE": vault.remote}
    async with read(variables["DATABASE_URL"]).pool() as pool:
        await pool.execute("INSERT INTO notes.notes (title) VALUES ('Tides')")
        async with served(**variables, PATH="/usr/bin:/bin", TMPDIR=str(trees)) as (_, process):
            await until(asleep.exists)
            there = list(trees.glob("monolith-vault-*"))
            began = time.monotonic()
            process.terminate()
            await process.wait()
            took = time.monotonic() - began
        due = await pool.fetchval(
            "SELECT next_run_at <= now() AND lease_id IS NULL FROM scheduler.jobs"
            " WHERE name = 'vault'"
        )

    assert (process.returncode, due, len(there)) == (0, True, 1)
    assert list(trees.iterdir()) == []
    assert vault.history() == []
    assert took < 60


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


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
async def test_nothing_is_armed(served, clone_7, database, monolith, preview):
    """
    In a neutralised preview editing an interval or a note arms nothing, and nothing can be asked
    for; in production a job is due by its new interval.
    """
    dsn = clone_7.dsn().get_secret_value() if preview else await database()
    variables = {"DATABASE_URL": dsn, "PR_ENV": str(preview)}
    async with read(dsn, PR_ENV=str(preview)).pool() as pool:
        await pool.execute(
            "INSERT INTO scheduler.jobs (name, interval, next_run_at)"
            " VALUES ('ships', '1 d', now() + interval '1 d'), ('gardener', '1 d', now())"
        )
        await pool.execute("INSERT INTO outbox.messages (key, channel, text) VALUES ('a', 1, 'x')")
        if preview:
            assert (await monolith("neutralize", **variables)).code == 0
        async with served(**variables) as (client, _):
            edited = await client.patch("/api/scheduler/jobs/ships", json={"interval": 3600})
            note = await client.post("/api/notes", json={"title": "Tides", "body": "[[Ebb]]"})
            await client.patch(f"/api/notes/{note.json()['id']}", json={"body": "[[Flood]]"})
            asked = await client.post("/api/scheduler/jobs/gardener/run")
            while not preview and not await pool.fetchval(TENDED):
                await asyncio.sleep(0.05)
        armed = await pool.fetchval(
            "SELECT count(*) FROM scheduler.jobs WHERE next_run_at < 'infinity'"
        )
        ran = await pool.fetchval("SELECT sum(runs) FROM scheduler.jobs")
        stubs = await pool.fetchval("SELECT count(*) FROM notes.notes")
        waiting = await pool.fetchval("SELECT count(*) FROM outbox.messages")

    assert (edited.status_code, edited.json()["interval"]) == (200, "PT1H")
    assert asked.status_code == (409 if preview else 202)
    assert (armed, ran > 0, stubs > 1, waiting) == (
        (0, False, False, 0) if preview else (2, True, True, 1)
    )
