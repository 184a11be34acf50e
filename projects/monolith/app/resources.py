"""What routes and startup points are handed, and nothing fetches from a global."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, cast

import asyncpg
from fastapi import Depends, Request

from shared.database import Database
from shared.guard import StartupPoint
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings with their guard, the identified database, its pool, and what has failed."""

    settings: Settings
    database: Database
    pool: asyncpg.Pool
    started_at: datetime
    failures: Counter[StartupPoint] = field(default_factory=Counter)


def started_now(settings: Settings, database: Database, pool: asyncpg.Pool) -> Resources:
    """Bundle what a start has made."""
    return Resources(settings, database, pool, datetime.now(UTC))


def _of(request: Request) -> Resources:
    return cast("Resources", request.app.state.resources)


Given = Annotated[Resources, Depends(_of)]
"""Declare a route's parameter as this to be handed the resources."""
