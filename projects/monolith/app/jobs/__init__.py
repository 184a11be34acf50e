"""The table of jobs: what the scheduler loop runs, and how often."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from app.jobs import changelog, gardener, ships, vault
from app.jobs.tools import Tools
from shared.scheduler import Job


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One job: its name, how often it is due, and what it does with the tools.

    Args:
        lease: how long its worker may be silent before another takes the job over.
    """

    name: str
    interval: timedelta
    work: Callable[[Tools], Awaitable[None]]
    lease: timedelta = timedelta(minutes=1)


JOBS = (
    Entry("changelog", timedelta(minutes=5), changelog.poll),
    Entry("gardener", timedelta(minutes=15), gardener.tend),
    Entry("ships", timedelta(minutes=5), ships.drop_old_positions),
    Entry("vault", timedelta(minutes=30), vault.push),
)
"""Every job, once. A preview mutes them all, because the loop that runs them is muted."""


def table(tools: Tools) -> tuple[Job, ...]:
    """Return the jobs that can run with these tools."""
    return tuple(
        Job(entry.name, entry.interval, partial(entry.work, tools), entry.lease)
        for entry in JOBS
        if entry.name not in tools.lacking
    )
