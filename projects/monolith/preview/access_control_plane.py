"""The only module that knows what Cloudflare has to be told, which no request can see."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from preview.access_api import Api, Object, UnreadableError
from preview.access_hosts import Wildcard
from preview.access_verdict import Expected, Judgement, Verdict

SOON = timedelta(days=14)
DECISIONS = {"allow", "non_identity"}
RULES = {"email", "service_token", "group"}
"""What a policy may include; all else lets in people or machines that nobody has named."""

ADDRESSES = {"A", "AAAA", "CNAME"}
NOWHERE = ("AAAA", "100::")
"""Where names lead before they are opened, and when the door is shut at once: RFC 6666."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who may enter: people by email address, machines by the client id of a service token."""

    emails: frozenset[str]
    clients: frozenset[str]


@dataclass(slots=True)
class ControlPlane:
    """Judges what Cloudflare was told; what cannot be read is never good."""

    api: Api
    wildcard: Wildcard
    expected: Expected
    admitted: Admitted

    async def judge(self) -> list[tuple[str, Judgement]]:
        """Judge every assertion, in order."""
        assertions: dict[str, Callable[[], Awaitable[Judgement | None]]] = {
            "one application covers the wildcard": self._application,
            "no other application below it": self._no_other,
            "its audience": self._audience,
            "no preflight bypass": self._preflight,
            "its policies name who may enter": self._policies,
            "its policies let in exactly them": self._people_and_machines,
            "the service tokens last": self._tokens,
            "the edge has a certificate": self._certificate,
            "DNS leads to the tunnel, or nowhere": self._records,
            "the team": self._team,
            "service tokens are strict": self._strict,
        }
        return [(name, await _judged(ask)) for name, ask in assertions.items()]

    async def _ours(self) -> Object:
        apps = await self._covering()
        if len(apps) != 1:
            message = f"{len(apps)} applications cover {self.wildcard}"
            raise UnreadableError(message)
        return apps[0]

    async def _covering(self) -> list[Object]:
        apps = await self.api.of_account("access/apps")
        return [app for app in apps if str(self.wildcard) in _uris(app)]

    async def _application(self) -> Judgement | None:
        covering = await self._covering()
        if len(covering) != 1:
            names = ", ".join(str(app.get("name")) for app in covering) or "none does"
            return _exposed(f"expected one application for {self.wildcard}, found: {names}")
        wanted = {str(self.wildcard)}
        if self.wildcard.label == "*":  # DNS matches at any depth, Access matches one label
            wanted |= {f"*.{self.wildcard}", self.wildcard.domain}
        lacking = sorted(wanted - _uris(covering[0]))
        return _exposed(f"the application lacks {', '.join(lacking)}") if lacking else None

    async def _no_other(self) -> Judgement | None:
        ours = await self._ours()
        others = [app for app in await self.api.of_account("access/apps") if app is not ours]
        found = [uri for app in others for uri in sorted(_uris(app)) if self._overrides(uri)]
        if found:
            return _wrong_app(f"other applications take names of previews: {', '.join(found)}")
        return None

    def _overrides(self, uri: str) -> bool:
        """Tell whether an application for this would come before ours for some name."""
        host = uri.partition("/")[0]
        label, _, domain = host.partition(".")
        if self.wildcard.label == "*":
            return _is_below(host, self.wildcard.domain)
        return domain == self.wildcard.domain and label != "*" and _meet(label, self.wildcard.label)

    async def _audience(self) -> Judgement | None:
        found = (await self._ours())["aud"]
        return None if found == self.expected.audience else _wrong_app(f"it is {found!r}")

    async def _preflight(self) -> Judgement | None:
        bypassed = (await self._ours())["options_preflight_bypass"]
        if not isinstance(bypassed, bool):
            raise TypeError
        return _exposed("OPTIONS passes Access by") if bypassed else None

    async def _rules(self) -> list[tuple[str, Any]]:
        """List what the policies include, groups resolved."""
        policies = await self.api.of_account(f"access/apps/{(await self._ours())['id']}/policies")
        groups = {group["id"]: group for group in await self.api.of_account("access/groups")}
        waiting = [rule for policy in policies for rule in policy["include"]]
        found, seen = [], set()
        while waiting:
            for kind, what in waiting.pop().items():
                if kind != "group":
                    found.append((kind, what))
                elif what["id"] not in seen:
                    seen.add(what["id"])
                    waiting += groups[what["id"]]["include"]
        return found

    async def _policies(self) -> Judgement | None:
        policies = await self.api.of_account(f"access/apps/{(await self._ours())['id']}/policies")
        if wrong := sorted({str(policy["decision"]) for policy in policies} - DECISIONS):
            return _exposed(f"a policy decides {', '.join(wrong)}")
        if wrong := sorted({kind for kind, _ in await self._rules()} - RULES):
            return _exposed(f"a policy lets in by {', '.join(wrong)}")
        return None

    async def _people_and_machines(self) -> Judgement | None:
        rules = await self._rules()
        tokens = {token["id"]: token for token in await self._service_tokens()}
        emails = {rule["email"].lower() for kind, rule in rules if kind == "email"}
        clients = {
            str(tokens.get(rule["token_id"], {}).get("client_id", rule["token_id"]))
            for kind, rule in rules
            if kind == "service_token"
        }
        found, wanted = emails | clients, self.admitted.emails | self.admitted.clients
        if more := sorted(found - wanted):
            return _exposed(f"lets in {', '.join(more)}, too")
        if less := sorted(wanted - found):
            return _degraded(f"does not let in {', '.join(less)}")
        return None

    async def _service_tokens(self) -> list[Object]:
        return await self.api.of_account("access/service_tokens")

    async def _tokens(self) -> Judgement | None:
        tokens = {token["client_id"]: token for token in await self._service_tokens()}
        for client in sorted(self.admitted.clients):
            if client not in tokens or not tokens[client].get("enabled", True):
                return _degraded(f"{client} does not exist or is disabled")
            if _ends_soon(tokens[client]["expires_at"]):
                return _degraded(f"{client} ends on {tokens[client]['expires_at']}")
        return None

    async def _certificate(self) -> Judgement | None:
        name = f"*.{self.wildcard.domain}"
        packs = await self.api.of_zone("ssl/certificate_packs")
        covering = [pack for pack in packs if name in pack["hosts"] and pack["status"] == "active"]
        if not covering:
            return _degraded(f"no certificate pack that is active has {name}")
        ends = [one["expires_on"] for pack in covering for one in pack["certificates"]]
        return _degraded(f"it ends on {max(ends)}") if _ends_soon(max(ends)) else None

    async def _records(self) -> Judgement | None:
        records = [
            record for record in await self.api.of_zone("dns_records") if self._leads(record)
        ]
        addresses = [record for record in records if record["type"] in ADDRESSES]
        if past := _names(record for record in addresses if record["proxied"] is not True):
            return _exposed(f"past Cloudflare: {past}")
        if more := _names(record for record in records if not self._is_ours(record)):
            return _wrong_app(f"leads elsewhere: {more}")
        if self.wildcard.label == "*" and not records:
            return _degraded(f"DNS has no {self.wildcard}")
        return None

    def _leads(self, record: Object) -> bool:
        """Tell whether a record is for names of previews; a name with an underscore is no host."""
        name = record["name"]
        if self.wildcard.label == "*":
            return name.endswith(f".{self.wildcard.domain}") and not name.startswith("_")
        return any(self.wildcard.covers(name[at:]) for at in _starts_of_labels(name))

    def _is_ours(self, record: Object) -> bool:
        ours = self.wildcard.covers(record["name"]) or record["name"] == str(self.wildcard)
        if self.wildcard.label == "*":
            ours = record["name"] == str(self.wildcard)
        kind, content = record["type"], str(record["content"])
        tunnel = kind == "CNAME" and content.endswith(".cfargotunnel.com")
        return ours and (tunnel or (kind, content) == NOWHERE)

    async def _team(self) -> Judgement | None:
        found = await self._organization("auth_domain")
        return None if found == self.expected.team else _wrong_app(f"it is {found!r}")

    async def _strict(self) -> Judgement | None:
        if await self._organization("strict_service_token_auth") is True:
            return None
        return _degraded("a wrong service token gets the login of people")

    async def _organization(self, what: str) -> Any:
        return (await self.api.of_account("access/organizations"))[0].get(what)


