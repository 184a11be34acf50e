"""The only module that talks to GitHub: one repository's REST API."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Self

import httpx2
from pydantic import SecretStr

from preview.console import Console
from preview.errors import GitHubError, RateLimitError

API = "https://api.github.com"
LABEL = "preview"
OURS = "github-actions[bot]"
"""Who acts in a workflow; label events of anybody else are a person's word."""

_VERSION = "2022-11-28"
_PAGE = 100
_TIMEOUT = 30.0
_TRIES = 3
_PAUSE = 60.0
"""How long GitHub asks to wait where it limits and does not say for how long."""
_LONGEST_WAIT = 300.0
_DAY = 86_400.0
_AGAIN = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_SAFE_TO_REPEAT = {"GET", "DELETE"}
_MOVED = "Correct GITHUB_REPOSITORY; the repository has another name now."
_WHERE = "Correct GITHUB_API_URL."
_REMEDIES = {
    301: _MOVED,
    308: _MOVED,
    401: "Give GITHUB_TOKEN a token that is valid and has not expired.",
    404: "Correct GITHUB_REPOSITORY, or let the token see it: "
    "GitHub says 404 for what a token may not see, too.",
}

Object = dict[str, Any]


class GitHub:
    """
    Reads and writes one repository, `owner/name`.

    Waits when GitHub limits the rate, shows that it does, and gives up after five minutes in all.
    """

    def __init__(
        self, repository: str, token: SecretStr, console: Console, *, url: str = API
    ) -> None:
        self.repository = repository
        self.console = console
        self._url = url.rstrip("/")
        self._patience = _LONGEST_WAIT
        self._now = datetime.now(UTC)
        self._http = httpx2.Client(
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {token.get_secret_value()}",
                "User-Agent": "monolith-preview",
                "X-GitHub-Api-Version": _VERSION,
            },
            timeout=_TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def now(self) -> datetime:
        """GitHub's own clock at its last answer, the one that its events are dated with."""
        return self._now

    def viewer(self) -> str:
        """
        Say who the token acts as; also where REST would not tell, as for a workflow's token.

        Raises:
            GitHubError: GitHub does not say.
        """
        url = f"{self._url.removesuffix('/v3')}/graphql"
        answer = _parsed(self._ask("POST", url, {"query": "{viewer{login}}"}))
        try:
            return str(answer["data"]["viewer"]["login"])
        except (KeyError, TypeError):
            found = "it does not say whose GITHUB_TOKEN is"
            raise GitHubError(_request("POST", url), found, _REMEDIES[401]) from None

    def pages(self, path: str, key: str | None = None, **query: Any) -> Iterator[Object]:
        """Read a whole list below the repository; `key` names it where it is inside an object."""
        for page in self._pages(path, key, **query):
            yield from page

    def post(self, path: str, body: Object) -> Any:
        """Make one thing below the repository."""
        return _parsed(self._ask("POST", self._below(path), body))

    def patch(self, path: str, body: Object) -> Any:
        """Change one thing below the repository."""
        return _parsed(self._ask("PATCH", self._below(path), body))

    def delete(self, path: str) -> bool:
        """Delete one thing below the repository; False where it is not there (any more)."""
        try:
            self._ask("DELETE", self._below(path))
        except GitHubError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    def open_pulls(self) -> list[Object]:
        """
        List every open pull request, the lowest number first.

        One that closes or opens while page follows page moves the others, and one of them out of
        what is read or into it twice; so several pages are read until they stay the same.
        """
        last = None
        while True:
            pages = list(self._pages("pulls", state="open", sort="created", direction="asc"))
            pulls = {int(pull["number"]): pull for page in pages for pull in page}
            if len(pages) == 1 or pulls.keys() == last:
                return [pulls[number] for number in sorted(pulls)]
            last = pulls.keys()

    def add_label(self, number: int) -> None:
        """
        Put the label `preview` on a pull request; it may be there already.

        Raises:
            GitHubError: it is refused, or the repository's label is spelt otherwise.
        """
        path = f"issues/{number}/labels"
        names = {label["name"] for label in self.post(path, {"labels": [LABEL]})}
        if LABEL not in names:
            other = next((name for name in names if name.lower() == LABEL), "")
            found, remedy = f"its label is {other!r}", f"Rename it to {LABEL!r} on GitHub."
            raise GitHubError(_request("POST", self._below(path)), found, remedy)

    def remove_label(self, number: int) -> bool:
        """
        Take the label `preview` off a pull request; False where it is off already.

        GitHub says 404 to a token that may not write, too; so that is looked into.
        """
        path = f"issues/{number}/labels"
        gone = self.delete(f"{path}/{LABEL}")
        if not gone and LABEL in {label["name"] for label in self.pages(path)}:
            found = "it says 404, and the label is still there"
            request = _request("DELETE", self._below(f"{path}/{LABEL}"))
            raise GitHubError(request, found, "Give the token what docs/operations.md lists.", 404)
        return gone

    def _below(self, path: str, **query: Any) -> str:
        url = f"{self._url}/repos/{self.repository}/{path}"
        return str(httpx2.URL(url, params=query)) if query else url

    def _pages(self, path: str, key: str | None = None, **query: Any) -> Iterator[list[Object]]:
        url: str | None = self._below(path, **query, per_page=_PAGE)
        read: set[str] = set()
        while url:
            read.add(url)
            answer = self._ask("GET", url)
            yield _listed(answer, key)
            url = answer.links.get("next", {}).get("url")
            if url and (url in read or not self._is_ours(url)):
                found = "it says that the next page is elsewhere, or one that was read"
                raise GitHubError(_request("GET", str(answer.url)), found, _WHERE)

    def _is_ours(self, url: str) -> bool:
        """Tell whether the token may go there: to the API's own scheme, host and port alone."""
        try:
            asked, ours = httpx2.URL(url), httpx2.URL(self._url)
        except httpx2.InvalidURL:
            return False
        return (asked.scheme, asked.netloc, asked.userinfo) == (ours.scheme, ours.netloc, b"")

    def _ask(self, verb: str, url: str, body: Object | None = None) -> httpx2.Response:
        """Ask until GitHub answers for good; what may be repeated is, after silence."""
        request = _request(verb, url)
        tries = _TRIES if verb in _SAFE_TO_REPEAT else 1
        while True:
            tries -= 1
            try:
                answer = self._answer(verb, url, body)
            except httpx2.HTTPError as error:
                if tries:
                    continue
                found = f"it gives no answer ({type(error).__name__})"
                remedy = "Try again where this machine can reach it."
                raise GitHubError(request, found, remedy) from error
            if answer.is_success:
                return answer
            if answer.status_code in _AGAIN and tries:
                continue
            self._sit_out(request, answer)
            tries += 1

    def _answer(self, verb: str, url: str, body: Object | None) -> httpx2.Response:
        answer = self._http.request(verb, url, json=body)
        self._now = _date(answer) or datetime.now(UTC)
        return answer

    def _sit_out(self, request: str, answer: httpx2.Response) -> None:
        """Wait as long as GitHub asks us to; an answer that is no matter of rate is a refusal."""
        wait = _wait(answer)
        if wait is None:
            raise _refusal(request, answer)
        until = datetime.fromtimestamp(time.time() + wait, UTC)
        if wait > self._patience:
            raise RateLimitError(request, self._patience, f"{until:%H:%M:%S} UTC")
        self._patience -= wait
        with self.console.step(f"wait for GitHub, which limits us until {until:%H:%M:%S} UTC"):
            time.sleep(wait)


