"""The only module that refuses what a preview's code does outwards, as Python tells of it."""

import _socket
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from threading import RLock
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import structlog

from shared.dsn import Target
from shared.errors import OutboundRefusedError
from shared.seal import Seal
from shared.settings import Settings

QUIET_SECONDS = 5.0
"""How long names are not looked up again after that has not helped."""

MOST_COUNTED = 100
LONGEST = 100
REST = "the rest"
"""What is counted together once MOST_COUNTED acts have been told apart."""

HTTPS = 443
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
        """Return it as a person would say it; never more than a name, a path and a port."""
        what = self.what if len(self.what) <= LONGEST else f"{self.what[:LONGEST]}…"
        if self.port is None:
            return f"{self.kind} {what}"
        return (
            f"{self.kind} [{what}]:{self.port}"
            if ":" in what
            else f"{self.kind} {what}:{self.port}"
        )


def _text(found: object) -> str:
    """Return a string of our own: a subclass could say something else each time it is asked."""
    if isinstance(found, str):
        return str.__str__(found)
    if isinstance(found, bytes | os.PathLike):
        return os.fsdecode(found)
    return f"what is a {type(found).__name__}"


def _address(text: str) -> str | None:
    """Return an IP address in its shortest spelling, IPv4 also where IPv6 wraps it."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


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
    if name in _LOCAL_NAMES or _address(name):
        return None
    return Act(Kind.LOOK_UP, name.lower())


def _look_up_address(args: tuple[Any, ...]) -> Act:
    return Act(Kind.LOOK_UP, _text(args[0]))


def _run(args: tuple[Any, ...]) -> Act:
    return Act(Kind.RUN, _text(args[0]))


def _run_some(what: str) -> Callable[[tuple[Any, ...]], Act]:
    return lambda _args: Act(Kind.RUN, what)


def _call(args: tuple[Any, ...]) -> Act | None:
    symbol = _text(args[1])
    return Act(Kind.CALL, f"{symbol}() from C") if symbol in _OUTWARD_SYMBOLS else None


_READ: Mapping[str, Callable[[tuple[Any, ...]], Act | None]] = MappingProxyType(
    {
        "socket.connect": _reach,
        "socket.sendto": _reach,
        "socket.sendmsg": _reach,
        "socket.getaddrinfo": _look_up,
        "socket.gethostbyname": _look_up,
        "socket.gethostbyaddr": _look_up_address,
        "socket.getnameinfo": _look_up,
        "subprocess.Popen": _run,
        "os.system": _run_some("a shell"),
        "os.exec": _run,
        "os.posix_spawn": _run,
        "os.spawn": lambda args: _run(args[1:]),
        "os.fork": _run_some("a copy of this process"),
        "os.forkpty": _run_some("a copy of this process"),
        "cpython.PyInterpreterState_New": _run_some("an interpreter without this tripwire"),
        "ctypes.dlsym": _call,
        "ctypes.dlsym/handle": _call,
    }
)


def outward_act(event: str, args: tuple[Any, ...]) -> Act | None:
    """
    Tell what an audit event of Python does outwards; None where it does nothing of the kind.

    Nothing is looked up and nothing is sent. An address is an act whoever
    listens there, this machine included; looking one up that needs no asking is none.
    """
    read = _READ.get(event)
    if read is None:
        return None
    try:
        return read(args)
    except (AttributeError, IndexError, TypeError, ValueError):
        return Act(Kind.RUN, f"{event} in a way that nobody knows")


@dataclass(frozen=True, slots=True)
class Allowed:
    """
    What a preview may reach: its clone, Cloudflare's keys, and what EGRESS_ALLOW names.

    Args:
        hosts: names or addresses, each with the one port that is allowed there.
        sockets: paths of Unix sockets.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    sockets: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: Settings, target: Target) -> Self:
        """Read what the clone and the settings need; nothing is looked up."""
        hosts = [_pair(text) for text in settings.egress_allow]
        if settings.access_team_domain:
            team = urlsplit(settings.access_team_domain)
            hosts.insert(0, (str(team.hostname), team.port or HTTPS))
        if target.is_socket:
            return cls(tuple(hosts), (target.socket_path,))
        return cls(((target.host, target.port), *hosts))

    @property
    def ports(self) -> tuple[int, ...]:
        """Every TCP port that is needed."""
        return tuple(sorted({port for _, port in self.hosts}))

    @property
    def acts(self) -> frozenset[Act]:
        """Every act that needs no look-up to be allowed."""
        reached = {Act(Kind.REACH, host, port) for host, port in self.hosts}
        reached |= {Act(Kind.REACH, path) for path in self.sockets}
        return frozenset(reached | {Act(Kind.LOOK_UP, name) for name, _ in self.hosts})

    def names(self, port: int) -> list[str]:
        """Name the hosts that are allowed on this port and have to be looked up."""
        return [host for host, allowed in self.hosts if allowed == port and not _address(host)]

    @property
    def said(self) -> list[str]:
        """All of it, as a person would say it."""
        return [*self.sockets, *(f"{host}:{port}" for host, port in self.hosts)]


