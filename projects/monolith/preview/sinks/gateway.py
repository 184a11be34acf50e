"""Discord's gateway: bots connect, say who they are, and get every event."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any

from aiohttp import WSMsgType, web

from preview.sinks import payloads

HEARTBEAT_MS = 45_000
_AUTHENTICATION_FAILED = 4004


class Op(IntEnum):
    """What a message of the gateway is about."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


class Gateway:
    """
    Hands each event to every bot that is connected at that moment.

    Keeps nothing for a bot that is away, as the real one does for a bot that
    has to identify itself anew.
    """

    def __init__(self, ids: Iterator[str]) -> None:
        self.url = ""
        self.identified = asyncio.Event()
        self._ids = ids
        self._bots: list[web.WebSocketResponse] = []
        self._sequence = 0

    @property
    def connected(self) -> int:
        """How many bots are connected."""
        return sum(not bot.closed for bot in self._bots)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Talk to one bot for as long as it stays."""
        bot = web.WebSocketResponse()
        await bot.prepare(request)
        await bot.send_json({"op": Op.HELLO, "d": {"heartbeat_interval": HEARTBEAT_MS}})
        async for message in bot:
            if message.type is WSMsgType.TEXT:
                await self._answer(bot, json.loads(message.data))
        return bot

    async def dispatch(self, event: str, data: dict[str, Any]) -> None:
        """Hand an event to every bot."""
        for bot in self._bots:
            if not bot.closed:
                await self._send(bot, event, data)

    async def hang_up(self, _app: web.Application) -> None:
        """Say goodbye to every bot."""
        for bot in self._bots:
            await bot.close()

    async def _answer(self, bot: web.WebSocketResponse, said: dict[str, Any]) -> None:
        match said["op"]:
            case Op.HEARTBEAT:
                await bot.send_json({"op": Op.HEARTBEAT_ACK})
            case Op.IDENTIFY if said["d"]["token"] == payloads.TOKEN:
                self._bots.append(bot)
                await self._send(bot, "READY", payloads.ready(next(self._ids), self.url))
                self.identified.set()
            case Op.IDENTIFY:
                await bot.close(code=_AUTHENTICATION_FAILED)
            case Op.RESUME:
                await bot.send_json({"op": Op.INVALID_SESSION, "d": False})

    async def _send(self, bot: web.WebSocketResponse, event: str, data: dict[str, Any]) -> None:
        self._sequence += 1
        with suppress(ConnectionError):  # it was killed a moment ago
            await bot.send_json({"op": Op.DISPATCH, "t": event, "s": self._sequence, "d": data})
