"""The only module that asks a cluster what closed pull requests left behind."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from kubernetes import config
from kubernetes.client import ApiClient, ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from preview.console import Console
from preview.errors import SweepError
from shared.identity import SOURCE

NAMESPACE = "monolith"
PRODUCTION = "monolith"
"""Production's Application: where it is not listed, this is not the Argo CD that makes previews."""

_APPLICATIONS = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications"
_SNAPSHOT_API = "/apis/snapshot.storage.k8s.io/v1"

_NUMBER = r"([1-9][0-9]{0,8})"
_APPLICATION = re.compile(rf"monolith-pr-{_NUMBER}", re.ASCII)
_CLONE = re.compile(rf"{SOURCE}-pr-{_NUMBER}", re.ASCII)
_SNAPSHOT = re.compile(rf"{SOURCE}-pr-{_NUMBER}(?:-[a-z0-9][a-z0-9-]*)?", re.ASCII)
_CLAIM = re.compile(rf"{SOURCE}-pr-{_NUMBER}-[1-9][0-9]*", re.ASCII)

_PAGE = 200
_TIMEOUT = 30
_REMEDIES = {
    HTTPStatus.FORBIDDEN.value: "Grant the rights that docs/operations.md lists.",
    HTTPStatus.NOT_FOUND.value: "Point kubectl at the cluster of the previews, or add the CRD.",
}

Object = dict[str, Any]


def _own_name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _name_behind(reference: str, item: Object) -> str:
    """Name what a cluster-wide object belongs to; nothing outside our namespace has a name."""
    behind = item["spec"].get(reference) or {}
    return str(behind.get("name", "")) if behind.get("namespace") == NAMESPACE else ""


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of object that a preview may leave.

    `owner` gives the name that says whose it is; `policy` is the field of its spec that decides
    whether the storage behind it goes too.
    """

    name: str
    path: str
    pattern: re.Pattern[str]
    owner: Callable[[Object], str] = _own_name
    policy: str | None = None
    deleted: bool = True


# In the order of tearing down: what says Retain is changed before that which holds it goes. A
# volume is never deleted itself; Kubernetes would forget the storage behind it.
KINDS = (
    Kind("clone", f"/apis/postgresql.cnpg.io/v1/namespaces/{NAMESPACE}/clusters", _CLONE),
    Kind(
        "volume",
        "/api/v1/persistentvolumes",
        _CLAIM,
        partial(_name_behind, "claimRef"),
        "persistentVolumeReclaimPolicy",
        deleted=False,
    ),
    Kind("claim", f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", _CLAIM),
    Kind(
        "snapshot content",
        f"{_SNAPSHOT_API}/volumesnapshotcontents",
        _SNAPSHOT,
        partial(_name_behind, "volumeSnapshotRef"),
        "deletionPolicy",
    ),
    Kind("snapshot", f"{_SNAPSHOT_API}/namespaces/{NAMESPACE}/volumesnapshots", _SNAPSHOT),
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object of a preview whose Application is gone."""

    kind: Kind
    number: int
    name: str
    uid: str
    goes: bool
    policy: str | None

    @classmethod
    def of(cls, kind: Kind, item: Object) -> "Leftover | None":
        """Judge one object by its name; None is not a preview's."""
        match = kind.pattern.fullmatch(kind.owner(item))
        if match is None:
            return None
        metadata = item["metadata"]
        policy = item["spec"].get(kind.policy) if kind.policy else None
        goes = "deletionTimestamp" in metadata
        return cls(kind, int(match[1]), metadata["name"], metadata["uid"], goes, policy)

    def facts(self) -> dict[str, Any]:
        """Return what a program may want to know."""
        state = "goes" if self.goes else "left"
        facts = {"kind": self.kind.name, "name": self.name, "number": self.number, "state": state}
        return facts | ({"policy": self.policy} if self.policy else {})


