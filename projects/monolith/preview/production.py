"""Production beside the preview: on the source, with an outside world on this machine."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from preview import migrations
from preview.console import Console
from preview.errors import ProductionError
from preview.places import Places
from preview.postgres import APP, DATABASE, Engine
from preview.process import App, free_port, head_sha, monolith
from preview.sinks.outside import Outside
from preview.sinks.site import Site
from shared.audit import audit_line
from shared.identity import SOURCE

PORT = 8000
SINKS_PORT = 7999


@dataclass(frozen=True, slots=True)
class Production:
    """The monolith in production mode, what it takes for the outside world, and where both are."""

    app: App
    outside: Outside
    facts: dict[str, Any]


@asynccontextmanager
async def production(places: Places, source: Engine, console: Console) -> AsyncIterator[Production]:
    """
    Run production on the source, which gets this branch's migrations first, as on a deployment.

    Its outward settings lead to the sinks, and nothing of ours is handed on. The
    vault stays with the source, so that the next run goes on with it. The usual
    ports are for the usual state directory; another one may run at the same time.

    Raises:
        ProductionError: it did not get ready.
    """
    if shutil.which("git") is None:
        found, remedy = "the system has no git for its vault", "Install git."
        raise ProductionError(found, remedy)
    await _migrate(source, console)
    home = source.home / "production"
    home.mkdir(mode=0o700, exist_ok=True)
    log = home / "app.log"
    log.unlink(missing_ok=True)
    outside = Outside.make(home)
    port, sinks_port = (0, 0) if places.elsewhere else (PORT, SINKS_PORT)
    port = free_port(port)
    async with (
        Site.serve(outside, free_port(sinks_port)) as sinks,
        monolith("serve", _environment(source, outside, port), log, ProductionError) as app,
    ):
        outside.names[app.process.pid] = "production"
        url = f"http://127.0.0.1:{port}"
        with console.step(f"start production on {SOURCE}, with PR_ENV=false"):
            attestation = await app.ready(url, str(source.socket_dir))
        places.say_production(url)
        facts = {"url": url, "sinks": sinks, "audit": audit_line(attestation)}
        yield Production(app, outside, facts)


async def _migrate(source: Engine, console: Console) -> None:
    with console.step(f"apply this branch's migrations to {SOURCE}"):
        async with source.connect(APP, DATABASE) as connection:
            for name in await migrations.apply(connection, migrations.DIRECTORY):
                console.say(f"applied {name} to {SOURCE}", applied=name)


def _environment(source: Engine, outside: Outside, port: int) -> dict[str, str]:
    sha = head_sha()
    return outside.environment() | {
        "PR_ENV": "false",
        "DATABASE_URL": source.dsn().get_secret_value(),
        "LISTEN_PORT": str(port),
        **({"HEAD_SHA": sha} if sha else {}),
    }