async def _judged(ask: Callable[[], Awaitable[Judgement | None]]) -> Judgement:
    try:
        wrong = await ask()
    except UnreadableError as error:
        return Judgement(Verdict.INCONCLUSIVE, str(error))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"the API says something that we do not understand ({type(error).__name__})"
        return Judgement(Verdict.INCONCLUSIVE, reason)
    return wrong or Judgement(Verdict.PROTECTED, "as expected")


def _uris(app: Object) -> set[str]:
    """List what an application is for: hosts, with a path where it is for a path alone."""
    uris = {app.get("domain") or ""}
    uris |= set(app.get("self_hosted_domains") or ())
    uris |= {to.get("uri") or "" for to in app.get("destinations") or () if to["type"] == "public"}
    return {uri.removesuffix("/").lower() for uri in uris if uri}


def _is_below(host: str, domain: str) -> bool:
    """Tell whether a host, each label with one * at most, comes first for a name at or below it."""
    labels, wanted = host.split("."), domain.split(".")
    last = labels[-len(wanted) :]
    if len(last) < len(wanted) or not all(map(_meet, last, wanted)):
        return False
    return last == wanted or any(label != "*" for label in labels[: -len(wanted)])


def _meet(one: str, other: str) -> bool:
    """Tell whether some label is matched by both, each with one * at most."""
    (head, _, tail), (other_head, _, other_tail) = one.partition("*"), other.partition("*")
    if "*" not in one:
        return one.startswith(other_head) and one.endswith(other_tail)
    heads = head.startswith(other_head) or other_head.startswith(head)
    return heads and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _starts_of_labels(name: str) -> list[int]:
    return [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")]


def _names(records: Iterable[Object]) -> str:
    return ", ".join(sorted(f"{record['type']} {record['name']}" for record in records))


def _ends_soon(when: str) -> bool:
    return datetime.fromisoformat(when) - datetime.now(UTC) < SOON


def _exposed(reason: str) -> Judgement:
    return Judgement(Verdict.EXPOSED, reason)


def _wrong_app(reason: str) -> Judgement:
    return Judgement(Verdict.WRONG_APP, reason)


def _degraded(reason: str) -> Judgement:
    return _wrong_app(f"DEGRADED: {reason}")
