"""The only module that lets requests in: on Cloudflare Access's signature, and no header else."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import jwt
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from app.problems import problem
from shared.access_keys import KeySet, NoKeysError, UnknownKeyError
from shared.dsn import Target
from shared.errors import NoAccessError
from shared.settings import Settings

HEADER = b"cf-access-jwt-assertion"
EXEMPT = frozenset({"/healthz", "/readyz"})
"""What the kubelet gets; it has no token, and learns only whether the process answers."""

ALGORITHM = "RS256"
LONGEST_TOKEN = 8192
LEEWAY_SECONDS = 30
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_COMPACT = re.compile(rb"[\w-]+\.[\w-]+\.[\w-]+")
_TIMES = ("exp", "iat", "nbf")
_HEADERS = {401: {"WWW-Authenticate": 'Bearer realm="preview"'}, 503: {"Retry-After": "30"}}

log = structlog.get_logger()


class _Refused(Exception):  # noqa: N818  an answer, and no error of ours
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Rules:
    """Whose signature counts, for which application, and who of those it names may enter."""

    issuer: str
    audience: str
    emails: frozenset[str]
    clients: frozenset[str]

    @classmethod
    def from_settings(cls, settings: Settings, target: Target) -> Self | None:
        """
        Read the rules; production has none, nor a preview that only its own machine can reach.

        Raises:
            NoAccessError: a preview that others can reach has none.
        """
        issuer, audience = settings.access_team_domain, settings.access_aud
        emails, clients = settings.access_emails, settings.access_service_clients
        if issuer and audience and emails and clients:  # all or none of them are set
            return cls(issuer, audience, frozenset(map(_folded, emails)), frozenset(clients))
        if settings.pr_env and not target.is_socket:
            raise NoAccessError(target.host, "the clone's host")
        if settings.pr_env and settings.listen_host not in LOOPBACK:
            raise NoAccessError(settings.listen_host, "LISTEN_HOST")
        return None

    def admit(self, claims: dict[str, Any]) -> str:
        """Return whom verified claims speak of: an email address, or a service token's client."""
        if claims.get("type") != "app":
            raise _Refused(401, "its token is for no application")
        email, client = claims.get("email"), claims.get("common_name")
        if isinstance(email, str) and not client and _folded(email) in self.emails:
            return _folded(email)
        machine = isinstance(client, str) and not email and not claims.get("sub")
        if machine and client in self.clients:
            return str(client)
        raise _Refused(403, "its token is of nobody who may enter")


@dataclass(slots=True)
class Door:
    """Judge requests by the one token that Cloudflare Access has put on each."""

    rules: Rules
    keys: KeySet
    refused: Counter[str] = field(default_factory=Counter)

    async def admit(self, scope: Scope) -> str:
        """Return who asks."""
        tokens = [value for name, value in scope["headers"] if name.lower() == HEADER]
        if not tokens:
            raise _Refused(401, "it has no header Cf-Access-Jwt-Assertion")
        if len(tokens) > 1:
            raise _Refused(401, "it has two headers Cf-Access-Jwt-Assertion, or more")
        if len(tokens[0]) > LONGEST_TOKEN:
            raise _Refused(401, "its token is too long")
        if not _COMPACT.fullmatch(tokens[0]):
            raise _Refused(401, "its token is not written as one")
        return self.rules.admit(await self._verified(tokens[0]))

    async def _verified(self, token: bytes) -> dict[str, Any]:
        try:
            key = await self.keys.key(_key_name(token))
            return _timed(
                jwt.decode(
                    token,
                    key.key,
                    algorithms=[ALGORITHM],
                    audience=self.rules.audience,
                    issuer=self.rules.issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iat", "iss", "aud"]},
                )
            )
        except UnknownKeyError:
            reason = "its token is signed with a key that the team does not have"
        except NoKeysError:
            raise _Refused(503, "the team's keys cannot be fetched") from None
        except Exception as error:  # noqa: BLE001  a token is whatever an attacker sends
            reason = f"its token does not hold ({type(error).__name__})"
        raise _Refused(401, reason)


def _key_name(token: bytes) -> str:
    """Name the key that a token claims; nothing is fetched for a token that no key could save."""
    header = jwt.get_unverified_header(token)
    if header.get("alg") != ALGORITHM or "kid" not in header:
        raise jwt.InvalidAlgorithmError
    return str(header["kid"])


def _timed(claims: dict[str, Any]) -> dict[str, Any]:
    """Return claims whose times are numbers; PyJWT would read them out of a text, too."""
    if any(type(claims[name]) not in (int, float) for name in _TIMES if name in claims):
        raise jwt.InvalidTokenError
    return claims


def _folded(email: str) -> str:
    """Fold the case of ASCII alone: elsewhere two addresses could become one."""
    return email.lower() if email.isascii() else email


def _is_probe(scope: Scope) -> bool:
    """Say whether this is a kubelet's request, letter by letter, and of this very app."""
    path = scope["path"]
    exact = scope.get("raw_path") in (None, path.encode()) and not scope.get("root_path")
    return scope["type"] == "http" and scope["method"] == "GET" and path in EXEMPT and exact


class Access:
    """
    Let in only who comes through Cloudflare Access and is on the list.

    Only EXEMPT paths are answered to others, to a plain GET of exactly what is
    written, and never to a WebSocket.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may enter, and say of it who asks."""
        if scope["type"] == "lifespan" or _is_probe(scope):
            await self.app(scope, receive, send)
            return
        try:
            identity = await self.door.admit(scope)
        except _Refused as refused:
            await self._refuse(refused, scope, receive, send)
            return
        scope.setdefault("state", {})["identity"] = identity
        with structlog.contextvars.bound_contextvars(identity=identity):
            await self.app(scope, receive, send)

    async def _refuse(self, why: _Refused, scope: Scope, receive: Receive, send: Send) -> None:
        self.door.refused[str(why)] += 1
        log.warning("request refused", path=scope["path"], reason=str(why))
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
            "extensions", {}
        ):
            await send({"type": "websocket.close", "code": 1008})
            return
        detail = (
            "Refused to answer: expected one valid token of Cloudflare Access, "
            f"the request says otherwise: {why}. Come through Cloudflare Access."
        )
        headers = {"X-Origin-Access": "denied", "Cache-Control": "no-store"}
        headers |= _HEADERS.get(why.status, {})
        await problem(why.status, detail, headers)(scope, receive, send)
