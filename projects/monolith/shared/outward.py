"""The only module that tells what code does outwards from what Python audits; it does no I/O."""

import _socket
import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType
from typing import Any, NamedTuple

LONGEST_SAID = 100
_LOCAL_NAMES = frozenset({"", "localhost"})
_OUTWARD_SYMBOLS = frozenset(
    {
        *("connect", "sendto", "sendmsg", "sendmmsg", "syscall"),
        *("getaddrinfo", "gethostbyname", "gethostbyname2", "gethostbyaddr", "res_query"),
        *("system", "popen", "fork", "vfork", "clone", "posix_spawn", "posix_spawnp"),
        *("execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe", "fexecve"),
    }
)


class Kind(StrEnum):
    """What code does outwards."""

    REACH = "reach"
    LOOK_UP = "look up"
    RUN = "run"
    CALL = "call"


class Act(NamedTuple):
    """One thing that code is about to do outwards; only a host has a port."""

    kind: Kind
    what: str
    port: int | None = None

    def __str__(self) -> str:
        """Return it as a person would say it, on one line: a name, a path, a port, and no more."""
        what = "".join(letter if letter.isprintable() else "?" for letter in self.what)
        what = what if len(what) <= LONGEST_SAID else f"{what[:LONGEST_SAID]}…"
        if self.port is None:
            return f"{self.kind} {what}"
        return f"{self.kind} {f'[{what}]' if ':' in what else what}:{self.port}"


def _text(found: object) -> str:
    """Return a string of our own: a subclass could say something else each time it is asked."""
    if isinstance(found, str):
        return str.__str__(found)
    if isinstance(found, bytes | os.PathLike):
        return os.fsdecode(found)
    return f"what is a {type(found).__name__}"


def address_of(text: str) -> str | None:
    """Return an IP address in its shortest spelling, IPv4 also where IPv6 wraps it, and no zone."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found)))
    return str(found)


def _reach(args: tuple[Any, ...]) -> Act | None:
    sock, address = args[0], args[1]
    if address is None:  # sendmsg on a socket that is connected already
        return None
    family = _socket.socket.family.__get__(sock)
    if family in (_socket.AF_INET, _socket.AF_INET6):
        return Act(Kind.REACH, _text(address[0]), int(address[1]))
    if family == _socket.AF_UNIX:
        return Act(Kind.REACH, _text(address).replace("\0", "@"))
    return Act(Kind.REACH, f"address family {family}")


def _look_up(args: tuple[Any, ...]) -> Act | None:
    host = args[0]
    if isinstance(host, tuple):  # getnameinfo asks for the name of an address
        return Act(Kind.LOOK_UP, _text(host[0]))
    name = "" if host is None else _text(host)
    if name in _LOCAL_NAMES or address_of(name):
        return None
    return Act(Kind.LOOK_UP, name.lower().removesuffix("."))


def _look_up_address(args: tuple[Any, ...]) -> Act:
    return Act(Kind.LOOK_UP, _text(args[0]))


def _run(args: tuple[Any, ...]) -> Act:
    return Act(Kind.RUN, _text(args[0]))


def _call(args: tuple[Any, ...]) -> Act | None:
    symbol = _text(args[1])
    return Act(Kind.CALL, f"{symbol}() from C") if symbol in _OUTWARD_SYMBOLS else None


_READERS: Mapping[str, Callable[[tuple[Any, ...]], Act | None]] = MappingProxyType(
    {
        "socket.connect": _reach,
        "socket.sendto": _reach,
        "socket.sendmsg": _reach,
        "socket.getaddrinfo": _look_up,
        "socket.gethostbyname": _look_up,
        "socket.gethostbyaddr": _look_up_address,
        "socket.getnameinfo": _look_up,
        "subprocess.Popen": _run,
        "os.exec": _run,
        "os.posix_spawn": _run,
        "os.spawn": lambda args: _run(args[1:]),
        "ctypes.dlsym": _call,
        "ctypes.dlsym/handle": _call,
    }
)

_ALWAYS: Mapping[str, Act] = MappingProxyType(
    {
        "os.system": Act(Kind.RUN, "a shell"),
        "os.fork": Act(Kind.RUN, "a copy of this process"),
        "os.forkpty": Act(Kind.RUN, "a copy of this process"),
        "cpython.PyInterpreterState_New": Act(Kind.RUN, "an interpreter without this tripwire"),
    }
)

EVENTS = frozenset({*_READERS, *_ALWAYS})
"""The only audit events that can be an outward act."""


def outward_act(event: str, args: tuple[Any, ...]) -> Act | None:
    """
    Tell what an audit event of Python does outwards; None where it does nothing of the kind.

    Nothing is looked up and nothing is sent. An address is an act whoever
    listens there, this machine included; looking one up that needs no asking is none.
    """
    read = _READERS.get(event)
    if read is None:
        return _ALWAYS.get(event)
    try:
        return read(args)
    except (AttributeError, IndexError, TypeError, ValueError):
        return Act(Kind.CALL, f"{event} in a way that nobody knows")
