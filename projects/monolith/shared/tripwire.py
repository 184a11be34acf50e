"""The only module that refuses what a preview's code does outwards, as Python tells of it."""

import _socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
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

__all__ = ["ASK", "Act", "Allowed", "Tripwire", "arm", "armed", "outward_act"]

QUIET_SECONDS = 5.0
"""How long names are not looked up again after that has not helped."""

MOST_COUNTED = 100
REST = "the rest"
"""What is counted together once MOST_COUNTED acts have been told apart."""

_NAME_IT = "Name it in EGRESS_ALLOW (preview.egressAllow in the chart), or do it in production."
_IN_PRODUCTION = "Do it in production."
REMEDIES = {
    Kind.REACH: _NAME_IT,
    Kind.LOOK_UP: _NAME_IT,
    Kind.RUN: _IN_PRODUCTION,
    Kind.CALL: _IN_PRODUCTION,
}

HTTPS = 443
ASK = "monolith.tripwire"
"""The audit event by which to ask who is armed; its argument takes the answers."""


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
    host, port = text.split(":")
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
        ports = " and ".join(map(str, self.seal.ports))
        tcp = f"TCP to port {ports} of any host" if ports else ""
        if self.seal.landlock is None:
            tcp = "TCP"
        return [
            *([f"{tcp} {_PAST_PYTHON}"] if tcp else []),
            *_BLIND_SPOTS,
            *([] if self.seal.scoped else ["signals to other processes of the same user"]),
            "code of the pull request that disarms the tripwire",
        ]


_PAST_PYTHON = "from C code, and from programs that C code starts"
_BLIND_SPOTS = (
    f"datagrams, Multipath TCP and TCP fast open {_PAST_PYTHON}",
    f"Unix sockets {_PAST_PYTHON}",
    "a name given to connect() itself: looked up, then refused",
    "file descriptors that were open before",
    "what ran while app/main.py was imported",
)


def armed() -> Tripwire | None:
    """Ask the hook itself what was armed in this process; None where none answers."""
    answers: list[Tripwire] = []
    sys.audit(ASK, answers.append)
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
    known, count = _Known(tripwire.allowed), _counting(tripwire._refused)  # noqa: SLF001
    lets, at_once, ask, watched = known.lets, known.acts, ASK, EVENTS | {ASK}
    read, refusal, remedies = outward_act, OutboundRefusedError, REMEDIES
    said = ", ".join(tripwire.allowed.said)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in watched:
            return
        if event == ask:
            args[0](tripwire)
            return
        act = read(event, args)
        if act is None or act in at_once or lets(act):
            return
        count(act)
        raise refusal(str(act), said, remedies[act.kind])

    return hook


class _Known:
    """
    What may be reached, with the addresses that allowed names have now.

    They are looked up when an address is asked for that is not known, and
    again when the next one is, so that a clone's new address is followed. A
    look-up of an allowed name passes the hook itself; nothing here recurses.
    """

    def __init__(self, allowed: Allowed) -> None:
        self.acts = set(allowed.acts)
        self._allowed = allowed
        self._found: dict[int, set[Act]] = {}
        self._quiet_until = 0.0
        self._clock, self._resolve = time.monotonic, _socket.getaddrinfo

    def lets(self, act: Act) -> bool:
        """Tell whether a host may be reached that `acts` does not hold as it is spelt."""
        if act.port is None:
            return False
        address = address_of(act.what)
        spelt = act._replace(what=address or act.what.lower().removesuffix("."))
        return spelt in self.acts or (address is not None and self._has_now(spelt, act.port))

    def _has_now(self, act: Act, port: int) -> bool:
        names = self._allowed.names(port)
        if not names or self._clock() < self._quiet_until:
            return False
        if found := set(self._addresses(names, port)):
            self.acts |= found
            self.acts -= self._found.get(port, set()) - found - self._allowed.acts
            self._found[port] = found
        if act in found:
            return True
        self._quiet_until = self._clock() + QUIET_SECONDS
        return False

    def _addresses(self, names: list[str], port: int) -> Iterator[Act]:
        for name in names:
            with suppress(OSError):  # what cannot be looked up now is at no address
                for *_, address in self._resolve(name, port, type=_socket.SOCK_STREAM):
                    yield Act(Kind.REACH, str(address_of(str(address[0]))), port)


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
