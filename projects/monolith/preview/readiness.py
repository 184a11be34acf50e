"""What a preview says of itself, asked from outside through Cloudflare Access."""

import asyncio
import re
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from pydantic import SecretStr

from preview.access_edge import Edge, Headers, Silence, service_token
from preview.access_verdict import Answer, attestation
from shared.guard import StartupPoint

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2})[:.0-9]*\+00:00", re.ASCII)
_STARTING = "Startup has not finished."


class State(StrEnum):
    """What can be told apart from outside, and no more than that."""

    READY = "ready"
    ROLLING = "an older commit answers, the newest is being rolled out"
    NO_ROUTE = "cloning: there is no route yet, Argo CD makes it once snapshot and clone are there"
    NO_APP = (
        "starting: clone and route are there, the app does not answer yet; "
        "its image is pulled, it migrates, or it cannot start"
    )
    STARTING = "starting: the app is there and has not finished its startup"
    STRANGER = "failed: what answers is not this preview"
    UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Sight:
    """
    What was seen of one preview.

    The preview runs the pull request's own code, so only what has exactly the expected form is
    taken over from its attestation.
    """

    state: State
    why: str = ""
    digest: str | None = None
    head_sha: str | None = None
    cloned_at: str | None = None
    muted: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """How a program gets through Access; either part may be missing."""

    client_id: SecretStr | None
    client_secret: SecretStr | None

    def headers(self) -> Headers | None:
        """Return what to send, or None where there is no whole token."""
        if not (self.client_id and self.client_secret):
            return None
        return service_token(
            self.client_id.get_secret_value(), self.client_secret.get_secret_value()
        )


def look(host: str, number: int, head_sha: str, token: ServiceToken) -> Sight:
    """Ask a preview for its attestation; every way to fail is a sight, too."""
    headers = token.headers()
    if headers is None:
        return Sight(State.UNKNOWN, "there is no service token to ask with")
    heard = asyncio.run(Edge().ask("GET", f"https://{host}/api/preview", headers))
    if isinstance(heard, Silence):  # its reason may quote the preview
        return Sight(State.UNKNOWN, f"{host}: {heard.trouble}")
    if heard.status == HTTPStatus.OK:
        return _attested(heard.body, number, head_sha)
    return _unattested(host, heard)


def _unattested(host: str, heard: Answer) -> Sight:
    status = heard.status
    if status == HTTPStatus.NOT_FOUND:
        return Sight(State.NO_ROUTE)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Sight(State.STARTING if _STARTING in heard.body else State.NO_APP)
    if status in {HTTPStatus.FOUND, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        refuser = "the preview" if heard.values("x-origin-access") else "Access"
        return Sight(State.UNKNOWN, f"{refuser} refuses the service token ({status})")
    return Sight(State.UNKNOWN, f"{host} answers {status}")


def _attested(body: str, number: int, head_sha: str) -> Sight:
    said = attestation(body)
    if said is None or said.get("pr_number") != number:
        return Sight(State.STRANGER)
    runs = _exactly(_SHA, said.get("head_sha"))
    points = {
        point["point"]: point["runs"]
        for point in _objects(said.get("startup_points"))
        if point.get("point") in [*StartupPoint] and isinstance(point.get("runs"), bool)
    }
    return Sight(
        State.READY if runs == head_sha else State.ROLLING,
        digest=_exactly(_DIGEST, said.get("digest")),
        head_sha=runs,
        cloned_at=_moment(said.get("neutralized")),
        muted=[point for point, running in points.items() if not running],
        running=[point for point, running in points.items() if running],
    )


def _objects(said: Any) -> list[dict[str, Any]]:
    return [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []


def _exactly(form: re.Pattern[str], said: Any) -> str | None:
    return said if isinstance(said, str) and form.fullmatch(said) else None


def _moment(neutralized: Any) -> str | None:
    at = neutralized.get("at") if isinstance(neutralized, dict) else None
    match = _MOMENT.fullmatch(at) if isinstance(at, str) else None
    return f"{match[1]} {match[2]} UTC" if match else None
