"""The job that keeps the table of positions small."""

from datetime import timedelta

import asyncpg

RETENTION = timedelta(days=30)
BATCH = 1000

_DROP = """
DELETE FROM ships.positions WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM ships.positions WHERE seen_at < now() - $1::interval LIMIT $2
))
"""


async def drop_old_positions(pool: asyncpg.Pool) -> None:
    """Drop positions past their retention, a bounded batch a transaction."""
    while await pool.execute(_DROP, RETENTION, BATCH) != "DELETE 0":
        pass