def _pair(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Tripwire:
    """What was armed in this process; `refused` counts, by what was asked for."""

    allowed: Allowed
    seal: Seal
    refused: Mapping[str, int]

    @property
    def blind_spots(self) -> list[str]:
        """What neither tripwire nor seal can see or hold."""
        ports = ", ".join(map(str, self.seal.ports))
        if self.seal.landlock is None:
            tcp = ["TCP from C code", "programs that are started past Python's own functions"]
        else:
            tcp = [f"TCP from C code to any host on port {ports}"] if ports else []
        return [*tcp, *_BLIND_SPOTS]


_BLIND_SPOTS = (
    "datagrams and TCP fast open from C code",
    "Unix sockets from C code",
    "a name given to connect() itself: looked up, then refused",
    "file descriptors that were open before",
    "what ran while the app was imported",
    "code of the pull request that disarms the tripwire",
)

_armed: list[Tripwire] = []


def armed() -> Tripwire | None:
    """Return what was armed in this process, None where nothing was."""
    return _armed[0] if _armed else None


def arm(allowed: Allowed, seal: Seal) -> Tripwire:
    """
    Refuse, from now on and for the life of the process, every outward act that is not allowed.

    What is armed cannot be disarmed or widened: a second call changes nothing.
    It is a tripwire and no wall: C code is not seen, and code that wants to get
    past it can. The seal and the cluster's NetworkPolicy stand behind it.
    """
    if not _armed:
        refused: Counter[str] = Counter()
        sys.addaudithook(_hook(allowed, _counting(refused)))
        _armed.append(Tripwire(allowed, seal, MappingProxyType(refused)))
    return _armed[0]


def _hook(allowed: Allowed, count: Callable[[Act], None]) -> Callable[[str, tuple[Any, ...]], None]:
    """Make the hook; all it needs is bound here, where no later assignment reaches it."""
    watched, known, read = frozenset(_READ), allowed.acts, outward_act
    resolves, refusal = _resolving(allowed), OutboundRefusedError

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in watched:
            return
        act = read(event, args)
        if act is None or act in known or resolves(act):
            return
        count(act)
        raise refusal(str(act), ", ".join(allowed.said), _remedy(act))

    return hook


def _resolving(allowed: Allowed) -> Callable[[Act], bool]:
    """
    Make what tells whether an act reaches an address that an allowed name has now.

    A name that is looked up passes the hook itself, so nothing here recurses.
    """
    static, resolve = allowed.acts, _socket.getaddrinfo
    answers: dict[int, frozenset[str]] = {}
    quiet_until = 0.0

    def resolves(act: Act) -> bool:
        nonlocal quiet_until
        if act.kind is not Kind.REACH or act.port is None:
            return False
        address = _address(act.what)
        if address is None:
            return act._replace(what=act.what.lower().removesuffix(".")) in static
        if address in answers.get(act.port, ()) or act._replace(what=address) in static:
            return True
        if not (names := allowed.names(act.port)) or time.monotonic() < quiet_until:
            return False
        if found := frozenset(_resolved(resolve, names, act.port)):
            answers[act.port] = found
        if address in found:
            return True
        quiet_until = time.monotonic() + QUIET_SECONDS
        return False

    return resolves


def _resolved(resolve: Callable[..., list[Any]], names: Iterable[str], port: int) -> Iterable[str]:
    for name in names:
        with suppress(OSError):  # what cannot be looked up now is at no address
            for *_, address in resolve(name, port, type=_socket.SOCK_STREAM):
                yield str(_address(address[0]))


def _counting(refused: Counter[str]) -> Callable[[Act], None]:
    """Make what counts refusals, and logs the first of each kind; neither grows for ever."""
    lock, warn = RLock(), structlog.get_logger().warning

    def count(act: Act) -> None:
        with lock:
            name = str(act)
            if name not in refused and len(refused) >= MOST_COUNTED:
                name = REST
            refused[name] += 1
            first = refused[name] == 1
        if first:
            with suppress(Exception):  # it is refused whatever the log says
                warn("outbound refused", act=name)

    return count


def _remedy(act: Act) -> str:
    if act.kind in (Kind.RUN, Kind.CALL):
        return "Do it in production."
    return "Name it in EGRESS_ALLOW (preview.egressAllow in the chart), or do it in production."
