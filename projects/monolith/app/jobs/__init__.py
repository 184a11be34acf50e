"""The table of jobs: what the scheduler loop runs, and how often."""

from datetime import timedelta
from functools import partial

import asyncpg

from app.jobs import gardener, ships
from shared.scheduler import Job


def table(pool: asyncpg.Pool) -> tuple[Job, ...]:
    """Name every job once, with its interval and what it needs."""
    return (
        Job("gardener", timedelta(minutes=15), partial(gardener.tend, pool)),
        Job("ships", timedelta(minutes=5), partial(ships.drop_old_positions, pool)),
    )
