"""The only module that judges which database answers."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.dsn import Target
from shared.errors import WrongDatabaseError

SOURCE = "monolith-pg"
_CLONE = f"{SOURCE}-pr-"
_NUMBER = r"([1-9][0-9]{0,8})"
_CLONE_NAME = re.compile(_CLONE + _NUMBER)
_CLONE_HOST = re.compile(rf"{_CLONE}{_NUMBER}-rw(?:\.[a-z0-9-]+(?:\.svc(?:\.cluster\.local)?)?)?")
_TO_CLONE = "Point DATABASE_URL at this preview's own clone, then restart."
_TO_PRODUCTION = "Set PR_ENV=true for a preview, or point DATABASE_URL at production's database."


class Verdict(StrEnum):
    """Whether the database is this environment's own; only MATCH opens the pool."""

    MATCH = "MATCH"
    MISMATCH = "MISMATCH"
    UNABLE = "UNABLE"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was asked about the database, and what came of it."""

    name: str
    expected: str
    found: str
    verdict: Verdict


class Connection(Protocol):
    """What `identify` needs of a connection."""

    async def fetchval(self, query: str) -> object:
        """Return the first column of the first row."""


@dataclass(frozen=True, slots=True)
class Expected:
    """
    Whose database this process may use.

    Args:
        preview: True expects a clone, False expects anything but a clone.
        number: the pull request whose clone it must be; None leaves it to the host's name.
    """

    preview: bool
    number: int | None = None

    def judge_host(self, target: Target) -> Fact:
        """Judge where a target points, before any packet."""
        number = _number_of_host(target)
        if self.preview:
            expected = f"the host of {self._clone}"
            matches = number is not None and self.number in (None, number)
        else:
            expected = "a host that is not a clone's"
            matches = not _looks_like_clone(target.host)
        return Fact("host", expected, target.host, _verdict(matches=matches))

    def judge_server(self, cluster_name: object) -> Fact:
        """Judge the name that the server gives itself."""
        found = cluster_name if isinstance(cluster_name, str) else ""
        if not self.preview:
            verdict = _verdict(matches=not _looks_like_clone(found))
            return Fact("cluster_name", "a name that is not a clone's", found, verdict)
        if not found:
            return Fact("cluster_name", self._clone, found, Verdict.UNABLE)
        return Fact("cluster_name", self._clone, found, _verdict(matches=self._is_clone(found)))

    def narrowed(self, target: Target) -> "Expected":
        """Expect the clone that the target's host names, where no number is known yet."""
        number = self.number or _number_of_host(target)
        return Expected(self.preview, number if self.preview else None)

    def refuse(self, fact: Fact) -> None:
        """
        Let only a matching fact pass.

        Raises:
            WrongDatabaseError: the fact is not a match.
        """
        if fact.verdict is not Verdict.MATCH:
            remedy = _TO_CLONE if self.preview else _TO_PRODUCTION
            raise WrongDatabaseError(fact.name, fact.expected, fact.found, remedy)

    @property
    def _clone(self) -> str:
        return f"{_CLONE}{self.number or '<n>'}"

    def _is_clone(self, found: str) -> bool:
        match = _CLONE_NAME.fullmatch(found)
        return match is not None and self.number in (None, int(match[1]))


def clone_name(number: int) -> str:
    """Name the clone of a pull request."""
    return f"{_CLONE}{number}"


async def identify(connection: Connection) -> object:
    """
    Ask a server for its name.

    SHOW, because an unqualified current_setting() can be shadowed through search_path.
    """
    return await connection.fetchval("SHOW cluster_name")


def _number_of_host(target: Target) -> int | None:
    name = target.host.rpartition("/")[2]
    match = (_CLONE_NAME if target.is_socket else _CLONE_HOST).fullmatch(name)
    return int(match[1]) if match else None


def _looks_like_clone(name: str) -> bool:
    return any(part.lower().startswith(_CLONE) for part in re.split(r"[/.]", name))


def _verdict(*, matches: bool) -> Verdict:
    return Verdict.MATCH if matches else Verdict.MISMATCH
