"""The only module that decides whether a startup point runs; it starts nothing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.errors import MutedError


class StartupPoint(StrEnum):
    """Everything in the app that acts on the world without a request, also at shutdown."""

    SCHEDULER = "scheduler loop"
    DISCORD = "discord bot"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one startup point runs, and why."""

    point: StartupPoint
    runs: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Guard:
    """
    Mute startup points in previews.

    A guard never starts anything and never changes its mind: it answers, and
    it remembers every answer for the audit record.

    Args:
        preview: True mutes every startup point.
        lacking: for a startup point that cannot run, the setting that it lacks.
    """

    preview: bool
    lacking: Mapping[StartupPoint, str] = field(default_factory=dict)
    _decisions: dict[StartupPoint, Decision] = field(default_factory=dict, repr=False)
    _refusals: Counter[StartupPoint] = field(default_factory=Counter, repr=False)

    def decide(self, point: StartupPoint) -> Decision:
        """Answer whether `point` runs, and write the answer down."""
        return self._decisions.setdefault(point, self._judge(point))

    def require(self, point: StartupPoint) -> None:
        """
        Let an on-demand act pass only where its startup point runs.

        Raises:
            MutedError: the point is muted; the refusal is counted.
        """
        decision = self._judge(point)
        if not decision.runs:
            self._refusals[point] += 1
            raise MutedError(point, decision.reason)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every decision so far, in the order in which it was asked for."""
        return tuple(self._decisions.values())

    @property
    def refusals(self) -> Mapping[str, int]:
        """How often `require` refused, by startup point."""
        return {point: self._refusals[point] for point in StartupPoint}

    def _judge(self, point: StartupPoint) -> Decision:
        if self.preview:
            return Decision(point, runs=False, reason="PR_ENV")
        if point in self.lacking:
            return Decision(point, runs=False, reason=f"no {self.lacking[point]}")
        return Decision(point, runs=True, reason="production")
