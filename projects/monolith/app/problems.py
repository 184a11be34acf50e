"""The only module that turns errors into RFC 9457 problem documents."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import MonolithError, MutedError, OutboundRefusedError

log = structlog.get_logger()


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    """Make a problem document; `members` are its extension members."""
    title = HTTPStatus(status).phrase
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **members},
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Let every error of `app` end in a problem document."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(MutedError, _muted)
    app.add_exception_handler(OutboundRefusedError, _outbound)
    for trouble in (
        MonolithError,
        OSError,
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
    ):
        app.add_exception_handler(trouble, _no_database)
    app.add_exception_handler(Exception, _bug)


class StartupGate:
    """Answer 503 to everything until startup has finished, whoever serves the app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes after startup, and startup itself."""
        state = scope["app"].state
        if scope["type"] == "lifespan":
            await self.app(scope, receive, partial(_without_traceback, state, send))
        elif state.ready:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = problem(503, "Startup has not finished.", {"Retry-After": "1"})
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013})


async def _without_traceback(state: State, send: Send, message: Message) -> None:
    """Let a refusal be told in one line, by whoever serves the app, and not as a traceback."""
    if message["type"] == "lifespan.startup.failed" and state.refusal:
        message = {"type": message["type"]}
    await send(message)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    error = cast("HTTPException", error)
    return problem(error.status_code, str(error.detail), error.headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    errors = [
        {"pointer": "/" + "/".join(map(str, found["loc"])), "detail": found["msg"]}
        for found in cast("RequestValidationError", error).errors()
    ]
    return problem(422, "The request is not valid.", errors=errors)


async def _muted(_request: Request, error: Exception) -> JSONResponse:
    error = cast("MutedError", error)
    return problem(409, str(error), startup_point=error.point, reason=error.reason)


async def _outbound(_request: Request, error: Exception) -> JSONResponse:
    return _refused(cast("OutboundRefusedError", error))


async def _no_database(_request: Request, error: Exception) -> JSONResponse:
    if refusal := _refusal_behind(error):
        return _refused(refusal)
    log.error("database unavailable", error=str(error))
    return problem(503, "The database does not answer as the right one.", {"Retry-After": "1"})


async def _bug(_request: Request, error: Exception) -> JSONResponse:
    if refusal := _refusal_behind(error):
        return _refused(refusal)
    return problem(500, "This is our fault; the log says more.")


def _refused(error: OutboundRefusedError) -> JSONResponse:
    return problem(409, str(error), act=error.act)


def _refusal_behind(error: BaseException | None) -> OutboundRefusedError | None:
    """Find the tripwire's refusal behind what a library has made of it."""
    while error is not None and not isinstance(error, OutboundRefusedError):
        error = error.__cause__ or error.__context__
    return error
