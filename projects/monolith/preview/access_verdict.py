"""The only module that judges an answer: did Cloudflare Access give it, for our application."""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import jwt

OLDEST_METADATA_SECONDS = 24 * 3600
CLOCK_SKEW_SECONDS = 300

_LOGIN = "/cdn-cgi/access/login/"
_RESOURCE = "/.well-known/cloudflare-access-protected-resource"
_ENVOY_REFUSALS = ("Jwt ", "Jwks ", "Audiences in Jwt", "RBAC: access denied")
_FIREWALL = re.compile(r"(error code: |cf-error-details|Error )10(10|20)\b|Error 10(10|20)\b")


class Verdict(StrEnum):
    """What a check says of a host; only PROTECTED is good."""

    PROTECTED = "PROTECTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    WRONG_APP = "WRONG_APP"
    EXPOSED = "EXPOSED"

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return _EXIT_CODES[self]


_WEIGHTS = tuple(Verdict)
_EXIT_CODES = {
    Verdict.PROTECTED: 0,
    Verdict.EXPOSED: 2,
    Verdict.WRONG_APP: 3,
    Verdict.INCONCLUSIVE: 4,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the gravest; where nothing was judged, nothing was shown."""
    return max(verdicts, key=_WEIGHTS.index, default=Verdict.INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict, and why."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Expected:
    """Whose Access has to be in front: the team's host, our application's audience and hostname."""

    team: str
    audience: str
    application: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, with the names of headers in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""

    def values(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for found, value in self.headers if found == name]

    def only(self, name: str) -> str:
        """Return a header's value where there is exactly one."""
        values = self.values(name)
        return values[0] if len(values) == 1 else ""


def judge(answer: Answer, host: str, expected: Expected) -> Judgement:
    """Judge the answer to somebody whom Access does not know; only its own exact forms are good."""
    if mark := _mark_of_origin(answer):
        return _exposed(answer, mark)
    match answer.status:
        case 302:
            return _judge_redirect(answer, host, expected)
        case 401 | 403:
            return _judge_refusal(answer, host, expected)
    return _judge_other(answer)


def judge_port(answer: Answer, host: str, expected: Expected) -> Judgement:
    """Judge the answer at another port, which may also lead to https on the same host."""
    moved = answer.status in (301, 308) and not _mark_of_origin(answer)
    where = _split(answer.only("location"))
    if moved and where and (where.scheme, where.netloc) == ("https", host):
        return Judgement(Verdict.PROTECTED, "leads to https on the same host")
    return judge(answer, host, expected)


def judge_bare_refusal(answer: Answer, host: str, expected: Expected) -> Judgement:
    """Judge where Access is documented to refuse, and not documented to say that it is Access."""
    found = judge(answer, host, expected)
    bare = answer.status in (401, 403) and not _mark_of_origin(answer)
    if bare and found.verdict is Verdict.EXPOSED:
        reason = f"{answer.status} that does not say whose it is: Access's own, or the origin's"
        return Judgement(Verdict.INCONCLUSIVE, reason)
    return found


def judge_guest(answer: Answer, *, live: bool) -> Judgement:
    """
    Judge the answer to our own service token, which gets to a preview and to nothing else.

    Whether the preview is up is not asked: one that is being made, or that crashes, is no hole.
    """
    if answer.status in (302, 401, 403):
        return _degraded(f"the service token is not let in: {answer.status}")
    if answer.status == 200 and live and attestation(answer.body):  # noqa: PLR2004
        return Judgement(Verdict.PROTECTED, "lets the service token in, to a preview: 200")
    if answer.status == 404 or _is_down(answer.status):  # noqa: PLR2004
        reason = f"lets the service token in, and no preview answers: {answer.status}"
        return Judgement(Verdict.PROTECTED, reason)
    return _degraded(f"behind Access is something else than a preview: {answer.status}")


def judge_metadata(
    answer: Answer, host: str, expected: Expected, keys: Mapping[str, jwt.PyJWK]
) -> Judgement:
    """Judge what Access signs about itself; an origin cannot say this."""
    token = answer.only("cf-access-metadata")
    if not token or _mark_of_origin(answer):
        found = judge_bare_refusal(answer, host, expected)  # the answer to HEAD has no body
        if found.verdict in (Verdict.EXPOSED, Verdict.WRONG_APP):
            return found
        return Judgement(Verdict.INCONCLUSIVE, "Access says nothing signed about itself")
    try:
        claims = read_metadata(token, keys)
    except jwt.PyJWTError as error:
        reason = f"what is said of Access is not signed by the team ({type(error).__name__})"
        return Judgement(Verdict.INCONCLUSIVE, reason)
    return _judge_claims(claims, host, expected)


def read_metadata(token: str, keys: Mapping[str, jwt.PyJWK]) -> dict[str, Any]:
    """
    Return the claims that the team has signed.

    Raises:
        PyJWTError: one of these keys did not sign it with RS256.
    """
    name = str(jwt.get_unverified_header(token).get("kid"))
    if name not in keys:
        message = "the team has no such key"
        raise jwt.InvalidKeyError(message)
    options: Any = {"verify_aud": False, "verify_iat": False, "require": ["iat"]}
    return jwt.decode(token, keys[name].key, algorithms=["RS256"], options=options)


def _judge_claims(claims: dict[str, Any], host: str, expected: Expected) -> Judgement:
    for claim, wanted in (("type", "match"), ("hostname", host)):
        if claims.get(claim) != wanted:
            reason = f"the signed {claim} is {claims.get(claim)!r}, not {wanted!r}"
            return Judgement(Verdict.INCONCLUSIVE, reason)
    age = time.time() - claims["iat"] if _is_number(claims["iat"]) else float("nan")
    if not -CLOCK_SKEW_SECONDS <= age <= OLDEST_METADATA_SECONDS:
        return Judgement(Verdict.INCONCLUSIVE, "what Access signed is not of today")
    for claim, wanted in (("aud", expected.audience), ("app_hostname", expected.application)):
        if claims.get(claim) != wanted:
            reason = f"another application guards it: signed {claim} {claims.get(claim)!r}"
            return Judgement(Verdict.WRONG_APP, reason)
    return Judgement(Verdict.PROTECTED, f"signed by the team: {expected.application} guards it")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _judge_redirect(answer: Answer, host: str, expected: Expected) -> Judgement:
    where = _split(answer.only("location"))
    if where is None or (where.scheme, where.netloc) != ("https", expected.team):
        return _exposed(answer, "redirects elsewhere than to the team's login")
    named = parse_qs(where.query).get("kid")
    if where.path == f"{_LOGIN}{host}" and named == [expected.audience] and not where.fragment:
        return Judgement(Verdict.PROTECTED, "redirects to the team's login")
    if where.path.startswith(_LOGIN):
        return Judgement(Verdict.WRONG_APP, "redirects to the login of another application or host")
    return _exposed(answer, "redirects to the team's domain, and to no login")


def _judge_refusal(answer: Answer, host: str, expected: Expected) -> Judgement:
    audiences = answer.values("cf-access-aud")
    challenge = answer.only("www-authenticate")
    if audiences == [expected.audience]:
        return Judgement(Verdict.PROTECTED, f"Access refuses it: {answer.status}")
    if audiences:
        return Judgement(Verdict.WRONG_APP, "Access refuses it for another application")
    if answer.status == 401 and _resource(challenge, host):  # noqa: PLR2004
        return Judgement(Verdict.PROTECTED, "Access asks to sign in: 401")
    if challenge.lower().startswith("cloudflare-access") or answer.values("cf-access-error"):
        return Judgement(Verdict.INCONCLUSIVE, "Access refuses it, and does not say for whom")
    if answer.status == 403 and _FIREWALL.search(answer.body):  # noqa: PLR2004
        return Judgement(Verdict.INCONCLUSIVE, "the firewall refuses it, before Access is asked")
    return _judge_other(answer)


def _judge_other(answer: Answer) -> Judgement:
    if answer.status == 429:  # noqa: PLR2004
        return Judgement(Verdict.INCONCLUSIVE, "the edge limits the rate: 429")
    if answer.status >= 400 and answer.only("cf-mitigated") == "challenge":  # noqa: PLR2004
        return Judgement(Verdict.INCONCLUSIVE, "the edge challenges it, before Access is asked")
    return _exposed(answer, "")


def _exposed(answer: Answer, how: str) -> Judgement:
    reason = f"{how}: {answer.status}" if how else f"the origin answers: {answer.status}"
    if answer.status in (401, 403):
        what = how or "refuses by itself"
        reason = f"EDGE_OFF_ORIGIN_HOLDING: the origin {what}: {answer.status}"
    elif _is_down(answer.status):
        reason = f"Access lets it through to a tunnel or an origin that fails: {answer.status}"
    return Judgement(Verdict.EXPOSED, reason)


def _is_down(status: int) -> bool:
    """Tell whether a status says that tunnel or origin cannot be reached."""
    return status in (502, 503, 504) or 520 <= status <= 530  # noqa: PLR2004


def _degraded(reason: str) -> Judgement:
    return Judgement(Verdict.WRONG_APP, f"DEGRADED: {reason}")


def attestation(body: str) -> dict[str, Any] | None:
    """Read what a preview says of itself; None is something else, however it is written."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and said.get("mode") == "preview" else None


def _mark_of_origin(answer: Answer) -> str:
    """Say by what an answer shows that it comes from behind Access."""
    if answer.values("x-origin-access"):
        return "says x-origin-access"
    if any(name.startswith("x-envoy-") for name, _ in answer.headers):
        return "is Envoy"
    if any(value.lower().startswith("bearer") for value in answer.values("www-authenticate")):
        return "asks for a bearer token"
    if answer.status in (401, 403) and answer.body.startswith(_ENVOY_REFUSALS):
        return "is Envoy, which judges the token"
    return ""


def _resource(challenge: str, host: str) -> bool:
    """Tell whether a challenge of Access names this host and no other."""
    scheme, _, rest = challenge.partition(" ")
    named = re.findall(r'(?:^|[\s,])resource_metadata="([^"]*)"', rest)
    wanted = f"https://{host}{_RESOURCE}"
    return (
        scheme.lower() == "cloudflare-access"
        and len(named) == 1
        and (named[0] == wanted or named[0].startswith(f"{wanted}/"))
    )


def _split(url: str) -> SplitResult | None:
    """Split a URL; one with white space, which a browser would leave out, is none."""
    if not re.fullmatch(r"[!-~]+", url):
        return None
    try:
        return urlsplit(url)
    except ValueError:
        return None
