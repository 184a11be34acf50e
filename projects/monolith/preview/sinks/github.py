"""A GitHub on loopback: the part of its REST API that a changelog reads."""

import hashlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from preview.sinks.peer import Asked
from preview.sinks.serving import listening

TOKEN = "github-token"  # noqa: S105  the only token that this GitHub knows
BRANCH = "main"
HOURLY = 5000
_LONGEST_PAGE = 100


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a repository's only branch."""

    sha: str
    message: str
    author: str
    at: datetime
    parent: str | None


class FakeGitHub:
    """
    Serves the commits of its repositories, newest first, as GitHub documents it.

    Pages, ETags, `sha` and `since` are GitHub's, and so are both rate limits. A
    304 costs nothing of the hourly limit.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, list[Commit]] = {}
        self.asked: list[Asked] = []
        self.url = ""
        self.remaining = HOURLY
        self.resets_at = time.time() + 3600
        self._trouble: deque[web.Response] = deque()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeGitHub"]:
        """Listen on a free port of loopback."""
        async with listening(self.app()) as where:
            self.found_at(where)
            yield self

    def app(self) -> web.Application:
        """Return what serves it, here or below a path."""
        app = web.Application()
        app.router.add_get("/repos/{owner}/{name}/commits", self._answer)
        return app

    def found_at(self, where: str) -> None:
        """Learn under which address and path it is served."""
        self.url = f"http://{where}"

    def create(self, repository: str) -> None:
        """Make a repository that has no commit yet."""
        self.repositories[repository] = []

    def commit(
        self, repository: str, message: str, author: str = "ada", at: datetime | None = None
    ) -> Commit:
        """Add a commit to a repository, which is made by its first one."""
        commits = self.repositories.setdefault(repository, [])
        at = (at or datetime.now(UTC)).replace(microsecond=0)
        parent = commits[-1].sha if commits else None
        said = json.dumps([repository, message, author, at.isoformat(), parent])
        sha = hashlib.sha1(said.encode(), usedforsecurity=False).hexdigest()
        commits.append(Commit(sha, message, author, at, parent))
        return commits[-1]

    def exhaust(self, seconds: float) -> None:
        """Use up the hourly limit, which begins anew after this time."""
        self.remaining, self.resets_at = 0, time.time() + seconds

    def slow_down(self, seconds: int, times: int = 1) -> None:
        """Answer the next requests with the secondary rate limit."""
        said = "You have exceeded a secondary rate limit. Please wait a few minutes."
        after = {"Retry-After": str(seconds)}
        self._trouble.extend(_json({"message": said}, 403, after) for _ in range(times))

    def fail(self, status: int, times: int = 1) -> None:
        """Answer the next requests with an error."""
        said = {"message": "Server Error", "status": str(status)}
        self._trouble.extend(_json(said, status) for _ in range(times))

    async def _answer(self, request: web.Request) -> web.Response:
        asked = Asked.by(request)
        self.asked.append(asked)
        response = self._judged(request) or self._listed(request)
        asked.status = response.status
        if response.status == web.HTTPOk.status_code:
            self.remaining -= 1
        response.headers.update(
            {
                "X-RateLimit-Limit": str(HOURLY),
                "X-RateLimit-Remaining": str(self.remaining),
                "X-RateLimit-Reset": str(int(self.resets_at)),
                "X-RateLimit-Used": str(HOURLY - self.remaining),
                "X-RateLimit-Resource": "core",
            }
        )
        return response

    def _judged(self, request: web.Request) -> web.Response | None:
        """Refuse what GitHub would not look at."""
        if self._trouble:
            return self._trouble.popleft()
        token = request.headers.get("Authorization")
        if token is not None and token not in (f"Bearer {TOKEN}", f"token {TOKEN}"):
            return _json({"message": "Bad credentials", "status": "401"}, 401)
        if time.time() >= self.resets_at:
            self.remaining, self.resets_at = HOURLY, time.time() + 3600
        if self.remaining <= 0:
            return _json({"message": "API rate limit exceeded for ada."}, 403)
        return None

    def _listed(self, request: web.Request) -> web.Response:
        name = "{owner}/{name}".format(**request.match_info)
        commits = self._reachable(name, request.query.get("sha", BRANCH))
        if commits is None:
            return _json({"message": "Not Found", "status": "404"}, 404)
        if not commits:
            return _json({"message": "Git Repository is empty.", "status": "409"}, 409)
        try:
            since = datetime.fromisoformat(request.query.get("since", "1970-01-01T00:00:00Z"))
            size = min(int(request.query.get("per_page", "30")), _LONGEST_PAGE)
            page = int(request.query.get("page", "1"))
        except ValueError:
            return _json({"message": "Invalid request.", "status": "422"}, 422)
        found = [commit for commit in reversed(commits) if commit.at >= since]
        shown = found[(page - 1) * size : page * size]
        body = json.dumps([self._said(name, commit) for commit in shown]).encode()
        tag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        response = web.Response(body=body, content_type="application/json", charset="utf-8")
        if more := _links(request, page, -(-len(found) // size)):
            response.headers["Link"] = more
        if request.headers.get("If-None-Match") == tag:
            response = web.Response(status=304)
        response.headers["ETag"] = tag
        return response

    def _reachable(self, repository: str, start: str) -> list[Commit] | None:
        """Return the commits up to the one that a branch or a SHA names."""
        commits = self.repositories.get(repository)
        if commits is None or start == BRANCH:
            return commits
        known = {commit.sha: place for place, commit in enumerate(commits)}
        return commits[: known[start] + 1] if start in known else None

    def _said(self, repository: str, commit: Commit) -> dict[str, Any]:
        person = {"name": commit.author, "email": f"{commit.author}@example.com"}
        person["date"] = commit.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        page = f"https://github.com/{repository}/commit"
        url = f"{self.url}/repos/{repository}/commits"
        parents = [commit.parent] if commit.parent else []
        return {
            "sha": commit.sha,
            "url": f"{url}/{commit.sha}",
            "html_url": f"{page}/{commit.sha}",
            "commit": {"author": person, "committer": person, "message": commit.message},
            "author": {"login": commit.author},
            "committer": {"login": commit.author},
            "parents": [
                {"sha": sha, "url": f"{url}/{sha}", "html_url": f"{page}/{sha}"} for sha in parents
            ],
        }


def _links(request: web.Request, page: int, last: int) -> str:
    """Return GitHub's Link header: which pages there are besides this one."""
    pages: dict[str, int] = {}
    if page > 1:
        pages |= {"first": 1, "prev": page - 1}
    if page < last:
        pages |= {"next": page + 1, "last": last}
    return ", ".join(
        f'<{request.url.update_query(page=number)}>; rel="{name}"' for name, number in pages.items()
    )


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers)
