"""A Discord on loopback that speaks enough of REST and gateway for the real discord.py."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from preview.sinks import payloads
from preview.sinks.gateway import Gateway
from preview.sinks.payloads import BOT, CHANNEL, PERSON, TOKEN
from preview.sinks.peer import Asked, process_of
from preview.sinks.serving import listening

NONCE_MEMORY_SECONDS = 180.0
LONGEST_NONCE = 25
LONGEST_CONTENT = 2000

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Posted:
    """
    One thing that somebody said on Discord, and who it was.

    Args:
        process: the one that posted it; None where the system does not say.
        asked: how often it was asked for; every time but the first with a nonce that was known.
    """

    id: str
    channel: str
    author: str
    content: str
    at: datetime
    process: int | None
    reply_to: str | None = None
    nonce: str | None = None
    asked: int = 1


class FakeDiscord:
    """
    Remembers every request and who made it, and hands each event to every connected bot.

    A message that carries a nonce with `enforce_nonce` is made once: as Discord
    documents it, the same nonce by the same author within a few minutes gets
    the message that is there.
    """

    def __init__(self, nonce_memory: float = NONCE_MEMORY_SECONDS) -> None:
        self.asked: list[Asked] = []
        self.said: list[Posted] = []
        self.posted: list[Posted] = []
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.commands: list[dict[str, Any]] = []
        self.url = ""
        self.away = 0
        self.nonce_memory = nonce_memory
        self._trouble: deque[web.Response | None] = deque()
        self._ids = payloads.snowflakes()
        self.gateway = Gateway(self._ids)
        self._nonces: dict[str, tuple[float, Posted, dict[str, Any]]] = {}
        self._interactions: dict[str, bool] = {}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeDiscord"]:
        """Listen on a free port of loopback."""
        async with listening(self.app()) as where:
            self.found_at(where)
            yield self

    def app(self) -> web.Application:
        """Return what serves it, here or below a path."""
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/gateway/", self.gateway.serve)
        app.router.add_post("/api/interactions/{id}/{token}/callback", self._callback)
        app.router.add_post("/api/channels/{channel}/messages", self._create)
        app.router.add_put("/api/applications/{id}/commands", self._register)
        app.router.add_get("/api/users/@me", self._me)
        app.router.add_get("/api/oauth2/applications/@me", self._application)
        app.router.add_get("/api/gateway/bot", self._where)
        app.on_shutdown.append(self.gateway.hang_up)
        return app

    def found_at(self, where: str) -> None:
        """Learn under which address and path it is served."""
        self.url = f"http://{where}/api"
        self.gateway.url = f"ws://{where}/gateway/"

    @property
    def requests(self) -> list[str]:
        """What was asked for, in order."""
        return [asked.what for asked in self.asked]

    @property
    def identified(self) -> asyncio.Event:
        """Set once a bot has said who it is."""
        return self.gateway.identified

    async def mention(self, text: str) -> str:
        """Let a person mention the bot, and return the message's id."""
        return await self._say(f"<@{BOT['id']}> {text}", PERSON, [BOT])

    async def say(self, text: str, author: dict[str, Any] | None = None) -> str:
        """Let somebody say something that does not mention the bot, and return its id."""
        return await self._say(text, author or PERSON, [])

    async def slash(self, query: str) -> str:
        """Let a person use /notes, and return the interaction's id."""
        number = next(self._ids)
        self._interactions[number] = False
        self.said.append(_heard(number, f"/notes {query}", PERSON))
        await self.gateway.dispatch("INTERACTION_CREATE", payloads.interaction(number, query))
        return number

    def limit(self, seconds: float, times: int = 1) -> None:
        """Answer the next messages with 429 and this retry_after."""
        body = {"message": "You are being rate limited.", "retry_after": seconds, "global": False}
        headers = {"Retry-After": str(seconds), "Via": "1.1 loopback"}
        self._trouble.extend(_json(body, 429, headers) for _ in range(times))

    def fail(self, status: int, times: int = 1) -> None:
        """Answer the next messages with an error, and make none."""
        self._trouble.extend(_error(status, 0, "failed on request") for _ in range(times))

    def lose_answers(self, times: int = 1) -> None:
        """Make the next messages, and break the connection in place of an answer."""
        self._trouble.extend([None] * times)

    def forget_nonces(self) -> None:
        """End the memory of nonces now."""
        self._nonces.clear()

    @web.middleware
    async def _count(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        asked = Asked.by(request)
        self.asked.append(asked)
        response = await self._judged(request, handler)
        asked.status = response.status
        return response

    async def _judged(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if "/api/" not in request.path:
            return await handler(request)
        if self.away:
            self.away -= 1
            return _error(403, 0, "unavailable")
        free = request.path.endswith("/callback")
        if not free and request.headers.get("Authorization") != f"Bot {TOKEN}":
            return _error(401, 0, "401: Unauthorized")
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _error(error.status, 0, f"{error.status}: {error.reason}")

    async def _me(self, _request: web.Request) -> web.Response:
        return _json(BOT)

    async def _application(self, _request: web.Request) -> web.Response:
        return _json(payloads.application())

    async def _where(self, _request: web.Request) -> web.Response:
        limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}
        return _json({"url": self.gateway.url, "shards": 1, "session_start_limit": limit})

    async def _register(self, request: web.Request) -> web.Response:
        self.commands = await request.json()
        return _json([payloads.command(next(self._ids), entry) for entry in self.commands])

    async def _callback(self, request: web.Request) -> web.Response:
        number, body = request.match_info["id"], await request.json()
        if request.match_info["token"] != f"token-of-{number}" or number not in self._interactions:
            return _error(404, 10062, "Unknown interaction")
        if self._interactions[number]:
            return _error(400, 40060, "Interaction has already been acknowledged.")
        self._interactions[number] = True
        data = body.get("data") or {}
        self.posted.append(
            Posted(
                next(self._ids), CHANNEL, BOT["username"], data.get("content", ""),
                datetime.now(UTC), process_of(request), reply_to=number,
            )
        )  # fmt: skip
        await self.sent.put(data)
        return _json({"interaction": {"id": number, "type": 2}})

    async def _create(self, request: web.Request) -> web.Response:
        body, channel = await request.json(), request.match_info["channel"]
        loses = bool(self._trouble)
        if self._trouble and (problem := self._trouble.popleft()):
            return problem
        content, nonce = body.get("content") or "", body.get("nonce")
        if not 0 < len(content) <= LONGEST_CONTENT or len(str(nonce or "")) > LONGEST_NONCE:
            return _error(400, 50035, "Invalid Form Body")
        message = await self._made(request, channel, body)
        if loses and request.transport:
            request.transport.abort()
        return _json(message)

    async def _made(
        self, request: web.Request, channel: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Make a message, unless its nonce says that it is there."""
        nonce = str(body["nonce"]) if body.get("nonce") is not None else None
        if nonce and body.get("enforce_nonce"):
            made_at, posted, message = self._nonces.get(nonce, (-self.nonce_memory, None, {}))
            if posted and time.monotonic() - made_at < self.nonce_memory:
                posted.asked += 1
                return message
        reference = body.get("message_reference") or {}
        message = payloads.message(next(self._ids), channel, BOT, body["content"])
        reply_to = str(reference["message_id"]) if "message_id" in reference else None
        posted = Posted(
            message["id"], channel, BOT["username"], body["content"],
            datetime.now(UTC), process_of(request), reply_to, nonce,
        )  # fmt: skip
        if nonce:
            message["nonce"] = nonce
            self._nonces[nonce] = time.monotonic(), posted, message
        self.posted.append(posted)
        await self.sent.put(body)
        await self.gateway.dispatch("MESSAGE_CREATE", message)
        return message

    async def _say(self, text: str, author: dict[str, Any], mentions: list[dict[str, Any]]) -> str:
        message = payloads.message(next(self._ids), CHANNEL, author, text)
        self.said.append(_heard(message["id"], text, author))
        await self.gateway.dispatch("MESSAGE_CREATE", message | {"mentions": mentions})
        return str(message["id"])


def _heard(number: str, text: str, author: dict[str, Any]) -> Posted:
    return Posted(number, CHANNEL, author["username"], text, datetime.now(UTC), None)


def _error(status: int, code: int, message: str) -> web.Response:
    return _json({"message": message, "code": code}, status)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    # discord.py takes a content type with a charset for plain text
    kind = {"Content-Type": "application/json"}
    return web.Response(
        body=json.dumps(body).encode(), status=status, headers=kind | (headers or {})
    )
