"""The only module that knows which process is at the other end of a connection on loopback."""

import functools
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Asked:
    """
    One request, who made it, and what came of it.

    Args:
        process: the one that made it; None where the system does not say.
        status: None while there is no answer.
    """

    what: str
    process: int | None
    at: datetime = field(default_factory=_now)
    status: int | None = None

    @classmethod
    def by(cls, request: web.Request) -> "Asked":
        """Write down a request that has just come in."""
        return cls(f"{request.method} {request.path_qs}", process_of(request))


def process_of(request: web.Request) -> int | None:
    """
    Return the process that makes a request; None where the system does not say.

    Linux says it of one's own processes, and to root of everybody's.
    """
    if request.transport is None:
        return None
    ends = [request.transport.get_extra_info(end) for end in ("peername", "sockname")]
    inode = _inode(*map(_address, ends)) if all(ends) else None
    return _owner(inode) if inode else None


def _inode(local: str, remote: str) -> str | None:
    """
    Return the kernel's name of the socket that connects these ends; None where there is none.

    Both ends count: Linux gives a port again to another connection that leads elsewhere.
    """
    with suppress(OSError):
        for line in Path("/proc/net/tcp").read_text().splitlines():
            fields = line.split()
            if fields[1:3] == [local, remote]:
                return fields[9]
    return None


def _address(end: tuple[str, int]) -> str:
    """Write one end of a connection as /proc/net/tcp does."""
    (number,) = struct.unpack("=I", socket.inet_aton(end[0]))
    return f"{number:08X}:{end[1]:04X}"


@functools.lru_cache(maxsize=1024)
def _owner(inode: str) -> int | None:
    link = f"socket:[{inode}]"
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(descriptor) == link:  # noqa: PTH115  no Path would be of use
                return int(descriptor.parts[2])
    return None
