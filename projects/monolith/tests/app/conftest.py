"""Fixtures that run the app: as a process, as a person would, or in the test's own."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from app.main import create_app
from app.resources import Resources
from preview.process import free_port
from preview.sinks.discord import FakeDiscord
from preview.sinks.vault import Vault
from shared.database import Database
from shared.testing import as_production
from tests.environment import read


class Client(httpx2.AsyncClient):
    """A client that also knows what the app was handed."""

    resources: Resources


@dataclass
class Ended:
    """What a process that has ended has left."""

    code: int
    out: str
    log: list[dict[str, Any]]

    @property
    def events(self):
        """The text of every line of the log."""
        return [line["event"] for line in self.log]


@pytest.fixture
async def pool(database):
    """The pool of a new production database."""
    async with read(await database()).pool() as pool:
        yield pool


@pytest.fixture
def monolith():
    """
    Run `monolith …` to its end, with exactly this environment, and a port of its own.

    `ended = await monolith("check", PR_ENV="true", DATABASE_URL=dsn)`
    """

    async def run(*arguments, **variables):
        process = await spawn(arguments, {"LISTEN_PORT": str(free_port(0))} | variables)
        out, err = await process.communicate()
        log = [json.loads(line) for line in err.decode().splitlines()]
        return Ended(process.returncode, out.decode(), log)

    return run


@pytest.fixture
def served():
    """
    Run `monolith serve` until it is ready.

    `async with served(PR_ENV="true", DATABASE_URL=dsn) as (client, process)`; what it
    has logged is `process.log` afterwards.
    """

    @asynccontextmanager
    async def serve(**variables):
        port = free_port(0)
        process = await spawn(["serve"], {"LISTEN_PORT": str(port), **variables})
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False
        ) as client:
            try:
                await ready(client, process)
                yield client, process
            finally:
                if process.returncode is None:
                    process.terminate()
                process.log = [json.loads(line) async for line in process.stderr]
                await process.wait()

    return serve


async def spawn(arguments, variables):
    """Start `monolith` with nothing in its environment but this, and what coverage needs."""
    kept = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "preview", *arguments, env=kept | variables,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def ready(client, process):
    """Wait until the app answers as ready; the test's timeout ends it otherwise."""
    while process.returncode is None:
        try:
            if (await client.get("/readyz")).is_success:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError((await process.stderr.read()).decode())


@asynccontextmanager
async def client_of(app):
    """Run an app in the test's own process, and give a client of it."""
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with Client(base_url="http://monolith", transport=transport) as client:
            client.resources = app.state.resources
            yield client


@pytest.fixture
async def client(database):
    """A client of the app in production mode on a new database, in the test's own process."""
    with as_production(DATABASE_URL=await database()) as settings:
        app = create_app(settings, Database.from_settings(settings))
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def client_here(world, dsn, sink):
    """A client of the app in the world of a test that is marked `both_worlds`; nothing goes out."""
    with world.enter(DATABASE_URL=dsn) as settings:
        app = create_app(settings, Database.from_settings(settings))
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def discord():
    """A Discord on loopback that counts who calls."""
    async with FakeDiscord().serve() as fake:
        yield fake


@pytest.fixture
def vault(tmp_path):
    """An empty bare repository to push to."""
    remote = Vault(tmp_path / "vault.git")
    remote.make()
    return remote
