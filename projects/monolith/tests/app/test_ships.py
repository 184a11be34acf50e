import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.jobs import ships
from app.jobs.tools import Tools
from preview.seed import seed

LONG_AGO = datetime(2026, 1, 1, 10, tzinfo=UTC)


@pytest.fixture
async def tools(pool, monkeypatch):
    """What the job works with; it does not pause, and there is a ship."""
    monkeypatch.setattr(ships, "PAUSE_SECONDS", 0)
    await pool.execute("INSERT INTO ships.ships VALUES (200000001, 'Heron', 'tug')")
    return Tools(pool)


async def saw(pool, minutes, latitude, speed):
    await pool.execute(
        "INSERT INTO ships.positions VALUES (200000001, $1, $2, 0, $3)",
        LONG_AGO + timedelta(minutes=minutes), latitude, speed,
    )  # fmt: skip


async def tracks(pool):
    rows = await pool.fetch("SELECT * FROM ships.tracks ORDER BY mmsi, hour")
    return [
        (row["hour"].hour, row["latitude"], row["top_speed_knots"], row["positions"])
        for row in rows
    ]


async def test_tracks(pool, tools):
    """
    Of each hour that goes, a ship's last position stays, with its top speed and their number.
    """
    for minutes, latitude, speed in [(0, 50, 9), (59, 51, 3), (30, 52, 5), (60, 53, 1)]:
        await saw(pool, minutes, latitude, speed)
    await ships.drop_old_positions(tools)

    assert await tracks(pool) == [(10, 51, 9, 3), (11, 53, 1, 1)]
    assert await pool.fetchval("SELECT count(*) FROM ships.positions") == 0


@pytest.mark.parametrize(("minutes", "latitude"), [(58, 51), (59.5, 60)], ids=["older", "newer"])
async def test_late_position(pool, tools, minutes, latitude):
    """
    A position that comes after its hour has gone is added to the track, and nothing counts twice.
    """
    await saw(pool, 59, 51, 3)
    await ships.drop_old_positions(tools)
    await ships.drop_old_positions(tools)
    await saw(pool, minutes, 60, 8)
    await ships.drop_old_positions(tools)

    assert await tracks(pool) == [(10, latitude, 8, 2)]


async def test_large(pool, tools):
    """
    Tens of thousands of positions go in bounded batches, all that are old and no other.
    """
    async with pool.acquire() as connection:
        await seed(connection)
    old = "SELECT count(*) FROM ships.positions WHERE seen_at < now() - interval '30 days'"
    everything = "SELECT count(*) FROM ships.positions"
    before, many = await pool.fetchval(everything), await pool.fetchval(old)
    await ships.drop_old_positions(tools)

    assert many > ships.BATCH
    assert await pool.fetchval(old) == 0
    assert await pool.fetchval(everything) == before - many
    assert await pool.fetchval("SELECT sum(positions) FROM ships.tracks") == many


async def test_batch(pool, tools, monkeypatch):
    """
    A batch reads by the index, drops no more than its bound, and locks nobody out of the table.
    """
    monkeypatch.setattr(ships, "BATCH", 10)
    async with pool.acquire() as connection:
        await seed(connection)
        await connection.execute("ANALYZE ships.positions")
        async with connection.transaction():
            plan = await connection.fetch("EXPLAIN " + ships._DROP, ships.RETENTION, 10)
            gone = await connection.fetchval(ships._DROP, ships.RETENTION, 10)
            await pool.execute("INSERT INTO ships.positions VALUES (200000001, now(), 1, 1, 1)")

    assert gone == 10
    assert "positions_seen_at" in "\n".join(line[0] for line in plan)


async def test_crash(pool, tools, monkeypatch):
    """
    A crash between batches loses nothing, and the next run counts nothing twice.
    """
    monkeypatch.setattr(ships, "BATCH", 4)
    for minutes in range(10):
        await saw(pool, minutes, 50, 1)

    async def crash(_seconds):
        raise KeyError

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", crash)
        with pytest.raises(KeyError):
            await ships.drop_old_positions(tools)
    between = await tracks(pool)
    await ships.drop_old_positions(tools)

    assert (between, await tracks(pool)) == ([(10, 50, 1, 4)], [(10, 50, 1, 10)])


async def test_two_workers(pool, tools, monkeypatch):
    """
    Workers at once share the positions: each counts once, and none waits for another for good.
    """
    monkeypatch.setattr(ships, "BATCH", 50)
    async with pool.acquire() as connection:
        await seed(connection)
        await connection.execute("UPDATE ships.positions SET seen_at = seen_at - interval '90 d'")
    await asyncio.gather(*(ships.drop_old_positions(tools) for _ in range(4)))

    assert await pool.fetchval("SELECT count(*) FROM ships.positions") == 0
    assert await pool.fetchval("SELECT sum(positions) FROM ships.tracks") == 30_000