def _request(verb: str, url: str) -> str:
    return f"{verb} {url.partition('?')[0]}"


def _wait(answer: httpx2.Response) -> float | None:
    """Return how many seconds to wait before asking again; None is no matter of rate."""
    if answer.status_code not in {HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}:
        return None
    headers = answer.headers
    now = _date(answer) or datetime.now(UTC)
    if after := headers.get("retry-after"):
        return _seconds(after)
    if headers.get("x-ratelimit-remaining") == "0" and "x-ratelimit-reset" in headers:
        return _seconds(headers["x-ratelimit-reset"], since=now.timestamp())
    limited = answer.status_code == HTTPStatus.TOO_MANY_REQUESTS
    return _PAUSE if limited or "rate limit" in _message(answer).lower() else None


def _seconds(text: str, since: float = 0.0) -> float:
    """Read for how long, a day at most; what is no number leaves it open."""
    if not text.isdecimal():
        return _PAUSE
    return min(max(0.0, float(text) - since) + (1 if since else 0), _DAY)


def _refusal(request: str, answer: httpx2.Response) -> GitHubError:
    status = answer.status_code
    said = f"it says {status} {_message(answer)}".rstrip()
    remedy = _REMEDIES.get(status, "Try again.")
    if status == HTTPStatus.FORBIDDEN:
        needed = answer.headers.get("x-accepted-github-permissions")
        grant = f"the permission: {needed}" if needed else "what docs/operations.md lists"
        remedy = f"Give the token {grant}."
    return GitHubError(request, said, remedy, status)


def _parsed(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        request = _request(answer.request.method, str(answer.url))
        raise GitHubError(request, "it says something that is not JSON", _WHERE) from None


def _listed(answer: httpx2.Response, key: str | None) -> list[Object]:
    said = _parsed(answer)
    found = said.get(key) if key and isinstance(said, dict) else said
    if not isinstance(found, list):
        raise GitHubError(_request("GET", str(answer.url)), "it says no list", _WHERE)
    return found


def _message(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _date(answer: httpx2.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return None
