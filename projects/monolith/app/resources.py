"""What routes and startup points are handed, and nothing fetches from a global."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, cast

import asyncpg
from fastapi import Depends, Request

from app.access import Door
from shared.database import Database
from shared.guard import StartupPoint
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings with their guard, the database and its pool, the door, and what has failed."""

    settings: Settings
    database: Database
    pool: asyncpg.Pool
    started_at: datetime
    door: Door | None
    failures: Counter[StartupPoint] = field(default_factory=Counter)


def started_now(
    settings: Settings, database: Database, pool: asyncpg.Pool, door: Door | None
) -> Resources:
    """Bundle what a start has made."""
    return Resources(settings, database, pool, datetime.now(UTC), door)


def _of(request: Request) -> Resources:
    return cast("Resources", request.app.state.resources)


Given = Annotated[Resources, Depends(_of)]
"""Declare a route's parameter as this to be handed the resources."""
