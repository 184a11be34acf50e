"""Attempts to be taken for production, or to let what is muted run."""

import asyncio
import gc
import os
import socket
import sys

from app.resources import Resources, started_now
from app.startup import discord_bot, started
from shared import outward, tripwire
from shared.guard import StartupPoint
from shared.outward import Act, Kind
from shared.seal import Seal
from shared.settings import Settings
from tests.escapes.outside import CLONE_HOST, ELSEWHERE, Outside
from tests.escapes.registry import Chapter, Layer, Outer

flag = Chapter("PR_ENV and its spelling")
_PRODUCTION = f"postgresql://app:x@{ELSEWHERE}:{{port}}/monolith"

for _name, _what, _variables in (
    ("ture", "A misspelt value", {"PR_ENV": "ture"}),
    ("empty", "An empty value", {"PR_ENV": ""}),
    ("space", "A space behind the value", {"PR_ENV": "true "}),
    ("line-end", "A line end of another system behind the value", {"PR_ENV": "true\r"}),
    ("quotes", "Quotes around the value", {"PR_ENV": '"true"'}),
    ("two", "A number that is neither", {"PR_ENV": "2"}),
    ("full-width-value", "Full-width letters", {"PR_ENV": "\uff54\uff52\uff55\uff45"}),
    ("template", "A template that nobody filled in", {"PR_ENV": "${{PR_ENV}}"}),
    ("dash", "A dash in the name", {"PR-ENV": "true"}),
    ("joined", "Nothing between the words of the name", {"PRENV": "true"}),
    ("lower-case", "The name in lower case", {"pr_env": "true"}),
    ("swapped", "Two letters of the name exchanged", {"RP_ENV": "true"}),
    ("number-only", "A number of a pull request, and no flag", {"PR_NUMBER": "7"}),
    ("off-with-number", "The flag off, with a number", {"PR_ENV": "false", "PR_NUMBER": "7"}),
    ("off-with-list", "The flag off, with an allow-list", {"PR_ENV": "0", "EGRESS_ALLOW": "a:1"}),
):
    flag.start(_name, _what, Layer.SETTINGS, variables={"DATABASE_URL": _PRODUCTION, **_variables})

flag.start(
    "lost",
    "No flag at all, in a preview's pod",
    Layer.IDENTITY,
    variables={"DATABASE_URL": f"postgresql://app:x@{CLONE_HOST}:{{port}}/monolith"},
    names={CLONE_HOST: ELSEWHERE},
)
unmuting = Chapter("Un-muting a preview that runs")
_LOUD = {
    "DISCORD_BOT_TOKEN": "token",
    "DISCORD_API_URL": f"http://{ELSEWHERE}:{{port}}/api",
}


def _start_points(out: Outside, settings: Settings, *, rings: bool = True) -> None:
    """Start what the settings' guard lets run, ring for what has started, wait for Discord's."""

    async def start() -> None:
        async with out.database.pool() as pool:
            resources = started_now(settings, out.database, pool, None)
            async with started(resources):
                if rings and {task.get_name() for task in asyncio.all_tasks()} & set(StartupPoint):
                    out.ring()
                await _answer(resources)

    asyncio.run(start())


async def _answer(resources: Resources) -> None:
    """Wait until the bot has tried, where there is one."""
    while any(task.get_name() == StartupPoint.DISCORD for task in asyncio.all_tasks()):
        if resources.failures[StartupPoint.DISCORD]:
            return
        await asyncio.sleep(0.01)


@unmuting.tries(Layer.GUARD, variables=_LOUD)
def flag_changed(out: Outside) -> None:
    """`PR_ENV` and the token, changed in the environment after the start."""
    os.environ.update(PR_ENV="false", DISCORD_BOT_TOKEN="token")
    _start_points(out, out.settings)


@unmuting.tries(Layer.GUARD, variables=_LOUD)
def settings_copied(out: Outside) -> None:
    """A copy of the settings that says production."""
    _start_points(out, out.settings.model_copy(update={"pr_env": False}))


@unmuting.tries(Layer.GUARD, variables=_LOUD)
def settings_constructed(out: Outside) -> None:
    """Settings that nobody has validated."""
    made = out.settings if not out.preview else Settings.model_construct(pr_env=False)
    _start_points(out, made)


@unmuting.tries(Layer.GUARD, variables=_LOUD)
def settings_overwritten(out: Outside) -> None:
    """Frozen settings, overwritten by `object.__setattr__()`."""
    object.__setattr__(out.settings, "pr_env", False)
    _start_points(out, out.settings)


@unmuting.tries(Layer.GUARD, variables=_LOUD)
def settings_read_again(out: Outside) -> None:
    """Settings that are read a second time, with the token put back."""
    os.environ["DISCORD_BOT_TOKEN"] = "token"
    _start_points(out, Settings())


@unmuting.tries(Layer.TRIPWIRE, variables=_LOUD)
def settings_read_as_production(out: Outside) -> None:
    """Settings that are read a second time, with the flag off and the token put back."""
    os.environ.update(PR_ENV="false", DISCORD_BOT_TOKEN="token")
    _start_points(out, Settings(), rings=False)


