"""Workers of the scheduler whose clocks, loops and ends a state machine holds in its hands."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from shared.database import Database
from shared.scheduler import Job, Scheduler

LEASE = 60
STEP = LEASE // 3
JOBS = ("a", "b")
INTERVALS = st.sampled_from([45, 100, 300])
MOST_WORKERS = 3

TURNS = 12
"""Of a loop without a query: by then all has been done that can be done now."""

_MOVE = """
UPDATE scheduler.jobs
SET next_run_at = next_run_at - $1::interval, lease_until = lease_until - $1::interval,
    last_started_at = last_started_at - $1::interval
RETURNING name, lease_until <= clock_timestamp() AND lease_until + $1 > clock_timestamp() AS ended
"""
_ROWS = "SELECT *, clock_timestamp() AS now FROM scheduler.jobs ORDER BY name"


class Clock:
    """A monotonic clock that can be told to go ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Return the time of every loop and worker."""
        return time.monotonic() + self.ahead


class ClockedLoop(asyncio.SelectorEventLoop):
    """An event loop that reads such a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__()

    def time(self) -> float:
        """Return the time by which timers fire."""
        return self._clock.monotonic()


class Line:
    """A worker's line to the database: it says when it is busy, and can be cut."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self._busy, self.cut = 0, False
        self.idle = asyncio.Event()
        self.idle.set()

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self.cut:
            raise ConnectionResetError
        self._busy += 1
        self.idle.clear()
        try:
            return await getattr(self.pool, method)(*arguments)
        finally:
            self._busy -= 1
            if not self._busy:
                self.idle.set()

    async def fetch(self, *arguments: Any) -> Any:
        """Ask for rows."""
        return await self._call("fetch", *arguments)

    async def execute(self, *arguments: Any) -> Any:
        """Run a statement."""
        return await self._call("execute", *arguments)

    async def executemany(self, *arguments: Any) -> Any:
        """Run a statement for each row."""
        return await self._call("executemany", *arguments)


class Worker:
    """
    A scheduler with a loop and connections of its own, as a process has them.

    It lives only while it is told to `settle`: one that is not told any more has crashed or is
    frozen, wherever it was. `running` has the job runs that have begun and not ended.
    """

    def __init__(self, database: Database, clock: Clock, intervals: dict[str, int]) -> None:
        self.running: dict[str, asyncio.Future[None]] = {}
        self.begun: list[str] = []
        self.due: dict[str, datetime] = {}
        self.excused: set[str] = set()
        self.frozen = self.stopping = False
        self._stack, self._loop = AsyncExitStack(), ClockedLoop(clock)
        pool = self._loop.run_until_complete(self._stack.enter_async_context(database.pool(2)))
        self._line = Line(pool)
        lease = timedelta(seconds=LEASE)
        jobs = [
            Job(name, timedelta(seconds=interval), self._work(name), lease)
            for name, interval in intervals.items()
        ]
        self._scheduler = Scheduler(self._line, jobs)  # type: ignore[arg-type]
        self._loop.run_until_complete(self._scheduler.register())
        self._task = self._loop.create_task(self._scheduler.run())

    def _work(self, name: str) -> Callable[[], Any]:
        async def work() -> None:
            self.running[name] = self._loop.create_future()
            self.begun.append(name)
            try:
                await self.running[name]
            finally:
                del self.running[name]
                self.excused.discard(name)

        return work

    @property
    def ended(self) -> bool:
        """Whether it has returned, as it does some time after a stop."""
        return self._task.done()

    def settle(self) -> None:
        """Let it do all that it does before more time passes."""

        async def quiet() -> None:
            calm = 0
            while calm < TURNS:
                await asyncio.sleep(0)
                calm = calm + 1 if self._line.idle.is_set() else 0
                await self._line.idle.wait()

        self._loop.run_until_complete(quiet())

    def stagger(self, turns: int) -> None:
        """Let it go on for a few turns of its loop, and no further."""

        async def a_few() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self._loop.run_until_complete(a_few())

    def finish(self, name: str, error: Exception | None) -> None:
        """Let a job that runs succeed or fail."""
        if error:
            self.running[name].set_exception(error)
        else:
            self.running[name].set_result(None)
        self.settle()

    def stop(self) -> None:
        """Tell it to stop."""
        self.stopping = True
        self._scheduler.stop()

    def bury(self) -> None:
        """Close its loop and connections; nothing of it reaches the database any more."""
        self._line.cut = True

        async def all_others_end() -> None:
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                for other in others:
                    other.cancel()
                await asyncio.wait(others)

        async def end() -> None:
            await all_others_end()
            self._line.pool.terminate()
            await self._stack.aclose()
            await all_others_end()

        self._loop.run_until_complete(end())
        self._loop.close()


def picked(several: Sequence[Any], which: int) -> Any:
    """Pick one; what is drawn does not depend on how many there are, as time is never the same."""
    return several[which % len(several)]


class Workers(RuleBasedStateMachine):
    """
    Several workers on one table, and everything that may happen to them.

    Checked all the time: no job begins while a worker whose lease is good runs it; none begins
    before it is due; a living worker's lease does not end; what is due begins as soon as a
    worker is free; a result counts once for a due time. At the end: nothing was lost.
    """

    def __init__(self, database: Database, clock: Clock, ask: Callable[..., Any]) -> None:
        super().__init__()
        self._database, self._clock, self._ask = database, clock, ask
        self.workers: list[Worker] = []
        self.crashed: list[Worker] = []
        self.moved = timedelta(0)
        self.calm = 2 * STEP
        self.counted: set[tuple[str, datetime]] = set()
        self._ask("execute", "TRUNCATE scheduler.jobs")

    @property
    def awake(self) -> list[Worker]:
        """Workers that do something."""
        return [worker for worker in self.workers if not worker.frozen]

    def rows(self) -> dict[str, Any]:
        """Return every job's row by name."""
        return {row["name"]: row for row in self._ask("fetch", _ROWS)}

    @rule(a=INTERVALS, b=INTERVALS)
    def start(self, a: int, b: int) -> None:
        """A worker starts, perhaps of a version with other intervals."""
        if not (len(self.workers) < MOST_WORKERS):
            return
        self.workers.append(Worker(self._database, self._clock, {"a": a, "b": b}))
        self.settle()

    @rule(
        which=st.integers(0, 5), turns=st.integers(0, TURNS), seconds=st.sampled_from([0, 1, STEP])
    )
    def crash(self, which: int, turns: int, seconds: int) -> None:
        """A worker is killed, a few turns into whatever the time has made it do."""
        if not (self.awake):
            return
        worker = picked(self.awake, which)
        self.move(seconds)
        worker.stagger(turns)
        self.workers.remove(worker)
        self.crashed.append(worker)
        worker.excused |= set(JOBS)
        self.settle()

    @rule(which=st.integers(0, 5))
    def freeze(self, which: int) -> None:
        """A worker's process is suspended."""
        if not (self.awake):
            return
        picked(self.awake, which).frozen = True

    @rule(which=st.integers(0, 5))
    def thaw(self, which: int) -> None:
        """A suspended worker goes on."""
        if not (len(self.awake) < len(self.workers)):
            return
        asleep = [worker for worker in self.workers if worker.frozen]
        picked(asleep, which).frozen = False
        self.calm = 0
        self.settle()

    @rule(which=st.integers(0, 5))
    def stop(self, which: int) -> None:
        """A worker is told to stop."""
        if not (self.awake):
            return
        picked(self.awake, which).stop()
        self.settle()

    @rule(seconds=st.sampled_from([1, 20, 70, 130]))
    def pass_time(self, seconds: int) -> None:
        """Time passes, for everybody."""
        while seconds > 0:
            step = min(seconds, STEP)
            ending = self.move(step)
            for worker in self.awake:
                lost = ending & set(worker.running) - worker.excused
                assert not lost, f"a live lease ended: {lost}"
            self.calm += step
            self.settle()
            seconds -= step
        self.nothing_waits()

    @rule(seconds=st.sampled_from([-3600, -30, -1, 5, 30, 100, 3600]))
    def jump(self, seconds: int) -> None:
        """The database's clock is set."""
        self.calm = 0
        self.move(seconds, jump=True)
        self.settle()

    @rule(name=st.sampled_from(JOBS))
    def ask_for(self, name: str) -> None:
        """Somebody asks for a job now."""
        query = "UPDATE scheduler.jobs SET next_run_at = clock_timestamp() WHERE name = $1"
        self._ask("execute", query, name)

    @rule(which=st.integers(0, 5), error=st.sampled_from([None, None, ValueError("no")]))
    def finish(self, which: int, error: Exception | None) -> None:
        """A job ends, well or badly; its result counts once, and it is due an interval later."""
        runs = [(worker, name) for worker in self.awake for name in worker.running]
        if not runs:
            return
        worker, name = picked(runs, which)
        before = self.rows()[name]
        holds = name not in worker.excused
        worker.finish(name, error)
        after = self.rows()[name]
        if after["runs"] == before["runs"]:
            assert not holds, "the result of a good lease did not count"
            return
        due = (name, worker.due[name])
        assert due not in self.counted, "two results for one due time"
        self.counted.add(due)
        assert after["runs"] == before["runs"] + 1
        assert after["last_result"] == ("error" if error else "ok")
        asked = before["next_run_at"] > before["last_started_at"]
        expected = before["next_run_at"] if asked else before["now"] + before["interval"]
        assert after["next_run_at"] >= expected
        self.settle()

    def move(self, seconds: int, *, jump: bool = False) -> set[str]:
        """Move the database's clock, and unless it jumps everybody's; name the leases that end."""
        delta = timedelta(seconds=seconds)
        ending = {row["name"] for row in self._ask("fetch", _MOVE, delta) if row["ended"]}
        for worker in self.workers:
            if jump or worker.frozen or self.calm < 2 * STEP:  # not renewed since a jump
                worker.excused |= ending & set(worker.running)
        self.moved += delta
        if not jump:
            self._clock.ahead += seconds
        return ending

    def settle(self) -> None:
        """Let every worker that is awake do all that it does now, and judge what has begun."""
        for worker in self.awake:
            worker.settle()
            for name in worker.begun:
                self.judge(worker, name)
            worker.begun.clear()
            if worker.ended:
                self.workers.remove(worker)
                worker.bury()

    def judge(self, worker: Worker, name: str) -> None:
        """Judge that a worker has begun a job."""
        row = self.rows()[name]
        others = [other for other in self.workers if other is not worker and name in other.running]
        assert all(name in other.excused for other in others), "two good leases for one job"
        assert row["next_run_at"] <= row["now"], "begun before it was due"
        worker.due[name] = row["next_run_at"] + self.moved

    def nothing_waits(self) -> None:
        """What is due and nobody's has begun, where a worker was free to begin it."""
        for row in self.rows().values():
            free = [w for w in self.awake if not w.stopping and row["name"] not in w.running]
            waits = row["next_run_at"] <= row["now"] and row["lease_id"] is None
            assert not (waits and free), "due, and nobody begins it"

    def teardown(self) -> None:
        """Whatever happened: a fresh worker runs every job once all leases are over."""
        names = set(self.rows())
        try:
            if names:
                self._run_all(names)
        finally:
            for worker in [*self.workers, *self.crashed]:
                worker.bury()

    def _run_all(self, names: set[str]) -> None:
        for worker in self.workers:
            worker.frozen = True
        fresh = Worker(self._database, self._clock, dict.fromkeys(JOBS, 45))
        self.workers.append(fresh)
        rows = list(self.rows().values())
        last = max(row["lease_until"] or row["next_run_at"] for row in rows)
        last = max(last, *(row["next_run_at"] for row in rows))
        self.move(max(0, int((last - rows[0]["now"]).total_seconds())) + 2)
        fresh.settle()
        assert set(fresh.begun) == names, "lost"


def clocked(clock: Clock) -> SimpleNamespace:
    """Return what the scheduler takes for the module `time`."""
    return SimpleNamespace(monotonic=clock.monotonic)