class Sweep:
    """
    Lists what closed pull requests left in a cluster, and tears it down when told to.

    Only ever touches an object whose name is exactly a preview's, and never while the
    Application of that preview exists.
    """

    def __init__(self, api: ApiClient, console: Console) -> None:
        self._api = api
        self._console = console

    @classmethod
    def of_current_context(cls, console: Console) -> "Sweep":
        """
        Sweep the cluster that kubectl would talk to.

        Raises:
            SweepError: there is none.
        """
        try:
            config.load_config()
        except ConfigException as error:
            expected = "a cluster that kubectl knows"
            raise SweepError(expected, f"there is none ({error})", "Set KUBECONFIG.") from error
        return cls(ApiClient(), console)

    def run(self, *, delete: bool) -> int:
        """
        Show what is left, and tear it down when told to; return the exit code.

        Raises:
            SweepError: the cluster did not show everything, or it is the wrong one.
        """
        done = True
        left = self.left()
        for each in left:
            outcome = self.tear_down(each) if delete else each.facts()["state"]
            done = done and delete and not outcome.startswith("refused")
            text = f"{each.kind.name} {each.name} of PR {each.number}: {outcome}"
            self._console.say(text, **each.facts(), outcome=outcome)
        if not left:
            self._console.say("nothing is left of closed pull requests")
        return 0 if done else 1

    def left(self) -> list[Leftover]:
        """
        List what is left, in the order in which it is to be torn down.

        Applications are listed last, so that one that was made in the meantime counts.

        Raises:
            SweepError: the cluster did not show everything, or it is the wrong one.
        """
        found = []
        for kind in KINDS:
            with self._console.step(f"listed {kind.name}s of {self._api.configuration.host}"):
                found += [Leftover.of(kind, item) for item in self._all(kind.path)]
        with self._console.step("listed Applications"):
            living = self._living()
        return [left for left in found if left and left.number not in living]

    def tear_down(self, left: Leftover) -> str:
        """
        Tear one down, and say what came of it.

        Raises:
            SweepError: the cluster does not say whether the preview's Application exists.
        """
        if left.goes:
            return "goes already"
        if self._lives(left.number):
            return "kept, its Application exists again"
        try:
            return self._asked_to_go(left)
        except ApiException as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return "gone"
            return f"refused, {error.status} {error.reason}"
        except HTTPError as error:
            return f"refused, no answer ({type(error).__name__})"

    def _asked_to_go(self, left: Leftover) -> str:
        path = f"{left.kind.path}/{{name}}"
        if left.kind.policy and left.policy != "Delete":
            change = {"metadata": {"uid": left.uid}, "spec": {left.kind.policy: "Delete"}}
            self._ask("PATCH", path, left.name, change)
        if left.kind.deleted:
            self._ask("DELETE", path, left.name, {"preconditions": {"uid": left.uid}})
            return "asked to go"
        return "goes with its claim"

    def _living(self) -> set[int]:
        names = [_own_name(item) for item in self._all(_APPLICATIONS)]
        if PRODUCTION not in names:
            expected = f"production's Application {PRODUCTION!r} in {_APPLICATIONS}"
            found = f"{self._api.configuration.host} lists {', '.join(names) or 'none'}"
            raise SweepError(expected, found, "Point kubectl at the cluster of the previews.")
        return {int(match[1]) for name in names if (match := _APPLICATION.fullmatch(name))}

    def _lives(self, number: int) -> bool:
        try:
            self._ask("GET", f"{_APPLICATIONS}/{{name}}", f"monolith-pr-{number}")
        except ApiException as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise self._refusal(_APPLICATIONS, error) from error
        except HTTPError as error:
            raise self._refusal(_APPLICATIONS, error) from error
        return True

    def _all(self, path: str) -> Iterator[Object]:
        query = [("limit", _PAGE)]
        while True:
            try:
                answer = self._ask("GET", path, query=query)
            except (ApiException, HTTPError) as error:
                raise self._refusal(path, error) from error
            yield from answer["items"]
            if not (token := answer["metadata"].get("continue")):
                return
            query = [("limit", _PAGE), ("continue", token)]

    def _refusal(self, path: str, error: ApiException | HTTPError) -> SweepError:
        status, said = 0, f"gives no answer ({type(error).__name__})"
        if isinstance(error, ApiException):
            status, said = int(error.status or 0), f"says {error.status} {error.reason}"
        found = f"{self._api.configuration.host} {said}"
        return SweepError(f"to see all of {path}", found, _REMEDIES.get(status, "Try again."))

    def _ask(
        self,
        verb: str,
        path: str,
        name: str = "",
        body: Object | None = None,
        query: list[tuple[str, Any]] | None = None,
    ) -> Object:
        """Ask by path: the client's own calls insist on the type of every answer."""
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        request = self._api.param_serialize(
            verb,
            path,
            path_params={"name": name},
            query_params=query or [],
            header_params={"Accept": "application/json", "Content-Type": kind},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._api.call_api(*request, _request_timeout=_TIMEOUT)
        said = response.read()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise ApiException(status=response.status, reason=response.reason)
        answer: Object = json.loads(said)
        return answer
