import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from structlog.testing import capture_logs

from shared.identity import Expected
from shared.scheduler import Job, Scheduler
from tests.source import until_says
from tests.workers import Clock, Workers, clocked

HOUR = timedelta(hours=1)

WORKER = """
import asyncio, os, sys
from datetime import timedelta
from functools import partial
from shared.database import Database
from shared.identity import Expected
from shared.scheduler import Job, Scheduler
from shared.settings import Settings

async def work(pool, name, seconds):
    await pool.execute("INSERT INTO ran VALUES ($1, $2)", name, os.getpid())
    await asyncio.sleep(seconds)

async def main(jobs, seconds, lease):
    async with Database.from_settings(Settings()).pool() as pool:
        scheduler = Scheduler(pool, [
            Job(name, timedelta(1), partial(work, pool, name, seconds), timedelta(seconds=lease))
            for name in (f"job {i}" for i in range(jobs))
        ])
        await scheduler.run()

asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
"""


@pytest.fixture
async def pool(identified):
    """The identified pool of a new database that has a table to write runs down in."""
    async with identified.pool() as pool:
        await pool.execute("CREATE TABLE ran (name text, pid integer DEFAULT 0)")
        yield pool


@asynccontextmanager
async def running(scheduler):
    """Run a scheduler as its startup point does."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(scheduler.run())
        yield task
        scheduler.stop()


@pytest.fixture
def worker(identified):
    """Run a scheduler in a process of its own: `async with worker(jobs) as process`."""
    target = identified.target
    dsn = f"postgresql://app:{target.password.get_secret_value()}@/{target.database}"

    @asynccontextmanager
    async def run(jobs, seconds=0.0, lease=60.0):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, str(jobs), str(seconds), str(lease),
            env={**os.environ, "DATABASE_URL": f"{dsn}?host={target.host}"},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return run


def inserting(pool, name):
    async def insert():
        await pool.execute("INSERT INTO ran (name) VALUES ($1)", name)

    return insert


async def row(pool, name="a"):
    return await pool.fetchrow(
        "SELECT *, next_run_at - clock_timestamp() AS due_in FROM scheduler.jobs WHERE name = $1",
        name,
    )


async def test_due_job(pool):
    """
    A due job runs once, and is due again after its interval, at most a tenth late.
    """
    scheduler = Scheduler(pool, [Job("a", HOUR, inserting(pool, "a"))])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT count(*) FROM scheduler.jobs WHERE runs = 1", 1)
        await asyncio.sleep(1.2)

    found = await row(pool)
    assert await pool.fetchval("SELECT count(*) FROM ran") == 1
    assert (found["last_result"], found["last_error"], found["lease_id"]) == ("ok", None, None)
    assert timedelta(minutes=59) < found["due_in"] < timedelta(minutes=66)


async def test_tick_is_seen(pool):
    """
    Each run is a line in the log, with the job's name; so a person sees the loop tick.
    """
    scheduler = Scheduler(pool, [Job("a", HOUR, inserting(pool, "a"))])
    await scheduler.register()
    with capture_logs() as lines:
        async with running(scheduler):
            await until_says(pool, "SELECT count(*) FROM scheduler.jobs WHERE runs = 1", 1)

    assert [(line["event"], line["job"]) for line in lines] == [("job ran", "a")]


async def test_register(pool):
    """
    Registering keeps when a job is due, brings its interval up to date, and forgets nobody else's.
    """
    job = Job("a", HOUR, inserting(pool, "a"))
    await Scheduler(pool, [job]).register()
    await pool.execute("UPDATE scheduler.jobs SET next_run_at = '2030-01-01 00:00Z'")
    await Scheduler(pool, [Job("a", 2 * HOUR, job.run), Job("b", HOUR, job.run)]).register()

    found = await row(pool)
    assert (found["interval"], found["next_run_at"].year) == (2 * HOUR, 2030)
    assert (await row(pool, "b"))["due_in"] < timedelta(0)


async def test_own_interval(pool):
    """
    A person's interval decides when a job is due again, and registering leaves it alone.
    """
    scheduler = Scheduler(pool, [Job("a", HOUR, inserting(pool, "a"))])
    await scheduler.register()
    await pool.execute("UPDATE scheduler.jobs SET own_interval = '3 d'")
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT count(*) FROM scheduler.jobs WHERE runs = 1", 1)

    found = await row(pool)
    assert (found["interval"], found["own_interval"]) == (HOUR, timedelta(days=3))
    assert found["due_in"] > timedelta(days=2)


async def test_failing_job(pool):
    """
    A job that fails is recorded with its error and rescheduled; the others run on.
    """

    async def fail():
        raise ValueError("x" * 5000)

    scheduler = Scheduler(pool, [Job("a", HOUR, fail), Job("b", HOUR, inserting(pool, "b"))])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT sum(runs) FROM scheduler.jobs", 2)

    failed, other = await row(pool), await row(pool, "b")
    assert failed["last_result"] == "error"
    assert failed["last_error"].startswith("ValueError: xxx")
    assert len(failed["last_error"]) == 1000
    assert failed["due_in"] > timedelta(minutes=59)
    assert other["last_result"] == "ok"


async def test_bounded_concurrency(pool):
    """
    However many jobs are due, five run at once at most, all run, and their next times spread.
    """
    now, most = 0, 0

    async def work():
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.01)
        now -= 1

    scheduler = Scheduler(pool, [Job(f"job {i}", HOUR, work) for i in range(60)])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT count(*) FROM scheduler.jobs WHERE runs = 1", 60)

    due = "SELECT max(next_run_at) - min(next_run_at) FROM scheduler.jobs"
    assert most == 5
    assert await pool.fetchval(due) > timedelta(minutes=1)  # they were all due at once


async def test_graceful_stop(pool):
    """
    At a stop what runs ends and is recorded, what waits is given back unrun, nothing new begins.
    """
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work():
        begun.set()
        await go_on.wait()

    scheduler = Scheduler(pool, [Job(f"job {i}", HOUR, work) for i in range(12)])
    await scheduler.register()
    async with running(scheduler):
        await begun.wait()
        await until_says(pool, "SELECT count(lease_id) FROM scheduler.jobs", 12)
        scheduler.stop()
        go_on.set()

    assert await pool.fetchval("SELECT count(*) FROM scheduler.jobs WHERE runs = 1") == 5
    assert await pool.fetchval("SELECT count(lease_id) FROM scheduler.jobs") == 0


async def test_stop_with_a_stuck_job(pool, monkeypatch):
    """
    A job that does not end within its grace is cancelled, and due again at once for others.
    """
    monkeypatch.setattr("shared.scheduler.GRACE_SECONDS", 0.2)

    async def stuck():
        await asyncio.Event().wait()

    scheduler = Scheduler(pool, [Job("a", HOUR, stuck)])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT count(lease_id) FROM scheduler.jobs", 1)

    found = await row(pool)
    assert (found["runs"], found["lease_id"]) == (0, None)
    assert found["due_in"] < timedelta(0)


async def test_long_job_keeps_its_lease(pool):
    """
    A job may take longer than its lease: its worker renews it, and no other worker takes it.
    """

    async def work():
        await pool.execute("INSERT INTO ran (name) VALUES ('a')")
        await asyncio.sleep(1.5)

    job = Job("a", HOUR, work, lease=timedelta(seconds=0.6))
    first, second = Scheduler(pool, [job]), Scheduler(pool, [job])
    await first.register()
    async with running(first), running(second):
        await until_says(pool, "SELECT count(*) FROM scheduler.jobs WHERE runs = 1", 1)

    assert await pool.fetchval("SELECT count(*) FROM ran") == 1


async def test_lost_lease(pool):
    """
    A worker whose lease another has taken stops the job, and its result does not count.
    """
    cancelled = asyncio.Event()

    async def work():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()  # and it ends as if it had succeeded

    scheduler = Scheduler(pool, [Job("a", HOUR, work, lease=timedelta(seconds=0.3))])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT count(lease_id) FROM scheduler.jobs", 1)
        await pool.execute(
            "UPDATE scheduler.jobs"
            " SET lease_id = gen_random_uuid(), lease_until = now() + interval '1 h'"
        )
        taken = await row(pool)
        await cancelled.wait()
        await asyncio.sleep(0.3)

    found = await row(pool)
    assert (found["runs"], found["lease_id"]) == (0, taken["lease_id"])
    assert found["lease_until"] == taken["lease_until"]


@pytest.mark.parametrize(
    "error",
    [ValueError("a \0 byte"), ValueError("\ud800"), asyncio.CancelledError(), SystemExit(3)],
    ids=["nul", "surrogate", "cancelled", "exit"],
)
async def test_odd_end(pool, error):
    """
    However a job ends, its end is recorded, it is rescheduled, and the loop runs on.
    """

    async def work():
        raise error

    scheduler = Scheduler(pool, [Job("a", HOUR, work), Job("b", HOUR, inserting(pool, "b"))])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT sum(runs) FROM scheduler.jobs", 2)

    found = await row(pool)
    assert found["last_error"].startswith(type(error).__name__)
    assert found["due_in"] > timedelta(minutes=59)


async def test_asked_for_while_it_runs(pool):
    """
    A job that is asked for while it runs, runs once more after that.
    """
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work():
        begun.set()
        await go_on.wait()

    scheduler = Scheduler(pool, [Job("a", HOUR, work)])
    await scheduler.register()
    async with running(scheduler):
        await begun.wait()
        await pool.execute("UPDATE scheduler.jobs SET next_run_at = clock_timestamp()")
        go_on.set()
        await until_says(pool, "SELECT runs FROM scheduler.jobs", 2)

    assert (await row(pool))["due_in"] > timedelta(minutes=59)


@pytest.mark.parametrize(
    "renewal",
    ["SELECT broken", "SELECT '' AS name, $1::uuid, $2::text[], $3::interval[], pg_sleep(30)"],
    ids=["fails", "hangs"],
)
async def test_lease_that_ended_while_waiting(pool, monkeypatch, renewal):
    """
    A job that was claimed and waits is not begun once its lease has ended unrenewed.
    """
    begun, go_on, ran = asyncio.Event(), asyncio.Event(), []

    async def work():
        begun.set()
        ran.append(1)
        await go_on.wait()

    monkeypatch.setattr("shared.scheduler._RENEW", renewal)
    lease = timedelta(seconds=0.5)
    scheduler = Scheduler(pool, [Job(f"job {i}", HOUR, work, lease) for i in range(12)])
    await scheduler.register()
    async with running(scheduler):
        await begun.wait()
        await pool.execute("UPDATE scheduler.jobs SET lease_id = gen_random_uuid()")
        await pool.execute("UPDATE scheduler.jobs SET lease_until = now() + interval '1 h'")
        await asyncio.sleep(0.8)
        go_on.set()
        await asyncio.sleep(0.3)

    assert len(ran) == 5
    assert await pool.fetchval("SELECT sum(runs) FROM scheduler.jobs") == 0


async def test_wrong_answer_of_the_database(identified, pool):
    """
    A loop to which another database answered for a while goes on when the right one is back.
    """
    scheduler = Scheduler(pool, [Job("a", HOUR, inserting(pool, "a"))])
    await scheduler.register()
    right, identified.expected = identified.expected, Expected(preview=True, number=7)
    await pool.expire_connections()
    async with running(scheduler) as task:
        while identified.refused < 2:
            await asyncio.sleep(0.02)
        identified.expected = right
        await until_says(pool, "SELECT count(*) FROM ran", 1)

        assert not task.done()


async def test_unknown_job_is_left_alone(pool):
    """
    A row without a function here is not claimed; it may be another version's.
    """
    await pool.execute("INSERT INTO scheduler.jobs (name, interval) VALUES ('other', '1 h')")
    scheduler = Scheduler(pool, [Job("a", HOUR, inserting(pool, "a"))])
    await scheduler.register()
    async with running(scheduler):
        await until_says(pool, "SELECT count(*) FROM ran", 1)

    assert (await row(pool, "other"))["last_started_at"] is None


async def test_database_trouble(pool):
    """
    A loop whose database fails for a while goes on when it is back.
    """
    scheduler = Scheduler(pool, [Job("a", HOUR, inserting(pool, "a"))])
    await scheduler.register()
    await pool.execute("ALTER TABLE scheduler.jobs RENAME TO away")
    async with running(scheduler):
        await asyncio.sleep(0.3)
        before = await pool.fetchval("SELECT count(*) FROM ran")
        await pool.execute("ALTER TABLE scheduler.away RENAME TO jobs")
        await until_says(pool, "SELECT count(*) FROM ran", 1)

    assert before == 0


async def test_two_processes(pool, worker):
    """
    Two processes share 1,000 due jobs: each job runs once, and both processes work.
    """
    await pool.execute(
        "INSERT INTO scheduler.jobs (name, interval)"
        " SELECT 'job ' || i, '1 h' FROM generate_series(0, 999) AS i"
    )
    async with worker(1000), worker(1000):
        await until_says(pool, "SELECT count(*) FROM scheduler.jobs WHERE runs > 0", 1000)
        await asyncio.sleep(0.5)

    assert await pool.fetchval("SELECT count(*) FROM ran") == 1000
    assert await pool.fetchval("SELECT count(DISTINCT name) FROM ran") == 1000
    assert await pool.fetchval("SELECT count(DISTINCT pid) FROM ran") == 2


async def test_killed_worker(pool, worker):
    """
    The job of a worker killed with -9 runs again after its lease, on the other worker.
    """
    await pool.execute("INSERT INTO scheduler.jobs (name, interval) VALUES ('job 0', '1 h')")
    async with worker(1, seconds=30, lease=1) as first:
        await until_says(pool, "SELECT count(*) FROM ran", 1)
        first.send_signal(signal.SIGKILL)
        lease_end = await pool.fetchval("SELECT lease_until FROM scheduler.jobs")
        async with worker(1, lease=1) as second:
            await until_says(pool, "SELECT runs FROM scheduler.jobs", 1)

    pids = [record["pid"] for record in await pool.fetch("SELECT pid FROM ran")]
    assert pids == [first.pid, second.pid]
    assert await pool.fetchval("SELECT last_started_at FROM scheduler.jobs") >= lease_end


@pytest.mark.hypothesis
@pytest.mark.timeout(1200)  # for the profile `ci`
def test_whatever_happens(identified, monkeypatch):
    """
    Whatever befalls workers and clocks: never twice for one due time while the worker lives,
    never before it is due, never lost.
    """
    clock, loop = Clock(), asyncio.new_event_loop()
    connection = loop.run_until_complete(identified.connect())

    def ask(method, *arguments):
        return loop.run_until_complete(getattr(connection, method)(*arguments))

    class Here(Workers):
        def __init__(self):
            super().__init__(identified, clock, ask)

    monkeypatch.setattr("shared.scheduler.time", clocked(clock))
    examples = settings().max_examples // 5  # each is thirty steps long
    try:
        with capture_logs():
            run_state_machine_as_test(
                Here, settings=settings(max_examples=examples, stateful_step_count=30)
            )
    finally:
        loop.run_until_complete(connection.close())
        loop.close()
