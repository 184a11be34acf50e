"""The table of startup points, and the only starter of background work."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import asyncpg
import structlog

from app.resources import Resources
from shared.audit import audit_record, write_audit
from shared.errors import StartupPointError
from shared.guard import StartupPoint

log = structlog.get_logger()

STOP_SECONDS = 4.0


@asynccontextmanager
async def scheduler_loop(resources: Resources) -> AsyncIterator[None]:
    """Run due jobs; at the end let what runs finish, and give the rest back."""
    from app.jobs import table  # noqa: PLC0415  a preview never imports a muted point
    from shared.scheduler import Scheduler  # noqa: PLC0415

    scheduler = Scheduler(resources.pool, table(resources.pool))
    try:
        await scheduler.register()
    except asyncpg.PostgresError as error:
        raise StartupPointError(StartupPoint.SCHEDULER, str(error)) from error
    task = _start(StartupPoint.SCHEDULER, scheduler.run())
    try:
        yield
    finally:
        scheduler.stop()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        task.cancel()


@asynccontextmanager
async def discord_bot(resources: Resources) -> AsyncIterator[None]:
    """Answer on Discord; at the end say goodbye to the gateway."""
    from app.bot import make_bot  # noqa: PLC0415  a preview never imports discord

    settings = resources.settings
    if settings.discord_bot_token is None:  # the guard has muted the point, so this is a bug
        msg = "the discord bot was started without DISCORD_BOT_TOKEN"
        raise AssertionError(msg)
    bot = make_bot(resources.pool, settings.discord_api_url)
    task = _start(StartupPoint.DISCORD, bot.start(settings.discord_bot_token.get_secret_value()))
    try:
        yield
    finally:
        await bot.close()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        task.cancel()


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


def _start(point: StartupPoint, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work, name=point)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        reason = f"{type(error).__name__}: {error}"
        log.error("startup point stopped", point=task.get_name(), error=reason)