@unmuting.tries(Layer.TRIPWIRE, variables=_LOUD)
def guard_overwritten(out: Outside) -> None:
    """The guard itself, overwritten by `object.__setattr__()`, and the token put back."""
    from pydantic import SecretStr  # noqa: PLC0415

    settings = out.settings
    for what, name, value in (
        (settings.guard, "preview", False),
        (settings, "discord_bot_token", SecretStr("token")),
    ):
        object.__setattr__(what, name, value)
    settings.guard._decisions.clear()
    settings.guard.lacking.clear()
    _start_points(out, settings, rings=False)


@unmuting.tries(Layer.SETTINGS, variables=_LOUD)
def point_by_hand(out: Outside) -> None:
    """The Discord bot's startup point, entered past the guard: its token has been dropped."""

    async def start() -> None:
        async with out.database.pool() as pool:
            resources = started_now(out.settings, out.database, pool, None)
            async with discord_bot(resources):
                await _answer(resources)

    asyncio.run(start())


@unmuting.tries(Layer.TRIPWIRE, variables=_LOUD)
def discord_of_a_route(out: Outside) -> None:
    """A muted module, imported by a route, which starts its client with a token of its own."""
    from app.bot import make_bot  # noqa: PLC0415  a preview has not imported it

    async def answer() -> None:
        async with out.database.pool() as pool, make_bot(pool, _api(out), asyncio.Event()) as bot:
            await bot.start("token")

    asyncio.run(answer())


def _api(out: Outside) -> str:
    return f"http://{out.host}:{out.port}/api"


@unmuting.tries(Layer.IDENTITY)
def scheduler_by_hand(out: Outside) -> None:
    """The scheduler loop, started past the guard: it runs, and its pool reaches the clone only."""
    from datetime import timedelta  # noqa: PLC0415

    from shared.scheduler import Job, Scheduler  # noqa: PLC0415  a preview has not imported it

    async def tick() -> None:
        async with out.database.pool() as pool:
            ran = asyncio.Event()

            async def harm() -> None:
                await pool.execute("INSERT INTO harm DEFAULT VALUES")
                ran.set()

            scheduler = Scheduler(pool, [Job("harm", timedelta(hours=1), harm)])
            await scheduler.register()
            await pool.execute("UPDATE scheduler.jobs SET next_run_at = now() WHERE name = 'harm'")
            running = asyncio.create_task(scheduler.run())
            await ran.wait()
            scheduler.stop()
            await running
            await pool.execute("DELETE FROM scheduler.jobs WHERE name = 'harm'")

    asyncio.run(tick())


@unmuting.tries(Layer.TRIPWIRE)
def job_with_a_pool_of_its_own(out: Outside) -> None:
    """A job's function, called with a pool that leads to production."""
    import asyncpg  # noqa: PLC0415  past the ban on it

    from app.jobs import ships  # noqa: PLC0415  a preview has not imported it
    from app.jobs.tools import Tools  # noqa: PLC0415

    async def work() -> None:
        async with asyncpg.create_pool(out.source, min_size=1) as pool:
            await ships.drop_old_positions(Tools(pool))
            await pool.execute("INSERT INTO harm DEFAULT VALUES")

    asyncio.run(work())


disarming = Chapter("Disarming the tripwire")


def _reach(out: Outside) -> None:
    with socket.socket() as sock:
        sock.connect(out.address)


@disarming.tries(Layer.TRIPWIRE)
def module_patched(out: Outside) -> None:
    """What the tripwire's module imports and defines, replaced by what does nothing."""
    for name, value in dict(vars(tripwire)).items():
        if callable(value) and name != "armed":
            setattr(tripwire, name, lambda *_: None)
    tripwire.EVENTS = frozenset()  # type: ignore[attr-defined]
    outward.outward_act = lambda *_: None
    _reach(out)


@disarming.tries(Layer.SEAL)
def module_patched_deeply(out: Outside) -> None:
    """The table by which the hook reads events, emptied by code that knows where it is."""
    outward._READERS, outward._ALWAYS = {}, {}
    _reach(out)


@disarming.tries(Layer.TRIPWIRE)
def armed_again(out: Outside) -> None:
    """A second tripwire that allows it."""
    tripwire.arm(tripwire.Allowed((out.address,)), Seal())
    _reach(out)


@disarming.tries(Layer.TRIPWIRE)
def hook_that_swallows(out: Outside) -> None:
    """Another audit hook, which lets everything pass."""
    sys.addaudithook(lambda *_: None)
    _reach(out)


@disarming.tries(Layer.TRIPWIRE)
def allowed_overwritten(out: Outside) -> None:
    """A longer allow-list, written into what says that it is armed."""
    armed = tripwire.armed()
    if armed:
        object.__setattr__(armed, "allowed", tripwire.Allowed((out.address,)))
        object.__setattr__(armed.allowed, "hosts", (out.address,))
    _reach(out)


def _widen(out: Outside) -> None:
    """Find what the hook knows in memory, and write an act into it."""
    for found in gc.get_objects():
        if isinstance(found, tripwire._Known):
            found.acts.add(Act(Kind.REACH, *out.address))


@disarming.tries(Layer.SEAL)
def found_in_memory(out: Outside) -> None:
    """What the hook allows, found by the garbage collector and made longer."""
    _widen(out)
    _reach(out)


@disarming.tries(
    Layer.NOTHING,
    why="the hook is Python in the process that it watches",
    held_by=Outer.NETWORK_POLICY,
    blind_spot="code of the pull request that disarms the tripwire",
)
def found_in_memory_for_a_datagram(out: Outside) -> None:
    """The same, for a datagram."""
    _widen(out)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", out.address)
