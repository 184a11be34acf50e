"""A preview on one machine: the source, its clone, the muted app."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired, run
from typing import Any, NoReturn

import httpx2

from preview import migrations
from preview.binaries import Binaries, die_with_parent
from preview.clone import CLONE_SETTINGS, Clone, clone, human
from preview.console import Console
from preview.errors import AppError
from preview.places import Places, Preview, delete_files
from preview.postgres import (
    APP,
    DATABASE,
    SOURCE_SETTINGS,
    Engine,
    create_database,
    rotate_passwords,
)
from preview.seed import seed
from shared.audit import audit_line
from shared.identity import SOURCE

_SEEDED = "seeded"
_FIRST_PORT = 8000
_POLL_SECONDS = 0.05
_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Twin:
    """What `monolith preview up` works with."""

    places: Places
    binaries: Binaries
    console: Console

    async def up(self, number: int | None, *, keep: bool, neutralize: bool) -> NoReturn:
        """
        Run a preview until it is cancelled, then tear it down.

        Args:
            number: the pull request's; None takes the lowest free one.
            keep: leave clone and files when it stops; the next `up` goes on with them.
            neutralize: park what is due in the clone; without it only the guard holds it.

        Raises:
            AppError: the app did not get ready, or ended by itself.
            MonolithError: anything else that is not as it must be.
        """
        for left in await self.places.sweep(self.binaries):
            self.console.say(f"cleaned up preview {left}, whose process had died", swept=left)
        async with self.places.take(number) as preview:
            preview.log.unlink(missing_ok=True)
            try:
                await self._run(preview, keep=keep, neutralize=neutralize)
            finally:
                if not preview.kept:
                    with self.console.step(f"tear down preview {preview.number}"):
                        delete_files(preview)

    async def _run(self, preview: Preview, *, keep: bool, neutralize: bool) -> NoReturn:
        source = self.places.source(self.binaries)
        async with (
            self.places.use_source(source, self._make_source),
            self._clone(source, preview) as (engine, cloned),
        ):
            environment = _environment(preview, engine)
            if neutralize:
                await self._neutralize(preview, environment)
            data = f"{_seeded(source)}; {cloned}"
            await self._serve(preview, engine, environment, data, keep=keep)

    async def _neutralize(self, preview: Preview, environment: dict[str, str]) -> None:
        with self.console.step("neutralise the clone: park due jobs, end leases"):
            async with _monolith(preview, environment, "neutralize") as process:
                if await asyncio.to_thread(process.wait):
                    raise _ended(process, preview.log)

    async def _serve(
        self,
        preview: Preview,
        engine: Engine,
        environment: dict[str, str],
        data: str,
        *,
        keep: bool,
    ) -> NoReturn:
        port = _free_port(_FIRST_PORT + preview.number)
        async with _monolith(preview, environment | {"LISTEN_PORT": str(port)}, "serve") as app:
            url = f"http://127.0.0.1:{port}"
            with self.console.step("start the app with PR_ENV=true"):
                attestation = await _ready(app, url, str(engine.socket_dir), preview.log)
            facts = {
                "number": preview.number,
                "url": url,
                "data": data,
                "audit": audit_line(attestation),
                "attestation": attestation,
            }
            preview.add_facts(facts)
            preview.keep(kept=keep)  # not before: a kept clone outlives an `up` that was refused
            self.console.ready(self._summary(facts), facts)
            await asyncio.to_thread(app.wait)
            raise _ended(app, preview.log)

    def _summary(self, facts: dict[str, Any]) -> dict[str, str]:
        points = facts["attestation"]["startup_points"]
        return {
            "URL": facts["url"],
            "data": facts["data"],
            "muted": ", ".join(point["point"] for point in points if not point["runs"]),
            "tear down": f"Ctrl-C here, or: {self._down(facts['number'])}",
            "audit": facts["audit"],
        }

    def _down(self, number: int) -> str:
        """Return the command that tears a preview down, as this one was called."""
        called = Path(sys.argv[0])
        command = "python -m preview" if called.name == "__main__.py" else str(called)
        elsewhere = self.places != Places.default()
        where = f" --state-dir {shlex.quote(str(self.places.state_dir))}" if elsewhere else ""
        return f"{command} preview down {number}{where}"

    async def _make_source(self, engine: Engine) -> None:
        seeded = engine.home / _SEEDED
        if seeded.exists():
            if not engine.running:
                with self.console.step(f"start {SOURCE}, production's database"):
                    await engine.start(SOURCE_SETTINGS)
            return
        with self.console.step(f"make {SOURCE}, production's database, the first time only"):
            await engine.stop()
            shutil.rmtree(engine.home, ignore_errors=True)
            engine.init()
            await engine.start(SOURCE_SETTINGS)
            await create_database(engine)
        with self.console.step("migrate it, and seed it with made-up notes, ships and due jobs"):
            async with engine.connect(APP, DATABASE) as connection:
                await migrations.apply(connection, migrations.DIRECTORY)
                await seed(connection)
        seeded.write_text(f"made-up production data of {_now()}")

    @asynccontextmanager
    async def _clone(self, source: Engine, preview: Preview) -> AsyncIterator[tuple[Engine, str]]:
        engine = preview.engine(self.binaries)
        kept = preview.facts().get("cloned")
        if kept is None:
            shutil.rmtree(engine.home, ignore_errors=True)
            with self.console.step(f"clone {SOURCE}, online, to {engine.name}"):
                made = await clone(source, engine, self.console.progress)
            if not made.shared:
                self.console.say(str(made))
        with self.console.step(f"start {engine.name}"):
            await engine.start(CLONE_SETTINGS, die_with_parent=True)
        try:
            if kept is None:
                await rotate_passwords(engine)
                kept = _age(made)
                preview.add_facts({"cloned": kept})
            await self._migrate(engine)
            yield engine, kept
        finally:
            await engine.stop()

    async def _migrate(self, engine: Engine) -> None:
        with self.console.step("apply this branch's migrations"):
            async with engine.connect(APP, DATABASE) as connection:
                for name in await migrations.apply(connection, migrations.DIRECTORY):
                    self.console.say(f"applied {name}", applied=name)


@asynccontextmanager
async def _monolith(
    preview: Preview, environment: dict[str, str], verb: str
) -> AsyncIterator[Popen[bytes]]:
    """Run `monolith VERB` with an environment of its own and nothing of ours."""
    preview.log.touch(mode=0o600)
    with preview.log.open("ab") as log:
        process = Popen(  # noqa: S603  the program is ours
            [sys.executable, "-P", "-m", "preview", verb],  # -P: nothing in / is a module of ours
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  no other way to ask for it
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except TimeoutExpired:
            process.kill()
            process.wait()


def _environment(preview: Preview, engine: Engine) -> dict[str, str]:
    environment = {
        "PATH": os.defpath,
        "PR_ENV": "true",
        "PR_NUMBER": str(preview.number),
        "DATABASE_URL": engine.dsn().get_secret_value(),
    }
    if sha := _head_sha():
        environment["HEAD_SHA"] = sha
    return environment


async def _ready(app: Popen[bytes], url: str, host: str, log: Path) -> dict[str, Any]:
    """
    Wait until the app is ready, and return its attestation.

    Another preview may have taken the port in the meantime; only the app on
    this clone counts, by the host that it attests.
    """
    deadline = time.monotonic() + _READY_SECONDS
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        while app.poll() is None and time.monotonic() < deadline:
            with suppress(httpx2.TransportError, ValueError, KeyError):
                attestation: dict[str, Any] = (await client.get("/api/preview")).json()
                facts = {fact["name"]: fact["found"] for fact in attestation["database"]["facts"]}
                if facts["host"] == host:
                    return attestation
            await asyncio.sleep(_POLL_SECONDS)
    raise _ended(app, log)


def _seeded(source: Engine) -> str:
    return (source.home / _SEEDED).read_text()


def _ended(app: Popen[bytes], log: Path) -> AppError:
    slow = f"it was not ready after {_READY_SECONDS:g} s"
    reason = slow if app.poll() is None else f"it ended with exit code {app.returncode}"
    lines = log.read_text(errors="replace").splitlines()
    return AppError(reason, "\n".join(["Its log ends:", *lines[-5:]]))


def _age(made: Clone) -> str:
    how = "copy-on-write clone" if made.shared else "clone by full copy"
    return f"{how} ({human(made.bytes)}) taken {made.taken_at:%Y-%m-%d %H:%M:%S} UTC"


def _free_port(wanted: int) -> int:
    """Return the wanted port, or any other where somebody listens on that."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError):
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _head_sha() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    here = str(Path(__file__).parent)
    said = run([git, "-C", here, "rev-parse", "HEAD"], capture_output=True, check=False, text=True)  # noqa: S603  asks for a name
    found = re.fullmatch(r"([0-9a-f]{40})\n", said.stdout)
    return found[1] if found else None


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
