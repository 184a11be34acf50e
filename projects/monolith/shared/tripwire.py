"""The only module that refuses what a preview's code does outwards, as Python tells of it."""

import _socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Self
from urllib.parse import urlsplit

import structlog

from shared.dsn import Target
from shared.errors import OutboundRefusedError, UnguardedError
from shared.outward import EVENTS, Act, Kind, address_of, outward_act
from shared.seal import Seal
from shared.settings import Settings

__all__ = ["Act", "Allowed", "Tripwire", "arm", "armed", "outward_act"]

QUIET_SECONDS = 5.0
"""How long names are not looked up again after that has not helped."""

MOST_COUNTED = 100
REST = "the rest"
"""What is counted together once MOST_COUNTED acts have been told apart."""

HTTPS = 443
_ASK = "monolith.tripwire"


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
        return [host for host, allowed in self.hosts if allowed == port and not address_of(host)]

    @property
    def said(self) -> list[str]:
        """All of it, as a person would say it."""
        return [*self.sockets, *(f"{host}:{port}" for host, port in self.hosts)]


def _pair(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Tripwire:
    """What was armed in this process, with the seal behind it."""

    allowed: Allowed
    seal: Seal
    _refused: Counter[str] = field(default_factory=Counter, repr=False)

    @property
    def refused(self) -> dict[str, int]:
        """How often what was refused, by what was asked for."""
        return dict(self._refused)

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
    "datagrams, Multipath TCP and TCP fast open from C code",
    "Unix sockets from C code",
    "a name given to connect() itself: looked up, then refused",
    "file descriptors that were open before",
    "what ran while app/main.py was imported",
    "code of the pull request that disarms the tripwire",
)


def armed() -> Tripwire | None:
    """Ask the hook itself what was armed in this process; None where none answers."""
    answers: list[Tripwire] = []
    sys.audit(_ASK, answers.append)
    return answers[0] if answers else None


def arm(allowed: Allowed, seal: Seal) -> None:
    """
    Refuse, from now on and for the life of the process, every outward act that is not allowed.

    What is armed cannot be disarmed or widened: a second call only adds to it.
    It is a tripwire and no wall: C code is not seen, and code that wants to get
    past it can. The seal and the cluster's NetworkPolicy stand behind it.

    Raises:
        UnguardedError: another audit hook keeps it from being armed.
    """
    sys.addaudithook(_hook(Tripwire(allowed, seal)))
    if armed() is None:
        raise UnguardedError(found="another audit hook keeps it from being armed")


def _hook(tripwire: Tripwire) -> Callable[[str, tuple[Any, ...]], None]:
    """Make the hook; all it needs is bound here, where no later assignment reaches it."""
    allowed, watched, read = tripwire.allowed, {_ASK, *EVENTS}, outward_act
    known, resolves, refusal = allowed.acts, _resolving(allowed), OutboundRefusedError
    said, count, ask = ", ".join(allowed.said), _counting(tripwire._refused), _ASK  # noqa: SLF001

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in watched:
            return
        if event == ask:
            args[0](tripwire)
            return
        act = read(event, args)
        if act is None or act in known or resolves(act):
            return
        count(act)
        raise refusal(str(act), said, _remedy(act))

    return hook


def _resolving(allowed: Allowed) -> Callable[[Act], bool]:
    """
    Make what tells whether an act reaches an address that an allowed name has now.

    A name that is looked up passes the hook itself, so nothing here recurses.
    """
    static, resolve, clock = allowed.acts, _socket.getaddrinfo, time.monotonic
    answers: dict[int, frozenset[str]] = {}
    quiet_until = 0.0

    def resolves(act: Act) -> bool:
        nonlocal quiet_until
        if act.kind is not Kind.REACH or act.port is None:
            return False
        address = address_of(act.what)
        if address is None:
            return act._replace(what=act.what.lower().removesuffix(".")) in static
        if address in answers.get(act.port, ()) or act._replace(what=address) in static:
            return True
        if not (names := allowed.names(act.port)) or clock() < quiet_until:
            return False
        if found := frozenset(_resolved(resolve, names, act.port)):
            answers[act.port] = found
        if address in found:
            return True
        quiet_until = clock() + QUIET_SECONDS
        return False

    return resolves


def _resolved(resolve: Callable[..., list[Any]], names: Iterable[str], port: int) -> Iterable[str]:
    for name in names:
        with suppress(OSError):  # what cannot be looked up now is at no address
            for *_, address in resolve(name, port, type=_socket.SOCK_STREAM):
                yield str(address_of(address[0]))


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
