"""Who gets a preview. No I/O here: pull requests, proof and clock in, decisions out."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from preview.github import LABEL

BASE = "main"
"""The branch that the generator of previews follows."""
KEEP = "preview-keep"
"""Exempts a preview from ending when it is idle."""
MOST = 3


class Access(StrEnum):
    """What is known about Cloudflare Access in front of every preview."""

    PROVEN = "proven"
    EXPOSED = "exposed"
    UNPROVEN = "unproven"


class Reason(StrEnum):
    """Why a pull request has a place, waits for one, or gets none."""

    HOLDS = "holds a place"
    TAKES = "takes a place"
    QUEUED = "all places are taken"
    NO_IMAGE = "waits for the image of its head"
    UNPROVEN = "waits until Access is proven"
    EXPOSED = "Access is not in front of previews"
    FORK = "its branch is in another repository"
    BASE = f"it is not for {BASE}"
    OPTED_OUT = "a person took the label off"
    DRAFT = "it is a draft, and no person added the label"
    BOT = "a bot opened it, and no person added the label"
    ELSEWHERE = "it changes nothing of the monolith, and no person added the label"
    IDLE = "nothing was pushed for long"


@dataclass(frozen=True, slots=True)
class Word:
    """One time that somebody put the label `preview` on or took it off; `ours` is this workflow."""

    on: bool
    ours: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Pull:
    """
    An open pull request, as far as the rules ask.

    `asked_at` is when it was opened, reopened or stopped being a draft, whichever came last.
    `built_at` is when the job that makes the head's image was last seen at work, by GitHub's
    clock; a commit's own dates are its author's to choose.
    """

    number: int
    head_sha: str
    home: bool
    base: str
    draft: bool
    person: bool
    labels: frozenset[str]
    asked_at: datetime
    words: tuple[Word, ...] = ()
    touches: bool = True
    image: bool = False
    built_at: datetime | None = None

    @property
    def labelled(self) -> bool:
        """Whether it has the label."""
        return LABEL in self.labels

    @property
    def wish(self) -> bool | None:
        """What a person last said about the label: wanted, not wanted, or nothing."""
        return next((word.on for word in reversed(self.words) if not word.ours), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one pull request; `behind` are the numbers that it waits for."""

    pull: Pull
    reason: Reason
    behind: tuple[int, ...] = ()

    @property
    def gets(self) -> bool:
        """Whether it is to have the label."""
        return self.reason in {Reason.HOLDS, Reason.TAKES}

    @property
    def change(self) -> str:
        """What is to be done: add, remove, or nothing."""
        if self.gets == self.pull.labelled:
            return ""
        return "add" if self.gets else "remove"


def decide(pulls: Iterable[Pull], access: Access, now: datetime, idle: timedelta) -> list[Decision]:
    """
    Decide about every open pull request, in the order of their numbers.

    Whoever holds a place keeps it, the oldest label first. Places that are free go to those who
    have waited longest and whose image exists, and only while Access is proven.
    """
    decisions: list[Decision] = []
    holders: list[Pull] = []
    waiting: list[Pull] = []
    for pull in pulls:
        reason = bar(pull) or (Reason.IDLE if _is_idle(pull, now, idle) else None)
        if reason or access is Access.EXPOSED:
            decisions.append(Decision(pull, reason or Reason.EXPOSED))
        else:
            (holders if pull.labelled else waiting).append(pull)
    holders.sort(key=lambda pull: (_given_at(pull, now), pull.number))
    waiting.sort(key=lambda pull: (_waits_since(pull), pull.number))
    decisions += _placed(holders, waiting, access)
    return sorted(decisions, key=lambda decision: decision.pull.number)


def bar(pull: Pull) -> Reason | None:
    """Say what keeps a pull request from any place; a person's wish lifts some of it."""
    unasked = pull.wish is None
    bars = {
        Reason.FORK: not pull.home,
        Reason.BASE: pull.base != BASE,
        Reason.OPTED_OUT: pull.wish is False,
        Reason.DRAFT: unasked and pull.draft,
        Reason.BOT: unasked and not pull.person,
        Reason.ELSEWHERE: unasked and not pull.touches,
    }
    return next((reason for reason, barred in bars.items() if barred), None)


def _placed(holders: list[Pull], waiting: list[Pull], access: Access) -> list[Decision]:
    decisions = [Decision(pull, Reason.HOLDS) for pull in holders[:MOST]]
    free = MOST - len(decisions)
    ahead = [pull.number for pull in holders[:MOST]]
    for pull in [*waiting, *holders[MOST:]]:
        if not pull.image:
            decisions.append(Decision(pull, Reason.NO_IMAGE))
        elif free and access is not Access.PROVEN:
            decisions.append(Decision(pull, Reason.UNPROVEN))
        elif free:
            free -= 1
            ahead.append(pull.number)
            decisions.append(Decision(pull, Reason.TAKES))
        else:
            decisions.append(Decision(pull, Reason.QUEUED, tuple(ahead)))
            ahead.append(pull.number)
    return decisions


def _given_at(pull: Pull, now: datetime) -> datetime:
    """
    Say since when it holds a place: one that was closed meanwhile held none until it was reopened.

    One whose event GitHub does not show yet is the newest.
    """
    return max(pull.asked_at, pull.words[-1].at) if pull.words and pull.words[-1].on else now


def _waits_since(pull: Pull) -> datetime:
    """Say since when it waits: pushes do not count, so nobody falls back by working."""
    return max(pull.asked_at, pull.words[-1].at) if pull.words else pull.asked_at


def _is_idle(pull: Pull, now: datetime, idle: timedelta) -> bool:
    """
    Tell whether its last place was had for long without a push.

    The same sum says it before and after the label is gone, from what GitHub knows: a removal
    is for idleness if it was due then, and a later push is later than the removal. Time in the
    queue does not count, because no place was had.
    """
    if KEEP in pull.labels or not pull.words:
        return False
    end = now if pull.labelled else pull.words[-1].at
    given = [word.at for word in pull.words if word.on]
    if not given:
        return False
    return end - max(given[-1], pull.asked_at, pull.built_at or given[-1]) >= idle
