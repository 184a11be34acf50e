"""The composition root: settings, database, startup points, in this order."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI

from app import problems
from app.access import Access, Door, Rules
from app.neutralize import neutralize as neutralize_clone
from app.resources import started_now
from app.startup import STARTUP_POINTS, started
from shared import log as logging
from shared import tripwire
from shared.access_keys import KeySet, fetch_from
from shared.audit import audit_record, write_refusal
from shared.database import Database
from shared.errors import ListenError, MonolithError, UnguardedError
from shared.seal import seal
from shared.settings import Settings


class Startup:
    """The steps that come before a server exists, and how far they have come."""

    step = "settings"
    settings: Settings | None = None
    database: Database | None = None

    def run(self) -> tuple[Settings, Database]:
        """
        Take every step up to and including the identity check.

        Raises:
            MonolithError: a step was refused; `step` says which.
        """
        logging.set_up()
        self.settings = Settings()
        for point in STARTUP_POINTS:
            self.settings.guard.decide(point)
        self.step = "database target"
        self.database = Database.from_settings(self.settings)
        self.database.judge_target()
        if self.settings.pr_env:
            self.step = "tripwire"
            arm(self.settings, self.database)
        self.step = "access"
        Rules.from_settings(self.settings, self.database.target)
        self.step = "database identity"
        asyncio.run(self.database.check())
        return self.settings, self.database

    def refuse(self, error: MonolithError) -> int:
        """Write the error and the audit line, and return the exit code."""
        with suppress(MonolithError):
            write_refusal(self.step, error, audit_record(self.settings, self.database))
        return error.exit_code


def arm(settings: Settings, database: Database) -> None:
    """
    Seal this process, then arm its tripwire.

    Raises:
        SealError: PR_ENV_SEAL=required, and the kernel does not seal.
    """
    allowed = tripwire.Allowed.from_settings(settings, database.target)
    sealed = seal(allowed.ports, required=settings.pr_env_seal == "required")
    tripwire.arm(allowed, sealed)


def create_app(settings: Settings, database: Database) -> FastAPI:
    """
    Make the app; it answers 503 until its startup has finished.

    Raises:
        NoAccessError: it would be a preview that others can reach without Cloudflare Access.
        UnguardedError: it would be a preview whose tripwire nobody has armed.
    """
    if settings.pr_env and not tripwire.armed():
        raise UnguardedError(found="nobody has armed it")
    from app.api import (  # noqa: PLC0415  in a preview the tripwire sees what imports do
        health,
        notes,
        preview,
        scheduler,
    )

    rules = Rules.from_settings(settings, database.target)
    door = Door(rules, KeySet(fetch_from(rules.issuer))) if rules else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            _judge_loop(settings)
            async with database.pool() as pool:
                resources = started_now(settings, database, pool, door)
                async with started(resources):
                    app.state.resources, app.state.ready = resources, True
                    yield
                    app.state.ready = False
        except MonolithError as error:
            app.state.refusal = error
            raise

    app = FastAPI(title="monolith", lifespan=lifespan)
    app.state.ready, app.state.refusal = False, None
    app.state.guard = settings.guard
    app.add_middleware(problems.StartupGate)
    if door:
        app.add_middleware(Access, door=door)
    problems.install(app)
    for router in (health.router, notes.router, scheduler.router, preview.router):
        app.include_router(router)
    return app


def _judge_loop(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    if settings.pr_env and not isinstance(loop, asyncio.BaseEventLoop):
        raise UnguardedError(found=f"the loop is {type(loop).__module__}'s")


def check() -> int:
    """Run everything up to and including the identity check; print the audit record."""
    startup = Startup()
    try:
        record = audit_record(*startup.run())
    except MonolithError as error:
        return startup.refuse(error)
    sys.stdout.write(json.dumps(record) + "\n")
    return 0


def neutralize() -> int:
    """Run the same checks, then make the clone harmless; print what was found in it."""
    startup = Startup()
    try:
        _, database = startup.run()
        startup.step = "neutralise"
        found = asyncio.run(neutralize_clone(database))
    except MonolithError as error:
        return startup.refuse(error)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def serve() -> int:
    """Run the same checks, then serve until SIGTERM or SIGINT."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))
    startup = Startup()
    try:
        settings, database = startup.run()
        startup.step = "app"
        app = create_app(settings, database)
        startup.step = "listen"
        listener = _listen(settings.listen_host, settings.listen_port)
    except MonolithError as error:
        return startup.refuse(error)
    startup.step = "startup points"
    server = uvicorn.Server(_server_config(app, settings))
    with listener, suppress(SystemExit):  # uvicorn's exit codes are not ours
        server.run(sockets=[listener])
    if app.state.refusal:
        return startup.refuse(app.state.refusal)
    return 0 if server.started else MonolithError.exit_code


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before anything is started that would have to be stopped again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror
    raise ListenError(host, port, str(reason))


def _server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        loop="asyncio" if settings.pr_env else "auto",  # uvloop is not seen by audit hooks
        server_header=False,
        timeout_graceful_shutdown=1,  # then startup points have 3 s, two pools 0.5 each: 5
        workers=1,
    )
