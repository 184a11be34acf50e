"""Fixtures of the attempts to get out: production, a clone, the world outside, the nursery."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from urllib.parse import quote

import httpx2
import pytest
import pytest_asyncio

from preview.clone import CLONE_SETTINGS, clone
from preview.postgres import Engine, rotate_passwords
from preview.process import free_port
from tests.escapes.outside import (
    CLONE_ADDRESS,
    CLONE_HOST,
    ELSEWHERE,
    NO_NAMESPACE,
    PRODUCTION_ADDRESS,
    Listeners,
    relay,
)

LIAR = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql
    AS $$ SELECT 'monolith-pg-pr-7' $$;
GRANT USAGE ON SCHEMA evil TO app;
CREATE ROLE liar LOGIN PASSWORD 'x' IN ROLE app;
ALTER ROLE liar SET search_path = evil, pg_catalog, public;
"""
ATTACKER = """
from app.main import Startup, create_app
from shared.database import Database
from shared.settings import Settings

def make():
    settings = Settings()
    return create_app(settings, Database.from_settings(settings))

def make_armed():
    import asyncio
    from threading import Thread
    armed = []
    starting = Thread(target=lambda: armed.append(Startup().run()))
    starting.start(); starting.join()
    return create_app(*armed[0])
"""
HERE = Path(__file__).parents[2]


class World:
    """Everything around an attempt; `await world.tries(attempt, way)` lets it happen."""

    def __init__(self, source, made, listeners, nursery, directory):
        self.source, self.clone, self.listeners = source, made, listeners
        self.nursery, self.directory = nursery, directory
        alias = directory / "monolith-pg-pr-7"
        alias.symlink_to(source.socket_dir)
        (directory / "attacker.py").write_text(ATTACKER)
        (directory / "services").write_text(
            f"[production]\nhost={ELSEWHERE}\nport={listeners.port}\n"
        )
        dsn, cloned = source.dsn().get_secret_value(), made.dsn().get_secret_value()
        at_clone = f"@{CLONE_HOST}:{listeners.port}/monolith"
        by_alias = f"@/monolith?host={quote(str(alias), safe='')}"
        self.told = {
            "port": listeners.port,
            "socket": str(listeners.path),
            "resolver": listeners.resolver,
            "home": str(directory),
            "quoted_home": quote(str(directory), safe=""),
            "source": dsn,
            "source_directory": str(source.socket_dir),
            "source_password": source.target().password.get_secret_value(),
            "source_by_tcp": dsn.partition("@")[0] + at_clone,
            "source_by_alias": dsn.partition("@")[0] + by_alias,
            "liar_by_alias": f"postgresql://liar:x{by_alias}",
            "clone": cloned,
            "clone_by_tcp": cloned.partition("@")[0] + at_clone,
        }

    async def tries(self, attempt, way):
        """Return how often the world outside was hit, and what the child has said."""
        self.listeners.came()
        line = json.dumps(self.told | {"attempt": attempt.name, "way": way})
        self.nursery.stdin.write(line + "\n")
        self.nursery.stdin.flush()
        said = json.loads(self.nursery.stdout.readline())
        broken = said.pop("broken", None)
        if broken and NO_NAMESPACE in broken:
            pytest.skip("only root can look names up at a resolver of a test's own")
        assert not broken, broken
        return self.listeners.came() + await self._harm(), said

    async def serves(self, arguments, *, preview):
        """Tell whether what a command starts answers a request, and what it has written."""
        port = free_port(0)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            *(
                ["--port", str(port), "--app-dir", str(self.directory)]
                if "uvicorn" in arguments
                else []
            ),
            cwd=HERE,
            env={
                "PYTHONPATH": str(HERE),
                "LISTEN_PORT": str(port),
                "PR_ENV": str(preview),
                "DATABASE_URL": self.told["clone" if preview else "source"],
            },
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        wrote = asyncio.create_task(_refusal(process))
        try:
            async with httpx2.AsyncClient(trust_env=False) as client:
                while not wrote.done():
                    with suppress(httpx2.TransportError):
                        answer = await client.get(f"http://127.0.0.1:{port}/api/preview")
                        if answer.is_success:
                            return True, answer.text
                    await asyncio.sleep(0.05)
            return False, await wrote
        finally:
            wrote.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _harm(self):
        """Count what was written to production, and take it away."""
        async with self.source.connect("app", "monolith") as connection:
            count = await connection.fetchval("SELECT count(*) FROM harm")
            await connection.execute("DELETE FROM harm")
        return count


async def _refusal(process):
    """Read what a process writes until it ends, or one of its workers has refused."""
    wrote = ""
    async for line in process.stderr:
        wrote += line.decode()
        if "Refused to serve a preview" in wrote:
            break
    return wrote


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clone_of_harm(source, state_dir, binaries):
    """A running clone for pull request 7 of a source in which harm can be done, and counted."""
    async with source.connect("app", "monolith") as connection:
        await connection.execute("CREATE TABLE harm (id bigserial)")
    async with source.connect("postgres", "monolith") as connection:
        await connection.execute(LIAR)
    made = Engine("monolith-pg-pr-7", state_dir / "escapes", binaries)
    await clone(source, made)
    await made.start(CLONE_SETTINGS, die_with_parent=True)
    await rotate_passwords(made)
    yield made
    await made.stop()


@pytest.fixture(scope="session")
def nursery():
    """A process that forks a child for every attempt."""
    command = [sys.executable, "-c", "from tests.escapes.nursery import main; main()"]
    with Popen(command, cwd=HERE, stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def world(source, clone_of_harm, nursery, tmp_path):
    """A world with an outside of its own, in which an attempt can be made."""
    listeners = Listeners(tmp_path)
    try:
        with (
            relay((CLONE_ADDRESS, listeners.port), clone_of_harm.socket_dir / ".s.PGSQL.5432"),
            relay((PRODUCTION_ADDRESS, listeners.port), source.socket_dir / ".s.PGSQL.5432"),
        ):
            yield World(source, clone_of_harm, listeners, nursery, tmp_path)
    finally:
        listeners.close()
