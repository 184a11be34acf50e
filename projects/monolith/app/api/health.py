"""Routes for probes."""

from fastapi import APIRouter

from app.resources import Given
from shared.identity import identify

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(given: Given) -> dict[str, str]:
    """Ask the database who it is, now; 503 where it does not answer as the right one."""
    async with given.pool.acquire(timeout=5) as connection:
        fact = given.database.expected.judge_server(await identify(connection))
    given.database.expected.refuse(fact)
    return {"status": "ready", "database": fact.found}
