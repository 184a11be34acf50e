"""The only module that asks GitHub."""

import time
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated

import httpx2
from pydantic import BaseModel, SecretStr, StringConstraints, TypeAdapter, ValidationError

PAGE = 100
MOST_PAGES = 3
TIMEOUT_SECONDS = 20.0
SHORTEST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 6 * 3600.0

_EMPTY_REPOSITORY = 409
_RATE_LIMITED = (403, 429)


class _Author(BaseModel):
    name: str = ""


class _Written(BaseModel):
    message: str = ""
    author: _Author | None = None


class Commit(BaseModel):
    """A commit, as GitHub tells of it."""

    sha: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{40,64}\z")]
    commit: _Written

    @property
    def subject(self) -> str:
        """The first line of its message."""
        return self.commit.message.strip().partition("\n")[0]

    @property
    def author(self) -> str:
        """Who wrote it."""
        return self.commit.author.name if self.commit.author else ""


_COMMITS = TypeAdapter(list[Commit])


@dataclass(frozen=True, slots=True)
class News:
    """
    What is new in a repository since it was last looked at.

    Args:
        head: the latest commit, or nothing where there is none.
        commits: those since the last one seen, the latest first, bounded.
        whole: whether the last one seen came after them.
    """

    head: str
    commits: tuple[Commit, ...]
    whole: bool
    etag: str | None


class NotNowError(Exception):
    """
    GitHub gave no answer that counts.

    Args:
        wait: how many seconds it wants to be left alone, where it says so.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class GitHub:
    """GitHub's REST API, read with or without a token."""

    client: httpx2.AsyncClient
    url: str
    token: SecretStr | None

    async def news(self, repository: str, last_seen: str | None, etag: str | None) -> News | None:
        """
        Return what is new since `last_seen`; None where nothing has changed since `etag`.

        Raises:
            NotNowError: to be asked again later.
        """
        answer = await self._commits(repository, {}, {"If-None-Match": etag} if etag else {})
        if answer.status_code == httpx2.codes.NOT_MODIFIED:
            return None
        page = _read(answer)
        head, found = page[0].sha if page else "", list[Commit]()
        for number in range(2, MOST_PAGES + 2):
            fresh = list(takewhile(lambda commit: commit.sha != last_seen, page))
            found += fresh
            seen = len(fresh) < len(page)
            if seen or last_seen is None or len(page) < PAGE or number > MOST_PAGES:
                break
            page = _read(await self._commits(repository, {"sha": head, "page": str(number)}, {}))
        whole = seen or (last_seen == "" and len(page) < PAGE)
        return News(head, tuple(found), whole, answer.headers.get("ETag"))

    async def _commits(
        self, repository: str, which: dict[str, str], headers: dict[str, str]
    ) -> httpx2.Response:
        if self.token:
            headers = headers | {"Authorization": f"Bearer {self.token.get_secret_value()}"}
        headers = headers | {"Accept": "application/vnd.github+json", "User-Agent": "monolith"}
        try:
            answer = await self.client.get(
                f"{self.url.rstrip('/')}/repos/{repository}/commits",
                params={"per_page": str(PAGE)} | which,
                headers=headers,
                follow_redirects=True,
                timeout=TIMEOUT_SECONDS,
            )
        except httpx2.HTTPError as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise NotNowError(reason) from error
        fine = answer.is_success or answer.status_code in (
            httpx2.codes.NOT_MODIFIED,
            _EMPTY_REPOSITORY,
        )
        if not fine:
            raise NotNowError(reason=f"it answers {answer.status_code}", wait=_wait(answer))
        return answer


def _read(answer: httpx2.Response) -> list[Commit]:
    if answer.status_code == _EMPTY_REPOSITORY:
        return []
    try:
        return _COMMITS.validate_json(answer.content)
    except ValidationError:
        reason = "its answer is no list of commits"
    raise NotNowError(reason)


def _wait(answer: httpx2.Response) -> float:
    """Say how long GitHub wants to be left alone, by whichever header says so."""
    asked = answer.headers.get("Retry-After", "")
    if asked.isdecimal():
        return min(float(asked), LONGEST_WAIT_SECONDS)
    reset = answer.headers.get("X-RateLimit-Reset", "")
    if answer.headers.get("X-RateLimit-Remaining") == "0" and reset.isdecimal():
        return min(max(float(reset) - time.time(), 1.0), LONGEST_WAIT_SECONDS)
    return SHORTEST_WAIT_SECONDS if answer.status_code in _RATE_LIMITED else 0.0


@dataclass(frozen=True, slots=True)
class Feed:
    """What the changelog polls, and the Discord channel that it tells."""

    github: GitHub
    repositories: tuple[str, ...]
    channel: int
