"""The only module that asks the kernel to seal a process: Landlock, outbound TCP by port."""

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SealError

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION = 1
_CONNECT_TCP = 2
_RULE_PORT = 2
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2
_NO_NEW_PRIVILEGES = 38
_FIRST_WITH_PORTS, _FIRST_WITH_SCOPES = 4, 6
_THREADS = Path("/proc/self/task")


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _Port(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class Seal:
    """
    Whether the kernel holds this process and its children to some TCP ports, for ever.

    Args:
        landlock: the version of Landlock's interface; None where nothing is sealed.
        ports: the only ones that may be connected to.
        reason: why nothing is sealed.
    """

    landlock: int | None = None
    ports: tuple[int, ...] = ()
    reason: str = ""

    @property
    def scoped(self) -> bool:
        """Whether signals and abstract Unix sockets are held, too."""
        return self.landlock is not None and self.landlock >= _FIRST_WITH_SCOPES

    def __str__(self) -> str:
        """Return it as the audit line says it."""
        if self.landlock is None:
            return f"unsealed ({self.reason})"
        ports = " and ".join(map(str, self.ports))
        return f"sealed (Landlock {self.landlock}, {f'TCP {ports} only' if ports else 'no TCP'})"


def seal(ports: tuple[int, ...], *, required: bool) -> Seal:
    """
    Let this process and its children connect to these TCP ports only, irrevocably.

    Only the calling thread and what it starts later can be sealed, so that
    where there is a second thread already nothing is.

    Raises:
        SealError: it is required, and cannot be had.
    """
    try:
        return Seal(_sealed(ports), ports)
    except OSError as error:
        reason = str(error)
    if required:
        raise SealError(reason)
    return Seal(reason=reason)


def _sealed(ports: tuple[int, ...]) -> int:
    if sys.platform != "linux":
        msg = f"{sys.platform} has no Landlock"
        raise OSError(msg)
    threads = len(list(_THREADS.iterdir()))
    if threads > 1:
        msg = f"it has {threads} threads already"
        raise OSError(msg)
    version = _call(_CREATE, None, 0, _VERSION)
    if version < _FIRST_WITH_PORTS:
        msg = f"its Landlock {version} knows no ports"
        raise OSError(msg)
    scopes = _ABSTRACT_SOCKETS | _SIGNALS if version >= _FIRST_WITH_SCOPES else 0
    rules = _Ruleset(0, _CONNECT_TCP, scopes)
    size = ctypes.sizeof(rules) if scopes else _Ruleset.scopes.offset
    ruleset = _call(_CREATE, ctypes.byref(rules), size, 0)
    try:
        for port in ports:
            _call(_ADD_RULE, ruleset, _RULE_PORT, ctypes.byref(_Port(_CONNECT_TCP, port)), 0)
        _check(ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _call(number: int, *arguments: object) -> int:
    """Call the kernel past the C library, which has no names for this."""
    wide = [ctypes.c_long(found) if isinstance(found, int) else found for found in arguments]
    return _check(int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *wide)))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(os.strerror(ctypes.get_errno()))
    return result
