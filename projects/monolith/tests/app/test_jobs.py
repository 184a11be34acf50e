from typing import cast

import asyncpg
import pytest

from app.jobs import gardener, ships, table
from preview.seed import JOBS, seed
from shared.database import Database
from shared.settings import Settings
from tests.environment import environment


@pytest.fixture
async def pool(database):
    """The pool of a new, seeded production database."""
    with environment(DATABASE_URL=await database()):
        identified = Database.from_settings(Settings())
    async with identified.pool() as pool:
        async with pool.acquire() as connection:
            await seed(cast("asyncpg.Connection", connection))
        yield pool


async def test_ships(pool):
    """
    Positions past their retention are dropped, all of them and no other.
    """
    kept = "SELECT count(*) FROM ships.positions WHERE seen_at >= now() - interval '30 days'"
    before = await pool.fetchval(kept), await pool.fetchval("SELECT count(*) FROM ships.positions")
    await ships.drop_old_positions(pool)

    assert before[1] - before[0] > ships.BATCH
    assert await pool.fetchval("SELECT count(*) FROM ships.positions") == before[0]


async def test_gardener(pool):
    """
    Every [[link]] without a note gets a stub, once, however often the gardener comes.
    """
    stubs = "SELECT count(*) FROM notes.notes WHERE tags = '{stub}'"
    await gardener.tend(pool)
    made = await pool.fetchval(stubs)
    await gardener.tend(pool)

    assert made > 100
    assert await pool.fetchval(stubs) == made
    assert (
        await pool.fetchval("SELECT count(DISTINCT title) FROM notes.notes WHERE tags = '{stub}'")
        == made
    )


async def test_seed(pool):
    """
    The seed has thousands of notes, ships with positions, and due rows for every job of the table.
    """
    assert await pool.fetchval("SELECT count(*) FROM notes.notes") == 5_000
    assert await pool.fetchval("SELECT count(*) FROM ships.positions") == 30_000
    due = await pool.fetch("SELECT name, interval FROM scheduler.jobs WHERE next_run_at < now()")
    assert {row["name"]: row["interval"] for row in due} == JOBS
    assert {job.name: job.interval for job in table(pool)} == JOBS
