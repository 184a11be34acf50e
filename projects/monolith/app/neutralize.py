"""The only module that makes a clone harmless, and says what was found in it."""

import json
from importlib.resources import files
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.database import Database
from shared.errors import NeutralizeError

_ARMED = """
SELECT (SELECT count(*) FROM outbox.messages) + count(*)
FROM scheduler.jobs WHERE next_run_at < 'infinity' OR lease_id IS NOT NULL
"""
_FOUND = "SELECT at, counts FROM preview.neutralized"


async def neutralize(database: Database) -> dict[str, Any]:
    """
    Run neutralize.sql on an identified clone, in one transaction, and return what it found.

    Raises:
        NeutralizeError: the database is production's, or something in it is armed afterwards.
    """
    if not database.expected.preview:
        raise NeutralizeError(expected="a preview", found="PR_ENV says production")
    async with database.pool() as pool, pool.acquire() as connection, connection.transaction():
        await connection.execute(files("app").joinpath("neutralize.sql").read_text())
        if armed := await connection.fetchval(_ARMED):
            found = f"the database has {armed} armed rows"
            raise NeutralizeError(expected="none afterwards", found=found)
        return await neutralized(connection) or {}


async def neutralized(connection: asyncpg.Pool | PoolConnectionProxy) -> dict[str, Any] | None:
    """Say when a clone was neutralised and what was found in it; None where it never was."""
    try:
        row = await connection.fetchrow(_FOUND)
    except asyncpg.UndefinedTableError:  # an older schema
        return None
    return {"at": row["at"].isoformat(), "counts": json.loads(row["counts"])} if row else None
