"""The part of the pytest plugin that hears what a test does outwards, and refuses it."""

import sys
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

from shared.errors import OutboundRefusedError

if TYPE_CHECKING:  # see shared.testing
    from shared.outward import Act
    from shared.tripwire import Tripwire

_open: list["Sink"] = []
"""The innermost is the last one."""


class Sink:
    """
    Hears each outward act of this process while it is open, from any thread or task.

    Nothing goes out but what the test has let: all else is refused as in a
    preview, and both are recorded. The test's Postgres is no act. While it is
    open it stands in for the tripwire, so that a preview's app can be made.
    """

    def __init__(self) -> None:
        self._acts: list[Act] = []
        self._let: set[tuple[str, int | None]] = set()

    def __enter__(self) -> Self:
        ask, stand_in = _listen()
        _open.append(self)
        heard: list[Tripwire] = []
        sys.audit(ask, heard.append)
        if stand_in not in heard:
            _open.remove(self)
            msg = "Cannot open the sink: expected to hear audit events, another hook keeps it out."
            raise RuntimeError(msg)
        return self

    def __exit__(self, *_: object) -> None:
        _open.remove(self)

    def let(self, what: str, port: int | None = None) -> None:
        """Let a host be reached, at this port or any, or a program run. It is recorded still."""
        self._let.add((what, port))

    def lets(self, act: "Act") -> bool:
        """Tell whether an act goes out."""
        return not self._let.isdisjoint({(act.what, act.port), (act.what, None)})

    def record(self, act: "Act") -> None:
        """Add an act to those that the test has to take."""
        self._acts.append(act)

    def take(self) -> list["Act"]:
        """Return the acts so far, in their order, and forget them."""
        taken, self._acts = self._acts, []
        return taken


@cache
def _listen() -> tuple[str, "Tripwire"]:
    """
    Add the hook, once: Python removes none, so it does nothing while no sink is open.

    Returns the event that asks which tripwires are armed, and what the hook says to it.
    """
    from shared.outward import outward_act  # noqa: PLC0415  see TYPE_CHECKING
    from shared.seal import Seal  # noqa: PLC0415  see TYPE_CHECKING
    from shared.tripwire import ASK, Allowed, Tripwire  # noqa: PLC0415  see TYPE_CHECKING

    stand_in = Tripwire(Allowed(), Seal(reason="a test's sink stands in for the tripwire"))

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if not (sinks := _open[::-1]):
            return
        if event == ASK:
            args[0](stand_in)
        elif (act := outward_act(event, args)) and not _is_postgres(act):
            _judge(act, sinks)

    sys.addaudithook(hear)
    return ASK, stand_in


def _judge(act: "Act", sinks: list[Sink]) -> None:
    """Let an act go out where one of these sinks lets it, the innermost first."""
    for sink in sinks:
        if sink.lets(act):
            sink.record(act)
            return
    sinks[0].record(act)
    remedy = "Let it where it leads to a fake: sink.let(…)."
    raise OutboundRefusedError(str(act), "what the test has let", remedy)


def _is_postgres(act: "Act") -> bool:
    """Tell whether it is a Unix socket that is named as Postgres names its own."""
    return act.port is None and PurePath(act.what).name.startswith(".s.PGSQL.")
