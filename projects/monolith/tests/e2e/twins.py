"""Runs `monolith preview …` as a person would, for tests of the twin."""

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx2

N, M = random.sample(range(10_000, 40_000), 2)  # ports follow numbers, and other runs have theirs
COVERAGE = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}


async def start(*arguments, **variables):
    """Start a command with nothing in its environment but these variables."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "preview", "preview", *map(str, arguments),
        env=COVERAGE | variables, limit=2**20,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def end(*arguments, **variables):
    """Run a command to its end: exit code, output, errors."""
    process = await start(*arguments, **variables)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def ready(process):
    """Return the events of `up --json` until it is ready; the last one says where."""
    events = []
    async for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "ready":
            return events
    raise AssertionError((await process.stderr.read()).decode())


@asynccontextmanager
async def up(twins, number, *more):
    """Run `monolith preview up`, and give the process, its events and a client."""
    process = await start("up", number, "--json", "--state-dir", twins, *more)
    try:
        events = await ready(process)
        async with httpx2.AsyncClient(base_url=events[-1]["url"], trust_env=False) as client:
            yield process, events, client
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.communicate()


def processes(twins):
    """Every process whose command line or environment leads to a state directory, and which."""
    found, names = [], (str(twins), quote(str(twins), safe=""))
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            said = (entry / "cmdline").read_text() + (entry / "environ").read_text()
            if any(name in said for name in names):
                found.append((int(entry.name), said[:200]))
        except OSError:
            continue
    return found
