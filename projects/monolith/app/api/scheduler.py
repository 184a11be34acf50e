"""Routes of the scheduler: read its table, and ask for a run where the loop runs."""

from datetime import datetime, timedelta
from typing import Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel

from app.resources import Given
from shared.guard import StartupPoint

router = APIRouter(prefix="/api/scheduler/jobs", tags=["scheduler"])

_LIST = """
SELECT name, interval, nullif(next_run_at, 'infinity') AS next_run_at,
  lease_until > clock_timestamp() IS TRUE AS running,
  last_started_at, last_finished_at, last_result, last_error, runs
FROM scheduler.jobs ORDER BY scheduler.jobs.next_run_at, name
"""
_RUN = "UPDATE scheduler.jobs SET next_run_at = clock_timestamp() WHERE name = $1 RETURNING name"


class Row(BaseModel):
    """A row of scheduler.jobs; a job that is parked has no `next_run_at`."""

    name: str
    interval: timedelta
    next_run_at: datetime | None
    running: bool
    last_started_at: datetime | None
    last_finished_at: datetime | None
    last_result: Literal["ok", "error"] | None
    last_error: str | None
    runs: int


@router.get("")
async def find(given: Given) -> list[Row]:
    """List the jobs, the one that is due first at the top."""
    return [Row(**row) for row in await given.pool.fetch(_LIST)]


@router.post("/{name}/run", status_code=202)
async def run(given: Given, name: str) -> None:
    """Make a job due now; refused where the scheduler loop is muted."""
    given.settings.guard.require(StartupPoint.SCHEDULER)
    if await given.pool.fetchval(_RUN, name) is None:
        raise HTTPException(404, f"There is no job {name!r}.")
