"""Runs the monolith in processes of its own, as production and as previews."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from preview.process import free_port

STOP_SECONDS = 30.0
"""Until a test gives up on a process that was asked to end."""


@dataclass
class Served:
    """One `monolith serve` that has become ready."""

    process: asyncio.subprocess.Process
    client: httpx2.AsyncClient
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pid(self):
        """Its process."""
        return self.process.pid

    async def end(self, how):
        """Send a signal, and return the exit code and the seconds that the end has taken."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.process.send_signal(how)
        code = await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        return code, loop.time() - began

    async def read(self):
        """Keep what it says, so that it never waits for a reader."""
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(json.loads(line))


@asynccontextmanager
async def serve(**variables):
    """Run `monolith serve` with only these variables in its environment, until the block ends."""
    port = free_port(0)
    kept = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "preview", "serve",
        env={**kept, "PATH": os.defpath, "LISTEN_PORT": str(port), **variables},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, limit=2**20,
    )  # fmt: skip
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        asyncio.TaskGroup() as tasks,
    ):
        served = Served(process, client)
        tasks.create_task(served.read())
        try:
            await ready(served)
            yield served
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def ready(served):
    """Wait until the app answers as ready; the test's timeout ends it otherwise."""
    while served.process.returncode is None:
        try:
            if (await served.client.get("/readyz")).is_success:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError(served.log)
