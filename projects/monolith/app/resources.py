"""What routes and startup points are handed, and nothing fetches from a global."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, cast

import asyncpg
from fastapi import Depends, Request

from shared.database import Database
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Resources:
    """The settings with their guard, the identified database and its pool."""

    settings: Settings
    database: Database
    pool: asyncpg.Pool
    started_at: datetime


def started_now(settings: Settings, database: Database, pool: asyncpg.Pool) -> Resources:
    """Bundle what a start has made."""
    return Resources(settings, database, pool, datetime.now(UTC))


def _of(request: Request) -> Resources:
    return cast("Resources", request.app.state.resources)


Given = Annotated[Resources, Depends(_of)]
"""Declare a route's parameter as this to be handed the resources."""
