"""Routes of the scheduler: read and edit its table, and ask for a run where the loop runs."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from app.resources import Given
from shared.guard import StartupPoint

router = APIRouter(prefix="/api/scheduler/jobs", tags=["scheduler"])

_COLUMNS = """
name, coalesce(own_interval, interval) AS interval, own_interval IS NOT NULL AS interval_edited,
nullif(next_run_at, 'infinity') AS next_run_at, lease_until > clock_timestamp() IS TRUE AS running,
last_started_at, last_finished_at, last_result, last_error, runs
"""
_LIST = f"SELECT {_COLUMNS} FROM scheduler.jobs ORDER BY scheduler.jobs.next_run_at, name"
# What is parked stays parked, in a clone for good; what is due stays due.
_EDIT = f"""
UPDATE scheduler.jobs SET own_interval = $2, next_run_at = CASE
  WHEN next_run_at = 'infinity' THEN next_run_at
  ELSE least(next_run_at, clock_timestamp() + coalesce($2, interval))
END
WHERE name = $1 RETURNING {_COLUMNS}
"""
_RUN = "UPDATE scheduler.jobs SET next_run_at = clock_timestamp() WHERE name = $1 RETURNING name"


class Row(BaseModel):
    """A row of scheduler.jobs; a job that is parked has no `next_run_at`."""

    name: str
    interval: timedelta
    interval_edited: bool
    next_run_at: datetime | None
    running: bool
    last_started_at: datetime | None
    last_finished_at: datetime | None
    last_result: Literal["ok", "error"] | None
    last_error: str | None
    runs: int


class Edit(BaseModel):
    """A person's own interval of a job, as ISO 8601 or seconds; null gives it back to the table."""

    model_config = ConfigDict(extra="forbid")

    interval: Annotated[timedelta, Field(ge=timedelta(minutes=1), le=timedelta(days=31))] | None


@router.get("")
async def find(given: Given) -> list[Row]:
    """List the jobs, the one that is due first at the top."""
    return [Row(**row) for row in await given.pool.fetch(_LIST)]


@router.patch("/{name}")
async def edit(given: Given, name: str, changed: Edit) -> Row:
    """Edit how often a job is due; it acts on nothing, so a preview may, too."""
    row = await given.pool.fetchrow(_EDIT, name, changed.interval)
    if row is None:
        raise HTTPException(404, f"There is no job {name!r}.")
    return Row(**row)


@router.post("/{name}/run", status_code=202)
async def run(given: Given, name: str) -> None:
    """Make a job due now; refused where the scheduler loop is muted."""
    given.settings.guard.require(StartupPoint.SCHEDULER)
    if await given.pool.fetchval(_RUN, name) is None:
        raise HTTPException(404, f"There is no job {name!r}.")
