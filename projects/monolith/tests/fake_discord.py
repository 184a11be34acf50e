"""A Discord on loopback that speaks enough of REST and gateway for the real discord.py."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

TOKEN = "good-token"  # noqa: S105  the only token that this Discord knows
BOT = {"id": "100", "username": "monolith", "discriminator": "0", "avatar": None, "bot": True}
PERSON = {"id": "200", "username": "ada", "discriminator": "0", "avatar": None}
CHANNEL = "300"
GUILD = "400"


class FakeDiscord:
    """Counts every request, and hands events to every connected bot."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.commands: list[dict[str, Any]] = []
        self.identified = asyncio.Event()
        self.url = ""
        self.away = 0
        self._bots: list[web.WebSocketResponse] = []

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeDiscord"]:
        """Listen on a free port of loopback."""
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/gateway/", self._gateway)
        app.router.add_route("*", "/api/{path:.*}", self._rest)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/api"
        self._gateway_url = f"ws://127.0.0.1:{port}/gateway/"
        try:
            yield self
        finally:
            for bot in self._bots:
                await bot.close()
            await runner.cleanup()

    async def mention(self, text: str) -> None:
        """Let a person mention the bot."""
        message = _message(f"<@{BOT['id']}> {text}") | {"mentions": [BOT]}
        await self._dispatch("MESSAGE_CREATE", message)

    async def say(self, text: str, author: dict[str, Any] | None = None) -> None:
        """Let somebody say something that does not mention the bot."""
        await self._dispatch("MESSAGE_CREATE", _message(text) | {"author": author or PERSON})

    async def slash(self, query: str) -> None:
        """Let a person use /notes."""
        options = [{"name": "query", "type": 3, "value": query}]
        data = {"id": "1", "name": "notes", "type": 1, "options": options}
        ids = {"application_id": BOT["id"], "id": "900", "token": "t", "type": 2, "version": 1}
        more = {"data": data, "user": PERSON, "entitlements": [], "attachment_size_limit": 0}
        await self._dispatch("INTERACTION_CREATE", ids | more)

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _rest(self, request: web.Request) -> web.Response:  # noqa: PLR0911  one a route
        path, body = request.match_info["path"], await request.text()
        if self.away:
            self.away -= 1
            return _json({"message": "unavailable", "code": 0}, 403)
        if request.headers.get("Authorization") != f"Bot {TOKEN}" and "callback" not in path:
            return _json({"message": "401: Unauthorized", "code": 0}, 401)
        if path == "users/@me":
            return _json(BOT)
        if path == "oauth2/applications/@me":
            return _json(_application())
        if path == "gateway/bot":
            limit = {"total": 1000, "remaining": 999, "reset_after": 0, "max_concurrency": 1}
            return _json({"url": self._gateway_url, "shards": 1, "session_start_limit": limit})
        if path.endswith("/callback"):
            await self.sent.put(json.loads(body)["data"])
            return _json({"interaction": {"id": "900", "type": 2}})
        if path.endswith("/commands"):
            self.commands = json.loads(body)
            return _json([_command(entry) for entry in self.commands])
        await self.sent.put(json.loads(body))
        return _json(_message("") | {"author": BOT})

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        bot = web.WebSocketResponse()
        await bot.prepare(request)
        self._bots.append(bot)
        await bot.send_json({"op": 10, "d": {"heartbeat_interval": 45000}})
        async for message in bot:
            if message.type is WSMsgType.TEXT:
                await self._answer(bot, json.loads(message.data))
        return bot

    async def _answer(self, bot: web.WebSocketResponse, said: dict[str, Any]) -> None:
        if said["op"] == 1:
            await bot.send_json({"op": 11})
        elif said["op"] == 2:
            ready = {"v": 10, "user": BOT, "guilds": [], "session_id": "s"} | {
                "resume_gateway_url": self._gateway_url,
                "application": {"id": BOT["id"], "flags": 0},
                "shard": [0, 1],
            }
            await bot.send_json({"op": 0, "t": "READY", "s": 1, "d": ready})
            self.identified.set()

    async def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        for bot in self._bots:
            if not bot.closed:
                await bot.send_json({"op": 0, "t": event, "s": 2, "d": data})


def _json(body: Any, status: int = 200) -> web.Response:
    # discord.py takes a content type with a charset for plain text
    headers = {"Content-Type": "application/json"}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers)


def _message(content: str) -> dict[str, Any]:
    empty: dict[str, Any] = {
        key: [] for key in ("attachments", "embeds", "mentions", "mention_roles", "components")
    }
    return empty | {
        "id": "500",
        "channel_id": CHANNEL,
        "author": PERSON,
        "content": content,
        "timestamp": "2026-11-23T09:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "pinned": False,
        "type": 0,
    }


def _application() -> dict[str, Any]:
    return {
        "id": BOT["id"],
        "name": "monolith",
        "description": "",
        "icon": None,
        "bot_public": False,
        "bot_require_code_grant": False,
        "verify_key": "",
        "summary": "",
        "flags": 0,
        "owner": PERSON,
        "team": None,
    }


def _command(entry: dict[str, Any]) -> dict[str, Any]:
    ids = {"id": "1", "application_id": BOT["id"], "version": "1"}
    return ids | {"default_member_permissions": None} | entry
