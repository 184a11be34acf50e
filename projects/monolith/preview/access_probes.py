"""The only module that knows what a check asks of a host, and how each answer is judged."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from preview.access_edge import Headers, Silence, Trouble, service_token
from preview.access_hosts import Host, Kind
from preview.access_verdict import (
    Answer,
    Expected,
    Judgement,
    Verdict,
    judge,
    judge_bare_refusal,
    judge_guest,
    judge_port,
)

ASSERTION = "Cf-Access-Jwt-Assertion"
ATTESTATION = "/api/preview"
PATHS = (
    "/healthz",
    "/api/",
    "/api/knowledge/search",
    "/docs",
    "/openapi.json",
    "/_app/x.js",
    "/otel/v1/traces",
    "/.well-known/x",
)
"""Where an application for a path alone would be a hole."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a check may show at the door; nothing of it is ever printed."""

    client_id: str = field(default="", repr=False)
    client_secret: str = field(default="", repr=False)
    other_token: str = field(default="", repr=False)
    metadata: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Probe:
    """One request, and how its answer is judged."""

    name: str
    judge: Callable[[Answer], Judgement]
    method: str = "GET"
    path: str = "/"
    headers: Headers = ()
    origin: str = ""
    verified: bool = True

    def url(self) -> str:
        """Make a URL that nobody has asked before."""
        return f"{self.origin}{self.path}?check={secrets.token_hex(8)}"

    def found(self, heard: Answer | Silence) -> Judgement:
        """Judge what came back; silence proves something only where nothing is wanted."""
        if isinstance(heard, Answer):
            return self.judge(heard)
        closed = not self.verified and heard.trouble is not Trouble.OTHER
        return Judgement(Verdict.PROTECTED if closed else Verdict.INCONCLUSIVE, heard.reason)


class Probes:
    """
    Writes the requests of one check.

    Forged tokens are signed with a key that was made for it and kept nowhere.
    """

    def __init__(self, expected: Expected, guest: Guest, key: RSAPrivateKey | None = None) -> None:
        self._expected = expected
        self._guest = guest
        self._key = key or generate_private_key(65537, 2048)

    def knowing(self, metadata: str) -> "Probes":
        """Return the same, with what Access has signed about one host."""
        return Probes(self._expected, replace(self._guest, metadata=metadata), self._key)

    def of(self, host: Host) -> list[Probe]:
        """Write what one host is asked, but for Access's word about itself."""
        if host.kind is Kind.ASIDE:
            return [*self._aside(host.name)]
        anonymous = partial(Probe, judge=self._as(judge, host), origin=f"https://{host.name}")
        return [
            *self._plain(anonymous),
            *self._other_requests(anonymous, host),
            *self._forged(anonymous, host),
            *self._tokens(anonymous, host),
            *self._ports(host),
        ]

    def _as(self, how: Callable[..., Judgement], host: Host) -> Callable[[Answer], Judgement]:
        return partial(how, host=host.name, expected=self._expected)

    def _plain(self, anonymous: Callable[..., Probe]) -> Iterator[Probe]:
        yield anonymous("anonymous")
        for path in PATHS:
            yield anonymous(f"path {path}", path=path)
        for method in ("POST", "PUT", "DELETE"):
            yield anonymous(f"{method} /api/probe", method=method, path="/api/probe")

    def _other_requests(self, anonymous: Callable[..., Probe], host: Host) -> Iterator[Probe]:
        yield anonymous("XHR", headers=(("X-Requested-With", "XMLHttpRequest"),))
        yield anonymous(
            "preflight",
            judge=self._as(judge_bare_refusal, host),
            method="OPTIONS",
            path=ATTESTATION,
            headers=(
                ("Origin", "https://elsewhere.example"),
                ("Access-Control-Request-Method", "GET"),
            ),
        )
        yield anonymous(
            "WebSocket",
            headers=(
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "bW9ub2xpdGggcHJvYmUhIQ=="),
            ),
        )

    def _forged(self, anonymous: Callable[..., Probe], host: Host) -> Iterator[Probe]:
        email = f"probe@{host.name.partition('.')[2]}"
        signed, unsigned = self._forge(email, "RS256"), self._forge(email, "none")
        yield anonymous("forged assertion", headers=((ASSERTION, signed),))
        yield anonymous("unsigned assertion", headers=((ASSERTION, unsigned),))
        yield anonymous("forged cookie", headers=(("Cookie", f"CF_Authorization={signed}"),))
        yield anonymous("forged token", headers=(("cf-access-token", signed),))
        yield anonymous(
            "claimed identity",
            headers=(("Cf-Access-Authenticated-User-Email", email), ("X-Auth-Email", email)),
        )
        if self._guest.metadata:
            yield anonymous("metadata replayed", headers=((ASSERTION, self._guest.metadata),))
        if self._guest.other_token:
            other = self._guest.other_token
            yield anonymous("other application's token", headers=((ASSERTION, other),))

    def _forge(self, email: str, algorithm: str) -> str:
        """Write a token that is right in all but its signature."""
        now = int(time.time())
        claims = {
            "aud": [self._expected.audience],
            "email": email,
            "exp": now + 600,
            "iat": now,
            "nbf": now,
            "iss": f"https://{self._expected.team}",
            "type": "app",
            "sub": "probe",
        }
        key = self._key if algorithm == "RS256" else ""
        return jwt.encode(claims, key, algorithm, headers={"kid": "probe"})

    def _tokens(self, anonymous: Callable[..., Probe], host: Host) -> Iterator[Probe]:
        bare = self._as(judge_bare_refusal, host)
        made_up = f"{secrets.token_hex(16)}.access"
        wrong = secrets.token_hex(32)
        yield anonymous("unknown service token", judge=bare, headers=service_token(made_up, wrong))
        guest = self._guest
        if not guest.client_id:
            return
        known = service_token(guest.client_id, wrong)
        yield anonymous("service token's wrong secret", judge=bare, headers=known)
        yield anonymous(
            "service token",
            judge=partial(judge_guest, live=host.kind is Kind.LIVE),
            path=ATTESTATION,
            headers=service_token(guest.client_id, guest.client_secret),
        )

    def _ports(self, host: Host) -> Iterator[Probe]:
        judged = self._as(judge_port, host)
        for origin in (f"http://{host.name}", f"http://{host.name}:8080"):
            yield Probe(f"port {_port(origin)}", judged, origin=origin)
        yield Probe("port 8443", judged, origin=f"https://{host.name}:8443")

    def _aside(self, name: str) -> Iterator[Probe]:
        """Insist on no certificate: whoever means harm would not."""
        judged = partial(judge, host=name, expected=self._expected)
        port = partial(judge_port, host=name, expected=self._expected)
        yield Probe("https", judged, origin=f"https://{name}", verified=False)
        yield Probe("http", port, origin=f"http://{name}", verified=False)


def _port(origin: str) -> str:
    return origin.rpartition(":")[2] if origin.count(":") > 1 else "80"
