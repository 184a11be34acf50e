"""The table of startup points, and the only starter of background work."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import structlog

from app.resources import Resources
from shared.audit import audit_record, write_audit
from shared.errors import StartupPointError, WorkingTreeError
from shared.guard import StartupPoint
from shared.settings import Settings, for_programs

if TYPE_CHECKING:  # a preview never imports a muted point
    from app.git import Command, Ended, WorkingTree
    from app.github import Feed

log = structlog.get_logger()

ASK_SECONDS = 2.5
"""How long what is asked to stop may go on; a little longer than the scheduler's grace."""

STOP_SECONDS = 3.0
"""How long a startup point may take to end, all told. They end at once, so it is their sum, too."""

RESTART_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0
OWN_CONNECTIONS = 2
DELIVERIES = 4


@asynccontextmanager
async def scheduler_loop(resources: Resources) -> AsyncIterator[None]:
    """
    Run due jobs; at the end let what runs finish, and give the rest back.

    Leases are renewed on connections of its own, whatever requests do to the pool.
    """
    from app.jobs import table  # noqa: PLC0415  a preview never imports a muted point
    from app.jobs.tools import Tools  # noqa: PLC0415
    from shared.scheduler import Scheduler  # noqa: PLC0415

    settings = resources.settings
    async with (
        resources.database.pool(OWN_CONNECTIONS) as pool,
        _feed(settings) as feed,
        _vault(settings) as vault,
    ):
        tools = Tools(resources.pool, feed, vault)
        for job, setting in tools.lacking.items():
            log.info("job does not run", job=job, lacking=setting)
        scheduler = Scheduler(pool, table(tools))
        try:
            await scheduler.register()
        except asyncpg.PostgresError as error:
            raise StartupPointError(StartupPoint.SCHEDULER, str(error)) from error
        async with _kept(StartupPoint.SCHEDULER, scheduler.run, resources, scheduler.stop):
            yield


@asynccontextmanager
async def discord_bot(resources: Resources) -> AsyncIterator[None]:
    """Answer on Discord; at the end say goodbye to the gateway."""
    from app.bot import make_bot  # noqa: PLC0415  a preview never imports discord
    from app.outbox import Delivery  # noqa: PLC0415

    token, url = resources.settings.discord_bot_token, resources.settings.discord_api_url
    if token is None:  # the guard has muted the point, so this is a bug
        raise AssertionError(StartupPoint.DISCORD)

    async def answer() -> None:
        added = asyncio.Event()
        async with make_bot(resources.pool, url, added) as bot:
            await bot.login(token.get_secret_value())
            delivery = Delivery(resources.pool, bot.post, added)
            await _until_one_ends([bot.connect(), *(delivery.run() for _ in range(DELIVERIES))])

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

    At the end all stop at once, and none waits for another.

    Raises:
        AuditError: the decisions could not be written; nothing has started.
        StartupPointError: a startup point could not be started; nothing runs.
        WorkingTreeError: the same, for want of a directory for temporary files.
    """
    guard = resources.settings.guard
    decisions = [guard.decide(point) for point in STARTUP_POINTS]
    write_audit(audit_record(resources.settings, resources.database))
    points: list[AsyncExitStack] = []
    try:
        for decision in decisions:
            if decision.runs:
                points.append(AsyncExitStack())
                await points[-1].enter_async_context(STARTUP_POINTS[decision.point](resources))
        yield
    finally:
        ends = await asyncio.gather(*(point.aclose() for point in points), return_exceptions=True)
        for error in filter(None, ends):
            with suppress(OSError):  # a full log keeps nothing from stopping
                log.error("startup point did not stop", error=f"{type(error).__name__}: {error}")


@asynccontextmanager
async def _feed(settings: Settings) -> AsyncIterator["Feed | None"]:
    """Make what the changelog polls with; None where it has nothing to poll."""
    from app.github import Feed, GitHub  # noqa: PLC0415

    channel, repositories = settings.changelog_channel, settings.changelog_repositories
    if channel is None:  # and so are the repositories
        yield None
        return
    async with httpx2.AsyncClient() as client:
        github = GitHub(client, settings.github_api_url, settings.github_token)
        yield Feed(github, repositories or (), channel)


@asynccontextmanager
async def _vault(settings: Settings) -> AsyncIterator["WorkingTree | None"]:
    """Make the vault's working tree, and remove it at the end; None where there is no remote."""
    from app.git import Remote, WorkingTree  # noqa: PLC0415

    if settings.vault_git_remote is None:
        yield None
        return
    remote = Remote.read(settings.vault_git_remote, settings.vault_git_branch)
    try:
        temporary = TemporaryDirectory(prefix="monolith-vault-", ignore_cleanup_errors=True)
    except OSError as error:
        raise WorkingTreeError(str(error)) from error
    with temporary as directory:
        yield WorkingTree(Path(directory), remote, _run_program, for_programs())


async def _run_program(command: "Command") -> "Ended":
    """
    Run a program to its end; where that does not come, end it with all that it has started.

    Who gives up while it starts waits until it has: only then is there a group to end.
    """
    from app.git import Ended  # noqa: PLC0415

    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command.arguments,
            cwd=command.directory,
            env=command.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        async with asyncio.timeout(command.seconds):
            process = await asyncio.shield(starting)
            out, err = await process.communicate()
    finally:
        with suppress(OSError):  # where it could not start, whoever waits has been told
            process = await starting
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    return Ended(
        process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
    )


async def _until_one_ends(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do it all at once; when one ends, however, end the others and raise what it raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_SECONDS)


@asynccontextmanager
async def _kept(
    point: StartupPoint,
    work: Callable[[], Awaitable[None]],
    resources: Resources,
    ask: Callable[[], None] | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """
    Keep work going until it is done or the block ends; what fails starts again, ever later.

    At the end `ask`, where there is one, asks it to end by itself; what has not
    after ASK_SECONDS is cancelled.
    """

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
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                if ask is not None:
                    ask()
                    await asyncio.wait([task], timeout=ASK_SECONDS)
                task.cancel()
                await asyncio.wait([task])
