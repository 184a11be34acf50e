"""The only module that runs jobs: it claims due rows of scheduler.jobs, one worker at a time."""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import structlog

log = structlog.get_logger()

_REGISTER = """
INSERT INTO scheduler.jobs (name, interval) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET interval = EXCLUDED.interval
"""
_CLAIM = """
UPDATE scheduler.jobs AS job
SET lease_id = $1, lease_until = clock_timestamp() + wanted.lease, last_started_at = clock_timestamp()
FROM (
  SELECT due.name, lease.lease
  FROM scheduler.jobs AS due
  JOIN unnest($2::text[], $3::interval[]) AS lease (name, lease) USING (name)
  WHERE due.next_run_at <= clock_timestamp()
    AND (due.lease_until IS NULL OR due.lease_until <= clock_timestamp())
  ORDER BY due.next_run_at
  LIMIT $4
  FOR UPDATE OF due SKIP LOCKED
) AS wanted
WHERE job.name = wanted.name
RETURNING job.name
"""
_RENEW = """
UPDATE scheduler.jobs SET lease_until = clock_timestamp() + $3
WHERE name = $1 AND lease_id = $2 AND lease_until > clock_timestamp()
"""
_FINISH = """
UPDATE scheduler.jobs
SET lease_id = NULL, lease_until = NULL, last_finished_at = clock_timestamp(),
    last_result = CASE WHEN $3::text IS NULL THEN 'ok' ELSE 'error' END, last_error = $3,
    runs = runs + 1, next_run_at = clock_timestamp() + interval * (1 + $4::float8)
WHERE name = $1 AND lease_id = $2
"""
_RELEASE = """
UPDATE scheduler.jobs SET lease_id = NULL, lease_until = NULL WHERE name = $1 AND lease_id = $2
"""
_LONGEST_ERROR = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """
    A name, an interval, and what to do then.

    Args:
        lease: how long a worker may be silent before another takes the job over.
            A worker that lives renews it, so a job may take longer than its lease.
    """

    name: str
    interval: timedelta
    run: Callable[[], Awaitable[None]]
    lease: timedelta = timedelta(minutes=1)


@dataclass(slots=True)
class Scheduler:
    """
    Run each due job once, however many workers share the table.

    Never runs a job twice for one due time: a claim locks its row, and a result
    counts only while the lease is still the claimer's. A job whose worker died
    comes back when its lease ends.

    Args:
        poll_seconds: how long to rest when nothing is due.
        jitter: the share of an interval by which a next run may be late, so
            that jobs of one interval spread out.
    """

    pool: asyncpg.Pool
    jobs: Iterable[Job]
    concurrency: int = 5
    poll_seconds: float = 1.0
    jitter: float = 0.1
    grace_seconds: float = 3.0
    worker: uuid.UUID = field(default_factory=uuid.uuid4)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def register(self) -> None:
        """Make a row for each job that has none, due at once, and keep intervals up to date."""
        rows = [(job.name, job.interval) for job in self.jobs]
        await self.pool.executemany(_REGISTER, rows)

