"""The only module that gives and takes the label `preview`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from rich.table import Table

from preview import comment, deployment, proof
from preview.errors import GitHubError, NotTheWriterError
from preview.github import LABEL, OURS, GitHub, Object
from preview.pulls import is_home, open_pulls
from preview.readiness import ServiceToken, look
from preview.rules import Decision, Reason, decide
from shared.errors import MonolithError

_PASSES = 3
_RECENTLY = timedelta(hours=2)
"""For how long a closed pull request is looked at again; runs are a quarter of an hour apart."""


@dataclass(frozen=True, slots=True)
class Terms:
    """By what a run decides: the report about Access, the names of previews, and the patience."""

    report: Path | None
    wildcard: str
    idle: timedelta
    token: ServiceToken

    def host(self, number: int) -> str:
        """Name the host of a pull request's preview."""
        return self.wildcard.replace("*", str(number))


@dataclass(slots=True)
class Labeller:
    """
    Makes the labels of all open pull requests what they should be.

    Keeps nothing between runs: GitHub's labels and events say all there is to know, so a run
    that was cut off is made up for by the next.
    """

    github: GitHub
    terms: Terms
    troubles: list[GitHubError] = field(default_factory=list)

    def decide(self) -> list[Decision]:
        """Read everything, and show what follows from it."""
        github, terms = self.github, self.terms
        with github.console.step(f"read the open pull requests of {github.repository}"):
            pulls = open_pulls(github)
        known = proof.read(terms.report, terms.wildcard, github.now)
        decisions = decide(pulls, known.access, github.now, terms.idle)
        github.console.say(f"Access is {known.access}: {known.why}", access=known.access)
        github.console.table(_table(decisions), [_facts(decision) for decision in decisions])
        return decisions

    def run(self) -> None:
        """
        Write what follows, look again until nothing does, then tell everybody.

        Raises:
            NotTheWriterError: our changes would count as a person's.
            GitHubError: something of it was refused; the rest is done.
        """
        if (viewer := self.github.viewer()) != OURS:
            raise NotTheWriterError(OURS, viewer)
        for _ in range(_PASSES):
            decisions = self.decide()
            if self.troubles or not any(decision.change for decision in decisions):
                break
            self._write(decisions)
        self._tell(decisions)
        if self.troubles:
            raise self.troubles[0]

    def _write(self, decisions: list[Decision]) -> None:
        """Free places first, so that a run which is cut off never leaves too many."""
        for number in (each.pull.number for each in decisions if each.change == "remove"):
            self._try(partial(self.github.remove_label, number))
        for number in (each.pull.number for each in decisions if each.change == "add"):
            if not self.troubles:
                self._try(partial(self.github.add_label, number))
        for each in decisions:
            if each.change and each.reason is Reason.FORK:  # the next look at it sees no label
                self._say(each.pull.number, comment.about(each, self.terms.idle), create=True)

    def _tell(self, decisions: list[Decision]) -> None:
        github, terms, shown = self.github, self.terms, {}
        for decision in filter(comment.may_exist, decisions):
            pull, body = decision.pull, ""
            if decision.change:  # refused, or somebody else's work of this moment
                continue
            if decision.gets:
                host = terms.host(pull.number)
                sight = look(host, pull.number, pull.head_sha, terms.token)
                shown[pull.number] = deployment.Shown(pull.head_sha, host, sight)
                body = comment.shown(pull, sight, host, github.now, terms.idle)
            body = body or comment.about(decision, terms.idle)
            self._say(pull.number, body, create=comment.is_due(decision))
        for number in _closed(github):
            self._say(number, comment.closed(), create=False)
        self._try(partial(deployment.follow, github, shown, self._try))

    def _say(self, number: int, body: str, *, create: bool) -> None:
        self._try(partial(comment.say, self.github, number, body, create=create))

    def _try(self, act: Callable[[], object]) -> None:
        """Go on past what GitHub refuses: one pull request holds up no other."""
        try:
            act()
        except GitHubError as error:
            self.github.console.say(str(error))
            self.troubles.append(error)


def shut(github: GitHub, reason: str) -> list[int]:
    """
    Take the label `preview` off every open pull request; return their numbers.

    Goes on past one that GitHub refuses, and looks again, because a writer may have been at work.
    Each is told the reason, where GitHub lets us.

    Raises:
        GitHubError: a pull request still has the label, or GitHub did not say.
    """
    taken: set[int] = set()
    refusals: list[GitHubError] = []
    for _ in range(_PASSES):
        if not (labelled := _labelled(github)):
            break
        refusals = _shut_each(github, labelled, reason, taken)
    else:
        if left := _labelled(github):
            found, remedy = "somebody adds it again", "Stop whoever does, then run it again."
            raise next(iter(refusals), GitHubError(f"the label off {left}", found, remedy))
    for number in sorted(taken):
        try:
            comment.say(github, number, comment.shut(reason))
        except MonolithError as error:  # the door is shut, and that is what counts
            github.console.say(str(error))
    return sorted(taken)


def _shut_each(
    github: GitHub, numbers: list[int], reason: str, taken: set[int]
) -> list[GitHubError]:
    refusals = []
    for number in numbers:
        try:
            github.remove_label(number)
        except GitHubError as error:
            refusals.append(error)
        else:
            taken.add(number)
            text = f"PR {number}: took the label {LABEL!r} off, {reason}"
            github.console.say(text, number=number)
    return refusals


def _labelled(github: GitHub) -> list[int]:
    return [
        pull["number"]
        for pull in github.open_pulls()
        if LABEL in {label["name"] for label in pull["labels"]}
    ]


def _closed(github: GitHub) -> Iterator[int]:
    """Number the closed pull requests with which something happened a short while ago."""
    begin = github.now - _RECENTLY
    for pull in github.pages("pulls", state="closed", sort="updated", direction="desc"):
        if datetime.fromisoformat(pull["updated_at"]) < begin:
            return
        if is_home(pull):
            yield pull["number"]


def _table(decisions: Iterable[Decision]) -> Table:
    table = Table("PR", "label", "change", "because")
    for decision in decisions:
        behind = f", behind {', '.join(map(str, decision.behind))}" if decision.behind else ""
        table.add_row(
            str(decision.pull.number),
            LABEL if decision.pull.labelled else "",
            decision.change,
            f"{decision.reason}{behind}",
        )
    return table


def _facts(decision: Decision) -> Object:
    return {
        "number": decision.pull.number,
        "labelled": decision.pull.labelled,
        "change": decision.change or None,
        "reason": decision.reason.name.lower(),
        "because": str(decision.reason),
        "behind": list(decision.behind),
    }
