import json
from typing import cast

import asyncpg
import pytest

from app.neutralize import neutralize
from preview.postgres import Engine
from preview.seed import seed
from shared.errors import NeutralizeError
from tests.environment import read

ROWS = "SELECT * FROM scheduler.jobs ORDER BY name"
OUTBOX = "SELECT * FROM outbox.messages ORDER BY key"
SAY = (
    "INSERT INTO outbox.messages (key, channel, text, claimed_until, sent_at, message_id) VALUES"
    " ('waits', 1, 'x', NULL, NULL, NULL), ('claimed', 1, 'x', now(), NULL, NULL),"
    " ('sent', 1, 'x', NULL, now(), 1)"
)
LEASE = (
    "UPDATE scheduler.jobs SET lease_id = gen_random_uuid(), lease_until = now()"
    " WHERE name = 'ships'"
)


@pytest.fixture
async def clone(clone_7: Engine):
    """A clone with due jobs, one leased, and a full outbox, as production leaves them."""
    async with clone_7.connect("app", "monolith") as connection:
        await seed(connection)
        await connection.execute(SAY)
        await connection.execute(LEASE)
    return clone_7


async def test_clone(monolith, clone):
    """
    Neutralising parks every job, ends every lease and empties the outbox; doing it again changes
    nothing.
    """
    variables = {"PR_ENV": "true", "DATABASE_URL": clone.dsn().get_secret_value()}
    first, second = (
        await monolith("neutralize", **variables),
        await monolith("neutralize", **variables),
    )
    async with clone.connect("app", "monolith") as connection:
        armed = "next_run_at < 'infinity' OR lease_id IS NOT NULL OR lease_until IS NOT NULL"
        left = await connection.fetchval(f"SELECT count(*) FROM scheduler.jobs WHERE {armed}")
        kept = await connection.fetchval("SELECT count(*) FROM scheduler.jobs")
        waiting = await connection.fetchval("SELECT count(*) FROM outbox.messages")

    assert (first.code, second.code, left, kept, waiting) == (0, 0, 0, 4, 0)
    assert json.loads(first.out) == json.loads(second.out)
    assert json.loads(first.out)["counts"] == {
        "jobs_parked": 4,
        "leases_ended": 1,
        "outbox_emptied": 3,
    }


async def test_production(monolith, source, database):
    """
    Production is never neutralised, and not one row of it changes.
    """
    dsn = await database()
    production = read(dsn)
    async with production.pool() as pool, pool.acquire() as connection:
        await seed(cast("asyncpg.Connection", connection))
        await connection.execute(SAY)
        before = await connection.fetch(ROWS), await connection.fetch(OUTBOX)
        refused = await monolith("neutralize", DATABASE_URL=dsn)
        with pytest.raises(NeutralizeError, match="PR_ENV says production"):
            await neutralize(production)

        assert (await connection.fetch(ROWS), await connection.fetch(OUTBOX)) == before
    assert (refused.code, refused.log[0]["step"]) == (78, "neutralise")


async def test_what_stays_armed(clone):
    """
    Where a row is armed all the same, the whole is undone and refused.
    """
    async with clone.connect("postgres", "monolith") as connection:
        await connection.execute(
            "CREATE FUNCTION arm() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.next_run_at = now(); RETURN NEW; END $$;"
            "CREATE TRIGGER arm BEFORE UPDATE ON scheduler.jobs"
            " FOR EACH ROW WHEN (NEW.name = 'ships') EXECUTE FUNCTION arm()"
        )
        before = await connection.fetch(ROWS)
        with pytest.raises(NeutralizeError, match="the database has 1 armed rows"):
            await neutralize(read(clone.dsn().get_secret_value(), PR_ENV="true"))

        assert await connection.fetch(ROWS) == before
        assert await connection.fetchval("SELECT count(*) FROM preview.neutralized") == 0
