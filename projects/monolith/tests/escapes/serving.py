"""Attempts to be served before a preview's own startup has finished."""

import asyncio
from contextlib import suppress
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app.main import create_app
from tests.escapes.outside import Outside
from tests.escapes.registry import Chapter, Layer

serving = Chapter("Serving past the startup")


def _app(out: Outside) -> FastAPI:
    """Make the app, in the control one without a gate, with a route that rings outside."""
    app = create_app(out.settings, out.database) if out.preview else FastAPI()
    app.add_api_route("/ring", out.ring)
    return app


async def _ask(app: Any) -> None:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(base_url="http://monolith", transport=transport) as client:
        await client.get("/ring")


@serving.tries(Layer.GATE)
def lifespan_swallowed(out: Outside) -> None:
    """A wrapper that keeps the server's lifespan from the app."""
    app = _app(out)

    async def wrapper(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    asyncio.run(_ask(wrapper))


@serving.tries(Layer.GATE)
def request_during_startup(out: Outside) -> None:
    """A request that is faster than the startup."""
    app = _app(out)

    async def race() -> None:
        starting = asyncio.create_task(_live(app))
        for _ in range(10):
            await asyncio.sleep(0)
            await _ask(app)
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting

    asyncio.run(race())


async def _live(app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        if not app.state._state:
            await asyncio.sleep(60)


@serving.tries(Layer.GATE)
def lifespan_that_failed(out: Outside) -> None:
    """A server that goes on after the startup has failed: its database answers no more."""
    app = _app(out)
    out.database.target = out.database.target.__class__(
        "127.0.0.9", 1, "a", out.database.target.password, "d"
    )

    async def serve() -> None:
        with suppress(Exception):
            async with app.router.lifespan_context(app):
                pass
        await _ask(app)

    asyncio.run(serve())


serving.serve(
    "uvicorn",
    "`uvicorn app.main:app`: there is no such app",
    *("-m", "uvicorn", "app.main:app"),
    says='Attribute "app" not found',
    control=("-m", "preview", "serve"),
)
serving.serve(
    "uvicorn-factory",
    "`uvicorn --factory app.main:create_app`: it makes none of nothing",
    *("-m", "uvicorn", "--factory", "app.main:create_app"),
    says="missing 2 required positional arguments: 'settings' and 'database'",
    control=("-m", "preview", "serve"),
)
serving.serve(
    "factory-by-hand",
    "A module that makes the app from settings and database, and uvicorn",
    *("-m", "uvicorn", "--factory", "attacker:make"),
    says="nobody has armed it",
)
serving.serve(
    "several-workers",
    "The same with several workers, which uvicorn starts again and again",
    *("-m", "uvicorn", "--factory", "attacker:make", "--workers", "2"),
    says="nobody has armed it",
)
serving.serve(
    "armed-on-uvloop",
    "A module that arms the tripwire, and uvicorn on uvloop, past which it sees nothing",
    *("-m", "uvicorn", "--factory", "attacker:make_armed", "--loop", "uvloop"),
    says="Application startup failed",
)
