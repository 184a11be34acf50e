"""The Postgres that tests run on: a source, started for a session or handed to it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from preview import migrations
from preview.binaries import Binaries
from preview.postgres import APP, DATABASE, SOURCE_SETTINGS, Engine, create_database
from shared.identity import SOURCE

HANDED = "TEST_SOURCE_HOME"
"""Names the home of a source that runs already; a process for each mutant needs no Postgres each."""

MIGRATED = "migrated"
QUICK = {**SOURCE_SETTINGS, "fsync": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}


@asynccontextmanager
async def running_source(home: Path, binaries: Binaries) -> AsyncIterator[Engine]:
    """Yield the source that was handed over, or start one; it dies with this process."""
    if HANDED in os.environ:
        yield Engine(SOURCE, Path(os.environ[HANDED]), binaries)
        return
    engine = Engine(SOURCE, home, binaries)
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
