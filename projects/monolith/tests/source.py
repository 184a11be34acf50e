"""The Postgres that tests run on: a source and a clone of it, started here or handed over."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from preview import migrations
from preview.binaries import Binaries
from preview.clone import CLONE_SETTINGS, clone
from preview.postgres import (
    APP,
    DATABASE,
    SOURCE_SETTINGS,
    Engine,
    create_database,
    rotate_passwords,
)
from shared.identity import SOURCE, clone_name

HANDED = "TEST_ENGINES"
"""Names a directory in which both run already: a process for each mutant needs none of its own."""

MIGRATED = "migrated"
QUICK = {**SOURCE_SETTINGS, "fsync": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}


@asynccontextmanager
async def running_source(place: Path, binaries: Binaries) -> AsyncIterator[Engine]:
    """Yield the source, with a role `app` and a migrated database."""
    if HANDED in os.environ:
        yield Engine(SOURCE, Path(os.environ[HANDED], "source"), binaries)
        return
    engine = Engine(SOURCE, place / "source", binaries)
    engine.init()
    await engine.start(QUICK, die_with_parent=True)
    await create_database(engine)
    async with engine.connect(APP, DATABASE) as connection:
        await migrations.apply(connection, migrations.DIRECTORY)
    async with engine.connect() as connection:
        await connection.execute(
            f"CREATE DATABASE {MIGRATED} TEMPLATE {DATABASE} OWNER {APP} ALLOW_CONNECTIONS false"
        )
    yield engine
    await engine.stop()


@asynccontextmanager
async def running_clone(place: Path, source: Engine, binaries: Binaries) -> AsyncIterator[Engine]:
    """Yield the clone for pull request 7, with passwords of its own."""
    if HANDED in os.environ:
        yield Engine(clone_name(7), Path(os.environ[HANDED], "clone"), binaries)
        return
    engine = Engine(clone_name(7), place / "clone", binaries)
    await start_clone(source, engine)
    yield engine
    await engine.stop()


async def start_clone(source: Engine, engine: Engine) -> None:
    """Clone the source while it runs, and start the clone."""
    await clone(source, engine)
    await engine.start(CLONE_SETTINGS, die_with_parent=True)
    await rotate_passwords(engine)


async def until_says(pool: asyncpg.Pool, query: str, expected: object) -> None:
    """Wait until a query gives what is expected; the test's timeout ends it otherwise."""
    while await pool.fetchval(query) != expected:
        await asyncio.sleep(0.02)
