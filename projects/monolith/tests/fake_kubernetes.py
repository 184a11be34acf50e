"""A Kubernetes API on loopback that lists, reads, patches and deletes as the real one does."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from preview.sinks.serving import listening

APPLICATIONS = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications"
CLUSTERS = "/apis/postgresql.cnpg.io/v1/namespaces/monolith/clusters"
SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1/namespaces/monolith/volumesnapshots"
CONTENTS = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents"
CLAIMS = "/api/v1/namespaces/monolith/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"


class FakeKubernetes:
    """Keeps objects by collection and name, and records what was asked to change."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            path: {} for path in (APPLICATIONS, CLUSTERS, SNAPSHOTS, CONTENTS, CLAIMS, VOLUMES)
        }
        self.forbidden: set[tuple[str, str]] = set()
        self.deleted: list[str] = []
        self.patched: list[str] = []
        self.after_list: dict[str, Any] = {}
        self.page = 200
        self.url = ""

    def add(self, path: str, name: str, **more: Any) -> dict[str, Any]:
        """Make an object as it would be listed."""
        metadata = {"name": name, "uid": str(uuid.uuid4()), **more.pop("metadata", {})}
        self.objects[path][name] = {"metadata": metadata, "spec": {}, **more}
        return self.objects[path][name]

    def kubeconfig(self) -> str:
        """Return the file that points kubectl here."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "fake",
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "ada"}}],
                "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                "users": [{"name": "ada", "user": {"token": "ada"}}],
            }
        )

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeKubernetes"]:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        async with listening(app) as where:
            self.url = f"http://{where}"
            yield self

    async def _answer(self, request: web.Request) -> web.Response:
        verbs = {"GET": self._read, "DELETE": self._delete, "PATCH": self._patch}
        path, _, name = request.path.rpartition("/")
        if request.path in self.objects:
            path, name = request.path, ""
        if (request.method, path) in self.forbidden:
            return _status(403, "Forbidden")
        if path not in self.objects or (name and name not in self.objects[path]):
            return _status(404, "NotFound")
        if not name:
            return self._list(request)
        return await verbs[request.method](request, path, name)

    def _list(self, request: web.Request) -> web.Response:
        items = sorted(self.objects[request.path].items())
        start = int(request.query.get("continue", "0").removeprefix("after-"))
        stop = start + min(int(request.query.get("limit", "500")), self.page)
        more = {"continue": f"after-{stop}"} if stop < len(items) else {}
        self.after_list.pop(request.path, lambda: None)()
        return web.json_response(
            {"kind": "List", "metadata": more, "items": [item for _, item in items[start:stop]]}
        )

    async def _read(self, _: web.Request, path: str, name: str) -> web.Response:
        return web.json_response(self.objects[path][name])

    async def _delete(self, request: web.Request, path: str, name: str) -> web.Response:
        expected = (await request.json()).get("preconditions", {}).get("uid")
        if expected not in {None, self.objects[path][name]["metadata"]["uid"]}:
            return _status(409, "Conflict")
        del self.objects[path][name]
        self.deleted.append(name)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _patch(self, request: web.Request, path: str, name: str) -> web.Response:
        if not request.content_type.endswith("merge-patch+json"):
            return _status(415, "UnsupportedMediaType")
        change, found = await request.json(), self.objects[path][name]
        if change["metadata"]["uid"] != found["metadata"]["uid"]:
            return _status(409, "Conflict")
        found["spec"].update(change["spec"])
        self.patched.append(name)
        return web.json_response(found)


def _status(code: int, reason: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason}
    return web.json_response(body, status=code, reason=reason)
