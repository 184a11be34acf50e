"""The sinks as one site: a page for people, JSON for programs, and below it the outside world."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from preview.sinks.outside import Outside
from preview.sinks.page import render
from preview.sinks.serving import listening

LONGEST_TEXT = 200

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_HERE = Path(__file__).parent


class Site:
    """
    What people and programs see of the outside world.

    Only answers those who ask for it by its own address, and takes orders only
    from its own page or from a program.
    """

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._where = ""

    @classmethod
    @asynccontextmanager
    async def serve(cls, outside: Outside, port: int = 0) -> AsyncIterator[str]:
        """Listen on loopback, on a free port unless one is given, and say at which URL."""
        site = cls(outside)
        async with listening(site._app(), port) as where:
            site._where = where
            outside.found_at(where)
            yield f"http://{where}"

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._judge])
        app.router.add_get("/", self._page)
        for name in ("page.css", "page.js"):
            app.router.add_get(f"/{name}", _file)
        app.router.add_get("/received", self._received)
        app.router.add_post("/say", self._say)
        app.router.add_post("/commit", self._commit)
        self._outside.add_to(app)
        return app

    @web.middleware
    async def _judge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what another site's page could make a browser send here."""
        origin = request.headers.get("Sec-Fetch-Site", "none")
        ours = origin in ("none", "same-origin") or request.method == "GET"
        if request.host != self._where or not ours:
            raise web.HTTPForbidden
        return await handler(request)

    async def _page(self, _request: web.Request) -> web.Response:
        text = render(await self._outside.received())
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def _received(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._outside.received(), dumps=_json, headers=_HEADERS)

    async def _say(self, request: web.Request) -> web.StreamResponse:
        said = await request.post()
        say = {"mention": self._outside.discord.mention, "slash": self._outside.discord.slash}
        text, how = _text(said, "text"), str(said.get("how", "mention"))
        if how not in say:
            raise web.HTTPBadRequest(text=f"how is one of {', '.join(say)}\n")
        return _done(request, {"id": await say[how](text)})

    async def _commit(self, request: web.Request) -> web.StreamResponse:
        said = await request.post()
        repository, message = str(said.get("repository")), _text(said, "message")
        known = self._outside.github.repositories
        if repository not in known:
            raise web.HTTPBadRequest(text=f"repository is one of {', '.join(known)}\n")
        return _done(request, {"sha": self._outside.github.commit(repository, message).sha})


async def _file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_HERE / request.path.strip("/"), headers=_HEADERS)


def _text(said: Any, name: str) -> str:
    text = str(said.get(name, "")).strip()
    if not 0 < len(text) <= LONGEST_TEXT:
        raise web.HTTPBadRequest(text=f"{name} has 1 to {LONGEST_TEXT} characters\n")
    return text


def _done(request: web.Request, facts: dict[str, str]) -> web.StreamResponse:
    """Lead a person back to the page, and tell a program what there is now."""
    if "text/html" in request.headers.get("Accept", ""):
        raise web.HTTPSeeOther(location="/")
    return web.json_response(facts)


def _json(value: Any) -> str:
    return json.dumps(value, default=datetime.isoformat)
