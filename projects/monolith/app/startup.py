"""The table of startup points, and the only starter of background work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)

import asyncpg
import structlog

from app.resources import Resources
from shared.audit import audit_record, write_audit
from shared.errors import StartupPointError
from shared.guard import StartupPoint

log = structlog.get_logger()

STOP_SECONDS = 4.0
RESTART_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0
OWN_CONNECTIONS = 2


@asynccontextmanager
async def scheduler_loop(resources: Resources) -> AsyncIterator[None]:
    """
    Run due jobs; at the end let what runs finish, and give the rest back.

    Leases are renewed on connections of its own, whatever requests do to the pool.
    """
    from app.jobs import table  # noqa: PLC0415  a preview never imports a muted point
    from shared.scheduler import Scheduler  # noqa: PLC0415

    async with resources.database.pool(OWN_CONNECTIONS) as pool:
        scheduler = Scheduler(pool, table(resources.pool))
        try:
            await scheduler.register()
        except asyncpg.PostgresError as error:
            raise StartupPointError(StartupPoint.SCHEDULER, str(error)) from error
        async with _kept(StartupPoint.SCHEDULER, scheduler.run, resources) as task:
            try:
                yield
            finally:
                scheduler.stop()
                await asyncio.wait([task], timeout=STOP_SECONDS)


@asynccontextmanager
async def discord_bot(resources: Resources) -> AsyncIterator[None]:
    """Answer on Discord; at the end say goodbye to the gateway."""
    from app.bot import make_bot  # noqa: PLC0415  a preview never imports discord

    token, url = resources.settings.discord_bot_token, resources.settings.discord_api_url
    if token is None:  # the guard has muted the point, so this is a bug
        raise AssertionError(StartupPoint.DISCORD)

    async def answer() -> None:
        async with make_bot(resources.pool, url) as bot:
            await bot.start(token.get_secret_value())

    async with _kept(StartupPoint.DISCORD, answer, resources):
        yield


STARTUP_POINTS: dict[StartupPoint, Callable[[Resources], AbstractAsyncContextManager[None]]] = {
    StartupPoint.SCHEDULER: scheduler_loop,
    StartupPoint.DISCORD: discord_bot,
}


@asynccontextmanager
async def started(resources: Resources) -> AsyncIterator[None]:
    """
    Decide every startup point, write the decisions down, then start those that run.

    Raises:
        AuditError: the decisions could not be written; nothing has started.
        StartupPointError: a startup point could not be started; nothing runs.
    """
    guard = resources.settings.guard
    decisions = [guard.decide(point) for point in STARTUP_POINTS]
    write_audit(audit_record(resources.settings, resources.database))
    async with AsyncExitStack() as points:
        for decision in decisions:
            if decision.runs:
                await points.enter_async_context(STARTUP_POINTS[decision.point](resources))
        yield


@asynccontextmanager
async def _kept(
    point: StartupPoint, work: Callable[[], Awaitable[None]], resources: Resources
) -> AsyncIterator[asyncio.Task[None]]:
    """Keep work going until it is done or the block ends; what fails starts again, ever later."""

    async def keep() -> None:
        pause = RESTART_SECONDS
        while True:
            try:
                return await work()
            except Exception as error:  # noqa: BLE001  whatever it is, the point must come back
                resources.failures[point] += 1
                reason = f"{type(error).__name__}: {error}"
                with suppress(OSError):  # a full log stops no startup point
                    log.error("startup point failed", point=point, error=reason, again_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    task = asyncio.create_task(keep(), name=point)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=STOP_SECONDS)
