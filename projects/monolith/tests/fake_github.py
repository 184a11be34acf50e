"""A GitHub on loopback that keeps the rules of its REST API; what it does not know is a 404."""

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web
from anyio.from_thread import start_blocking_portal

from preview.sinks.serving import listening

REPOSITORY = "ada/monolith"
BOT = "github-actions[bot]"
TOKEN = "ghs_workflow"
RIGHTS = {
    "checks": "read", "contents": "read", "deployments": "write", "metadata": "read",
    "pull_requests": "write",
}  # fmt: skip
STATES = {"error", "failure", "inactive", "in_progress", "queued", "pending", "success"}

Object = dict[str, Any]


class FakeGitHub:
    """
    One repository with its pull requests, and who may do what with it.

    `limits` are answers to give instead, first come first served; `before` runs before each
    request, in this server's thread; `breaks_after` is the number of writes after which
    every further one fails.
    """

    def __init__(self) -> None:
        self.url = ""
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.tokens: dict[str, tuple[str, dict[str, str]]] = {TOKEN: (BOT, dict(RIGHTS))}
        self.labels = {"preview", "preview-keep"}
        self.pulls: dict[int, Object] = {}
        self.files: dict[int, list[Object]] = defaultdict(list)
        self.events: dict[int, list[Object]] = defaultdict(list)
        self.comments: dict[int, list[Object]] = defaultdict(list)
        self.checks: dict[str, list[Object]] = defaultdict(list)
        self.deployments: dict[int, Object] = {}
        self.statuses: dict[int, list[Object]] = defaultdict(list)
        self.requests: list[str] = []
        self.writes: list[str] = []
        self.limits: list[Callable[[], web.Response]] = []
        self.before: Callable[[web.Request], None] = lambda _: None
        self.breaks_after: int | None = None
        self.largest_page = 100
        self._ids = iter(range(1_000, 10_000_000))

    def open(
        self,
        number: int,
        *,
        author: str = "ada",
        repository: str | None = REPOSITORY,
        base: str = "main",
        draft: bool = False,
        files: tuple[str, ...] = ("projects/monolith/app/main.py",),
    ) -> str:
        """Open a pull request; return its head SHA."""
        self.pulls[number] = {
            "number": number,
            "state": "open",
            "draft": draft,
            "title": f"Change {number}",
            "labels": [],
            "user": {"login": author, "type": "Bot" if author.endswith("[bot]") else "User"},
            "base": {"ref": base, "repo": {"full_name": REPOSITORY}},
            "head": {"ref": f"branch-{number}", "sha": "", "repo": None},
            "created_at": self._stamp(),
            "updated_at": self._stamp(),
            "closed_at": None,
            "merged_at": None,
        }
        if repository is not None:
            self.pulls[number]["head"]["repo"] = {"full_name": repository}
        self.files[number] = [{"filename": name, "status": "modified"} for name in files]
        return self.push(number)

    def push(self, number: int) -> str:
        """Give a pull request a new head; return its SHA."""
        self.pulls[number]["head"]["sha"] = f"{next(self._ids):040x}"
        return str(self.pulls[number]["head"]["sha"])

    def build(self, number: int, conclusion: str | None = "success", name: str = "image") -> None:
        """Let a workflow's job say what became of the head; None is still at it."""
        self.checks[self.pulls[number]["head"]["sha"]].append(
            {
                "id": next(self._ids),
                "name": name,
                "app": {"slug": "github-actions"},
                "status": "completed" if conclusion else "in_progress",
                "conclusion": conclusion,
                "started_at": self._stamp(),
                "completed_at": self._stamp() if conclusion else None,
            }
        )

    def close(self, number: int) -> None:
        """Close a pull request."""
        self.pulls[number] |= {"state": "closed", "closed_at": self._stamp()}
        self._event(number, "closed", "ada")

    def reopen(self, number: int) -> None:
        """Open a closed pull request again."""
        self.pulls[number] |= {"state": "open", "closed_at": None}
        self._event(number, "reopened", "ada")

    def draft(self, number: int, *, draft: bool) -> None:
        """Turn a pull request into a draft, or back."""
        self.pulls[number]["draft"] = draft
        self._event(number, "convert_to_draft" if draft else "ready_for_review", "ada")

    def label(self, number: int, name: str = "preview", actor: str = "ada") -> None:
        """Put a label on, as somebody."""
        if name not in self.labelled(number):
            self.pulls[number]["labels"].append({"name": name})
            self._event(number, "labeled", actor, label={"name": name})

    def unlabel(self, number: int, name: str = "preview", actor: str = "ada") -> None:
        """Take a label off, as somebody."""
        if name in self.labelled(number):
            self.pulls[number]["labels"].remove({"name": name})
            self._event(number, "unlabeled", actor, label={"name": name})

    def labelled(self, number: int) -> set[str]:
        """Name the labels of a pull request."""
        return {label["name"] for label in self.pulls[number]["labels"]}

    def previews(self) -> set[int]:
        """Number the open pull requests with the label `preview`."""
        return {
            number
            for number, pull in self.pulls.items()
            if pull["state"] == "open" and "preview" in self.labelled(number)
        }

    def pass_time(self, **span: float) -> None:
        """Let time pass; no test waits for it."""
        self.now += timedelta(**span)

    def limit(self, status: int, message: str = "", **headers: str) -> None:
        """Answer the next request with this instead."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.limits.append(lambda: _no(status, message, **named))

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeGitHub"]:
        """Listen on a free port of loopback."""
        app = web.Application(middlewares=[self._door])
        app.router.add_post("/graphql", self._graphql)
        app.router.add_route("*", "/repos/{owner}/{name}/{path:.*}", self._rest)
        async with listening(app) as where:
            self.url = f"http://{where}"
            yield self

    @contextmanager
    def running(self) -> Iterator["FakeGitHub"]:
        """Listen in a thread, for a test whose own thread runs the command."""
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(self.serve()):
            yield self

    @web.middleware
    async def _door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        self.before(request)
        response: web.StreamResponse = self._refused(request) or await handler(request)
        response.headers["Date"] = format_datetime(self.now, usegmt=True)
        response.headers.setdefault("X-RateLimit-Remaining", "999")
        return response

    def _refused(self, request: web.Request) -> web.Response | None:
        if self.limits:
            return self.limits.pop(0)()
        if not request.headers.get("User-Agent"):
            return _no(403, "Request forbidden by administrative rules.")
        if request.headers.get("X-GitHub-Api-Version", "2022-11-28") != "2022-11-28":
            return _no(400, "API version is not supported")
        if self._token(request) not in self.tokens:
            return _no(401, "Bad credentials")
        writes = request.method != "GET" and request.path != "/graphql"
        if writes and self.breaks_after is not None and len(self.writes) >= self.breaks_after:
            return _no(500, "Server Error")
        return None

    @staticmethod
    def _token(request: web.Request) -> str:
        return str(request.headers.get("Authorization", "")).removeprefix("Bearer ")

    async def _graphql(self, request: web.Request) -> web.Response:
        if (await request.json())["query"] != "{viewer{login}}":
            return _no(400, "Problems parsing GraphQL")
        login = self.tokens[self._token(request)][0]
        return web.json_response({"data": {"viewer": {"login": login}}})

    async def _rest(self, request: web.Request) -> web.Response:
        known = f"{request.match_info['owner']}/{request.match_info['name']}" == REPOSITORY
        login, rights = self.tokens[self._token(request)]
        if not known or not rights:
            return _no(404, "Not Found")
        path = request.match_info["path"]
        for pattern, needed, answer in ROUTES:
            verb, _, form = pattern.partition(" ")
            match = re.fullmatch(form, path)
            if match is None or verb != request.method:
                continue
            right, _, least = needed.partition("=")
            if rights.get(right) not in {least, "write"}:
                accepted = {"X-Accepted-GitHub-Permissions": needed}
                return _no(403, "Resource not accessible by integration", **accepted)
            if verb != "GET":
                self.writes.append(f"{verb} {path}")
            body = await request.json() if request.can_read_body else {}
            given = Request(request, login, body, [_number(part) for part in match.groups()])
            answered: web.Response = answer(self, given)
            return answered
        return _no(404, "Not Found")

    def _list(self, given: "Request", items: list[Object], key: str | None = None) -> web.Response:
        query = given.raw.query
        size = min(int(query.get("per_page", "30")), 100, self.largest_page)
        page = int(query.get("page", "1"))
        shown = items[(page - 1) * size : page * size]
        links = {}
        if page * size < len(items):
            following = given.raw.url.update_query(page=page + 1)
            links = {"Link": f'<{self.url}{following.path_qs}>; rel="next"'}
        body = {"total_count": len(items), key: shown} if key else shown
        return web.json_response(body, headers=links)

    def _pulls(self, given: "Request") -> web.Response:
        query = given.raw.query
        state, base = query.get("state", "open"), query.get("base")
        found = [
            pull
            for pull in self.pulls.values()
            if state in {pull["state"], "all"} and base in {None, pull["base"]["ref"]}
        ]
        by = {"updated": "updated_at"}.get(query.get("sort", ""), "created_at")
        ascending = query.get("direction", "desc") == "asc"
        found.sort(key=lambda pull: (pull[by], pull["number"]), reverse=not ascending)
        return self._list(given, found)

    def _files(self, given: "Request") -> web.Response:
        return self._list(given, self.files[given.parts[0]])

    def _events(self, given: "Request") -> web.Response:
        return self._list(given, self.events[given.parts[0]])

    def _labels(self, given: "Request") -> web.Response:
        return self._list(given, self.pulls[given.parts[0]]["labels"])

    def _add_labels(self, given: "Request") -> web.Response:
        number = given.parts[0]
        spelt = {name.lower(): name for name in self.labels}  # as they are here; case is no matter
        names = [spelt.get(name.lower()) for name in given.body["labels"]]
        if number not in self.pulls:
            return _no(404, "Not Found")
        if None in names:  # GitHub would make it, for one who may write issues
            return _no(403, "You do not have permission to create labels on this repository.")
        for name in filter(None, names):
            self.label(number, name, given.login)
        return web.json_response(self.pulls[number]["labels"])

    def _remove_label(self, given: "Request") -> web.Response:
        number, name = given.parts
        if number not in self.pulls or name not in self.labelled(number):
            return _no(404, "Label does not exist")
        self.unlabel(number, name, given.login)
        return web.json_response(self.pulls[number]["labels"])

    def _set_labels(self, given: "Request") -> web.Response:
        return _no(405, f"A set of labels undoes what others did meanwhile: {given.parts}")

    def _comments(self, given: "Request") -> web.Response:
        return self._list(given, self.comments[given.parts[0]])

    def comment(self, number: int, body: str, login: str = "ada") -> Object:
        """Say something below a pull request, as somebody."""
        kind = "Bot" if login.endswith("[bot]") else "User"
        said = {"id": next(self._ids), "body": body, "user": {"login": login, "type": kind}}
        self.comments[number].append(said | {"updated_at": self._stamp()})
        return self.comments[number][-1]

    def _comment(self, given: "Request") -> web.Response:
        if given.parts[0] not in self.pulls:
            return _no(404, "Not Found")
        said = self.comment(given.parts[0], given.body["body"], given.login)
        return web.json_response(said, status=201)

    def _change_comment(self, given: "Request") -> web.Response:
        every = [said for listed in self.comments.values() for said in listed]
        said = next((said for said in every if said["id"] == given.parts[0]), None)
        if said is None:
            return _no(404, "Not Found")
        if said["user"]["login"] != given.login:
            return _no(403, "Resource not accessible by integration")
        said |= {"body": given.body["body"], "updated_at": self._stamp()}
        return web.json_response(said)

    def _delete_comment(self, given: "Request") -> web.Response:
        for listed in self.comments.values():
            for said in listed:
                if said["id"] == given.parts[0]:
                    listed.remove(said)
                    return web.Response(status=204)
        return _no(404, "Not Found")

    def _checks(self, given: "Request") -> web.Response:
        name = given.raw.query.get("check_name")
        runs = [run for run in self.checks[given.texts[0]] if name in {None, run["name"]}]
        return self._list(given, runs[::-1], "check_runs")

    def _deployments(self, given: "Request") -> web.Response:
        wanted = {"sha", "ref", "task", "environment"} & given.raw.query.keys()
        found = [
            deployment
            for deployment in list(self.deployments.values())[::-1]
            if all(deployment[name] == given.raw.query[name] for name in wanted)
        ]
        return self._list(given, found)

    def _deploy(self, given: "Request") -> web.Response:
        body = given.body
        if body["ref"] not in {pull["head"]["sha"] for pull in self.pulls.values()}:
            return _no(422, f"No ref found for: {body['ref']}")
        if body.get("auto_merge", True) or body.get("required_contexts") != []:
            return _no(409, "Conflict: Commit status checks failed")
        made = {
            "id": next(self._ids), "sha": body["ref"], "ref": body["ref"],
            "task": body.get("task", "deploy"), "payload": body.get("payload", {}),
            "environment": body.get("environment", "production"),
            "transient_environment": body.get("transient_environment", False),
            "production_environment": body.get("production_environment", True),
            "creator": {"login": given.login}, "created_at": self._stamp(),
        }  # fmt: skip
        self.deployments[made["id"]] = made
        return web.json_response(made, status=201)

    def _deployment_statuses(self, given: "Request") -> web.Response:
        return self._list(given, self.statuses[given.parts[0]][::-1])

    def _set_status(self, given: "Request") -> web.Response:
        if given.parts[0] not in self.deployments:
            return _no(404, "Not Found")
        if given.body["state"] not in STATES:
            return _no(422, "Validation Failed")
        status = {"id": next(self._ids), "created_at": self._stamp(), **given.body}
        self.statuses[given.parts[0]].append(status)
        return web.json_response(status, status=201)

    def state_of(self, deployment: int) -> str | None:
        """Return the state that a deployment's last status says."""
        said = self.statuses[deployment]
        return str(said[-1]["state"]) if said else None

    def _undeploy(self, given: "Request") -> web.Response:
        if given.parts[0] not in self.deployments:
            return _no(404, "Not Found")
        if len(self.deployments) > 1 and self.state_of(given.parts[0]) != "inactive":
            return _no(422, "We cannot delete an active deployment unless it is the only one")
        del self.deployments[given.parts[0]]
        return web.Response(status=204)

    def _event(self, number: int, event: str, actor: str, **more: Any) -> None:
        self.pulls[number]["updated_at"] = self._stamp()
        self.events[number].append(
            {
                "id": next(self._ids),
                "event": event,
                "actor": {"login": actor, "type": "Bot" if actor.endswith("[bot]") else "User"},
                "created_at": self._stamp(),
                **more,
            }
        )

    def _stamp(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")


class Request:
    """A request that may be answered: who asks, with what body, and the parts of its path."""

    def __init__(self, raw: web.Request, login: str, body: Object, parts: list[Any]) -> None:
        self.raw = raw
        self.login = login
        self.body = body
        self.parts = parts
        self.texts = [str(part) for part in parts]


def _number(part: str) -> int | str:
    return int(part) if re.fullmatch("[1-9][0-9]{0,8}", part) else part


def _no(status: int, message: str, **headers: str) -> web.Response:
    text = json.dumps({"message": message, "status": str(status)})
    return web.Response(status=status, text=text, headers=headers, content_type="application/json")


ROUTES: list[tuple[str, str, Callable[[FakeGitHub, Request], web.Response]]] = [
    ("GET pulls", "pull_requests=read", FakeGitHub._pulls),
    (r"GET pulls/(\d+)/files", "pull_requests=read", FakeGitHub._files),
    (r"GET issues/(\d+)/events", "pull_requests=read", FakeGitHub._events),
    (r"GET issues/(\d+)/labels", "pull_requests=read", FakeGitHub._labels),
    (r"POST issues/(\d+)/labels", "pull_requests=write", FakeGitHub._add_labels),
    (r"PUT issues/(\d+)/labels", "pull_requests=write", FakeGitHub._set_labels),
    (r"DELETE issues/(\d+)/labels/([^/]+)", "pull_requests=write", FakeGitHub._remove_label),
    (r"GET issues/(\d+)/comments", "pull_requests=read", FakeGitHub._comments),
    (r"POST issues/(\d+)/comments", "pull_requests=write", FakeGitHub._comment),
    (r"PATCH issues/comments/(\d+)", "pull_requests=write", FakeGitHub._change_comment),
    (r"DELETE issues/comments/(\d+)", "pull_requests=write", FakeGitHub._delete_comment),
    (r"GET commits/([0-9a-f]{40})/check-runs", "checks=read", FakeGitHub._checks),
    ("GET deployments", "deployments=read", FakeGitHub._deployments),
    ("POST deployments", "deployments=write", FakeGitHub._deploy),
    (r"GET deployments/(\d+)/statuses", "deployments=read", FakeGitHub._deployment_statuses),
    (r"POST deployments/(\d+)/statuses", "deployments=write", FakeGitHub._set_status),
    (r"DELETE deployments/(\d+)", "deployments=write", FakeGitHub._undeploy),
]
