"""The only module that runs jobs: it claims due rows of scheduler.jobs on the identified pool."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import structlog

from shared.errors import MonolithError

BATCH = 20
CONCURRENCY = 5
POLL_SECONDS = 1.0
JITTER = 0.1
GRACE_SECONDS = 2.0

_REGISTER = """
INSERT INTO scheduler.jobs (name, interval) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET interval = EXCLUDED.interval
"""
_CLAIM = """
WITH due AS MATERIALIZED (
  SELECT job.name, mine.lease
  FROM scheduler.jobs AS job
  JOIN unnest($2::text[], $3::interval[]) AS mine (name, lease) ON mine.name = job.name
  WHERE job.next_run_at <= clock_timestamp()
    AND (job.lease_until IS NULL OR job.lease_until <= clock_timestamp())
  ORDER BY job.next_run_at
  LIMIT $4
  FOR UPDATE OF job SKIP LOCKED
)
UPDATE scheduler.jobs AS job
SET lease_id = $1, lease_until = clock_timestamp() + due.lease,
    last_started_at = clock_timestamp()
FROM due
WHERE job.name = due.name
RETURNING job.name
"""
_RENEW = """
UPDATE scheduler.jobs AS job SET lease_until = clock_timestamp() + mine.lease
FROM unnest($2::text[], $3::interval[]) AS mine (name, lease)
WHERE job.name = mine.name AND job.lease_id = $1
RETURNING job.name
"""
_FINISH = """
UPDATE scheduler.jobs
SET lease_id = NULL, lease_until = NULL, last_finished_at = clock_timestamp(),
    last_result = CASE WHEN $3::text IS NULL THEN 'ok' ELSE 'error' END, last_error = $3,
    runs = runs + 1, next_run_at = CASE
      WHEN next_run_at > last_started_at THEN next_run_at  -- asked for while it ran
      ELSE clock_timestamp() + coalesce(own_interval, interval) * (1 + $4::float8)
    END
WHERE name = $2 AND lease_id = $1
"""
_RELEASE = """
UPDATE scheduler.jobs SET lease_id = NULL, lease_until = NULL WHERE name = $2 AND lease_id = $1
"""
_LONGEST_ERROR = 1000

_DATABASE_TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, MonolithError)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """
    A name, an interval, and what to do then.

    Args:
        lease: how long its worker may be silent before another worker takes the
            job over. A worker that lives renews it, so a job may take longer.
    """

    name: str
    interval: timedelta
    run: Callable[[], Awaitable[None]]
    lease: timedelta = timedelta(minutes=1)


class Scheduler:
    """
    Run each due job once, however many workers share the table.

    Never runs a job twice for one due time while its worker lives: a claim locks
    the row, and a result counts only while the lease is the claimer's. A job
    whose worker died comes back when its lease ends.
    """

    def __init__(self, pool: asyncpg.Pool, jobs: Iterable[Job]) -> None:
        self._pool = pool
        self._jobs = {job.name: job for job in jobs}
        self._worker = uuid.uuid4()
        self._held: dict[str, asyncio.Task[None]] = {}
        self._good_until: dict[str, float] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()

    async def register(self) -> None:
        """
        Make a row for each job that has none, due at once, and keep intervals up to date.

        A person's own interval stands beside the table's, and stays.
        """
        rows = [(job.name, job.interval) for job in self._jobs.values()]
        await self._pool.executemany(_REGISTER, rows)

    def stop(self) -> None:
        """Claim nothing more; `run` returns once what runs has ended or its grace is over."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Claim and run due jobs until `stop`; what did not end in time goes back at once."""
        async with asyncio.TaskGroup() as tasks:
            heartbeat = tasks.create_task(self._renew_leases())
            while not self._stopping.is_set():
                self._wake.clear()
                for name in await self._claim():
                    self._held[name] = tasks.create_task(self._hold(self._jobs[name]))
                await self._rest()
            if self._held:
                await asyncio.wait(self._held.values(), timeout=GRACE_SECONDS)
            for task in self._held.values():
                task.cancel()
            heartbeat.cancel()

    async def _claim(self) -> list[str]:
        free = [job for job in self._jobs.values() if job.name not in self._held]
        names, leases = [job.name for job in free], [job.lease for job in free]
        asked = time.monotonic()
        try:
            rows = await self._pool.fetch(
                _CLAIM, self._worker, names, leases, BATCH - len(self._held)
            )
        except _DATABASE_TROUBLE as error:
            log.error("scheduler cannot claim", error=str(error))
            return []
        return self._good([row["name"] for row in rows], asked)

    def _good(self, names: list[str], since: float) -> list[str]:
        """Remember until when the leases of these jobs are ours, by our own clock."""
        for name in names:
            self._good_until[name] = since + self._jobs[name].lease.total_seconds()
        return names

    def _is_good(self, name: str) -> bool:
        return time.monotonic() < self._good_until[name]

    async def _rest(self) -> None:
        """Rest until a full batch has half drained, else until the next poll."""
        timeout = None if len(self._held) >= BATCH else POLL_SECONDS
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _hold(self, job: Job) -> None:
        ended = False
        try:
            async with self._slots:
                if not self._stopping.is_set() and self._is_good(job.name):
                    error = await self._attempt(job)
                    ended = True
                    await self._finish(job, error)
        except _DATABASE_TROUBLE as trouble:
            log.error("scheduler cannot record a result", job=job.name, error=str(trouble))
        finally:
            del self._held[job.name]
            if len(self._held) <= BATCH // 2:
                self._wake.set()
            if not ended:
                await self._release(job)

    async def _attempt(self, job: Job) -> str | None:
        began = time.monotonic()
        try:
            await job.run()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            log.exception("job failed", job=job.name)
            return _storable(f"{type(error).__name__}: {error}")
        with suppress(OSError):  # a full log fails no job
            log.info("job ran", job=job.name, seconds=round(time.monotonic() - began, 3))
        return None

    async def _finish(self, job: Job, error: str | None) -> None:
        late = random.uniform(0, JITTER)  # noqa: S311  spreads load, guards nothing
        await self._pool.execute(_FINISH, self._worker, job.name, error, late)

    async def _release(self, job: Job) -> None:
        try:
            await self._pool.execute(_RELEASE, self._worker, job.name)
        except _DATABASE_TROUBLE as error:
            log.error("scheduler cannot release a job", job=job.name, error=str(error))

    async def _renew_leases(self) -> None:
        shortest = min((job.lease for job in self._jobs.values()), default=timedelta(minutes=1))
        while True:
            await asyncio.sleep(shortest.total_seconds() / 3)
            try:
                await self._renew()
            except _DATABASE_TROUBLE as error:
                log.error("scheduler cannot renew leases", error=str(error))
            for name in [name for name in self._held if not self._is_good(name)]:
                log.error("job lost its lease", job=name)
                self._held[name].cancel()

    async def _renew(self) -> None:
        """Renew what is still ours; what is not is no longer good."""
        asked = time.monotonic()
        held = [self._jobs[name] for name in self._held]
        names, leases = [job.name for job in held], [job.lease for job in held]
        rows = await self._pool.fetch(_RENEW, self._worker, names, leases)
        kept = self._good([row["name"] for row in rows], asked)
        for name in set(names) - set(kept):
            self._good_until[name] = asked


def _storable(text: str) -> str:
    """Make a text that Postgres can store: without NUL and lone surrogates, and not too long."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")[:_LONGEST_ERROR]
