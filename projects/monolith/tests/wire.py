"""What asyncpg really does: where it asks the event loop to connect, and what it says there."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

_PASSWORD_PLEASE = b"R\0\0\0\x08\0\0\0\x03"
_NO = b"SFATAL\0C28P01\0Mno\0\0"
_REFUSED = b"E" + (4 + len(_NO)).to_bytes(4, "big") + _NO


@dataclass
class Spoken:
    """Every address that was asked for, and what was said to whoever answered there."""

    asked: list[tuple[str | int, ...]] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    password: str | None = None


class RecordingLoop(asyncio.SelectorEventLoop):
    """
    An event loop that reaches nobody.

    Whoever is asked for answers like a Postgres that wants a password, in the
    clear, and takes none. `spoken` has it all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spoken = Spoken()

    def listen(self, connecting: Awaitable[Any]) -> Spoken:
        """Run an attempt to connect to its refusal, and return what was asked and said."""
        self.spoken = Spoken()
        try:
            self.run_until_complete(connecting)
        except asyncpg.InvalidPasswordError:
            return self.spoken
        raise AssertionError(self.spoken)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_options: Any
    ) -> Any:
        """Record a TCP address."""
        return self._answer(protocol_factory(), host, port)

    async def create_unix_connection(
        self, protocol_factory: Any, path: Any = None, **_options: Any
    ) -> Any:
        """Record a Unix socket."""
        return self._answer(protocol_factory(), path)

    async def getaddrinfo(self, host: Any, port: Any, **_options: Any) -> Any:
        """Record a look-up, and fail it."""
        self.spoken.asked.append(("look-up", host, port))
        raise OSError(host)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Record an address that is connected to by hand, and refuse."""
        del sock
        self.spoken.asked.append(tuple(address))
        raise ConnectionRefusedError

    def _answer(self, protocol: asyncio.Protocol, *where: str | int) -> Any:
        self.spoken.asked.append(where)
        transport = _Refusing(self, protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Refusing(asyncio.Transport):
    """Ask for the password, note it, and refuse it."""

    def __init__(self, loop: RecordingLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop, self._protocol = loop, protocol

    def write(self, data: Any) -> None:
        spoken, message = self._loop.spoken, bytes(data)
        if message[:1] == b"p":
            spoken.password = message[5:-1].decode()
            self._loop.call_soon(self._protocol.data_received, _REFUSED)
        elif message[:1] == b"\0":
            words = message[8:-2].decode().split("\0")
            spoken.parameters = dict(zip(words[::2], words[1::2], strict=True))
            self._loop.call_soon(self._protocol.data_received, _PASSWORD_PLEASE)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close
