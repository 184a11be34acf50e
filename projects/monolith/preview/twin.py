"""A preview on one machine: the source, its clone, the muted app."""

import asyncio
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from preview import migrations
from preview.binaries import Binaries
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
from preview.process import App, free_port, head_sha, monolith
from preview.production import Production, production
from preview.seed import seed
from shared.audit import audit_line
from shared.identity import SOURCE

_SEEDED = "seeded"
_FIRST_PORT = 8000
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Twin:
    """What `monolith preview up` works with."""

    places: Places
    binaries: Binaries
    console: Console

    async def up(
        self, number: int | None, *, keep: bool, neutralize: bool, with_production: bool
    ) -> NoReturn:
        """
        Run a preview until it is cancelled, then tear it down.

        Args:
            number: the pull request's; None takes the lowest free one.
            keep: leave clone and files when it stops; the next `up` goes on with them.
            neutralize: park what is due in the clone; without it only the guard holds it.
            with_production: run production beside it, and show what both say.

        Raises:
            AppError: the app did not get ready, or ended by itself.
            ProductionError: the same of production.
            MonolithError: anything else that is not as it must be.
        """
        for left in await self.places.sweep(self.binaries):
            self.console.say(f"cleaned up preview {left}, whose process had died", swept=left)
        taken = self.places.take_production() if with_production else nullcontext()
        with taken:
            async with self.places.take(number) as preview:
                preview.log.unlink(missing_ok=True)
                try:
                    await self._run(
                        preview,
                        keep=keep,
                        neutralize=neutralize,
                        with_production=with_production,
                    )
                finally:
                    if not preview.kept:
                        with self.console.step(f"tear down preview {preview.number}"):
                            delete_files(preview)

    async def _run(
        self, preview: Preview, *, keep: bool, neutralize: bool, with_production: bool
    ) -> NoReturn:
        source = self.places.source(self.binaries)
        async with (
            self.places.use_source(source, self._make_source),
            self._beside(source, with_production=with_production) as beside,
            self._clone(source, preview) as (engine, cloned),
        ):
            environment = _environment(preview, engine)
            if neutralize:
                await self._neutralize(preview, environment)
            data = f"{_seeded(source)}; {cloned}"
            await self._serve(preview, environment, data, beside, keep=keep)

    def _beside(
        self, source: Engine, *, with_production: bool
    ) -> AbstractAsyncContextManager[Production | None]:
        if with_production:
            return production(self.places, source, self.console)
        return nullcontext()

    async def _neutralize(self, preview: Preview, environment: dict[str, str]) -> None:
        with self.console.step("neutralise the clone: park due jobs, end leases, empty the outbox"):
            async with monolith("neutralize", environment, preview.log, AppError) as app:
                if await asyncio.to_thread(app.process.wait):
                    raise app.ended()

    async def _serve(
        self,
        preview: Preview,
        environment: dict[str, str],
        data: str,
        beside: Production | None,
        *,
        keep: bool,
    ) -> NoReturn:
        port = free_port(_FIRST_PORT + preview.number)
        environment |= {"LISTEN_PORT": str(port)}
        async with monolith("serve", environment, preview.log, AppError) as app:
            url = f"http://127.0.0.1:{port}"
            with self.console.step("start the app with PR_ENV=true"):
                host = str(preview.engine(self.binaries).socket_dir)
                attestation = await app.ready(url, host)
            facts = {
                "number": preview.number,
                "url": url,
                "data": data,
                "audit": audit_line(attestation),
                "attestation": attestation,
                **({"production": beside.facts} if beside else {}),
            }
            preview.add_facts(facts)
            preview.keep(kept=keep)  # not before: a kept clone outlives an `up` that was refused
            self.console.ready(self._summary(facts), facts)
            name = f"preview {preview.number}"
            if beside is None:
                await self._watch({name: app})
            beside.outside.names[app.process.pid] = name
            await self._watch({"production": beside.app, name: app}, shown=True)

    async def _watch(self, apps: dict[str, App], *, shown: bool = False) -> NoReturn:
        """Wait until one of them ends; meanwhile show what they say, side by side."""
        while True:
            ended = [app for app in apps.values() if not app.runs]
            if shown:
                self.console.said({name: app.news() for name, app in apps.items()})
            if ended:
                raise ended[0].ended()
            await asyncio.sleep(_POLL_SECONDS)

    def _summary(self, facts: dict[str, Any]) -> dict[str, str]:
        points = facts["attestation"]["startup_points"]
        summary = {
            "URL": facts["url"],
            "data": facts["data"],
            "muted": ", ".join(point["point"] for point in points if not point["runs"]),
            "tear down": f"Ctrl-C here, or: {self._down(facts['number'])}",
            "audit": facts["audit"],
        }
        if beside := facts.get("production"):
            sinks = f"{beside['sinks']}  what production says to the world; answer it there"
            summary |= {"production": beside["url"], "sinks": sinks}
        return summary

    def _down(self, number: int) -> str:
        """Return the command that tears a preview down, as this one was called."""
        called = Path(sys.argv[0])
        command = "python -m preview" if called.name == "__main__.py" else str(called)
        elsewhere = f" --state-dir {shlex.quote(str(self.places.state_dir))}"
        where = elsewhere if self.places.elsewhere else ""
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


def _environment(preview: Preview, engine: Engine) -> dict[str, str]:
    environment = {
        "PR_ENV": "true",
        "PR_NUMBER": str(preview.number),
        "DATABASE_URL": engine.dsn().get_secret_value(),
    }
    if sha := head_sha():
        environment["HEAD_SHA"] = sha
    return environment


def _seeded(source: Engine) -> str:
    return (source.home / _SEEDED).read_text()


def _age(made: Clone) -> str:
    how = "copy-on-write clone" if made.shared else "clone by full copy"
    return f"{how} ({human(made.bytes)}) taken {made.taken_at:%Y-%m-%d %H:%M:%S} UTC"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
