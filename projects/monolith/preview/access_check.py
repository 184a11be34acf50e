"""The only module that runs a check of the door: it reads what to ask, asks, and has it judged."""

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import httpx2
import jwt
from pydantic import SecretStr

from preview.access_api import Api
from preview.access_control_plane import Admitted, ControlPlane
from preview.access_edge import Edge, Internet, Transports
from preview.access_hosts import Host, Kind, Wildcard
from preview.access_probes import Guest, Probe, Probes
from preview.access_report import METADATA, Found, HostReport, Report
from preview.access_verdict import Answer, Expected, Judgement, Verdict, judge_metadata
from preview.console import Console
from preview.errors import AccessCheckError
from shared.access_keys import fetch_from

_TEAM = re.compile(r"https://(?P<host>[a-z0-9.-]+)")
_AUDIENCE = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Question:
    """
    What to check, judged before anything is asked.

    Raises:
        AccessCheckError: a part is missing or malformed, or belongs to another that is missing.
    """

    wildcard: Wildcard
    live: tuple[str, ...]
    expected: Expected
    guest: Guest
    admitted: Admitted
    api_token: SecretStr | None = None
    account: str = ""
    zone: str = ""
    hosts: tuple[Host, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", tuple(self.wildcard.hosts(self.live)))
        if bool(self.guest.client_id) is not bool(self.guest.client_secret):
            found, pair = "one of them", "CF_ACCESS_CLIENT_ID and CF_ACCESS_CLIENT_SECRET"
            raise AccessCheckError(found, pair, "set together")
        told = {
            "CLOUDFLARE_ACCOUNT_ID": self.account,
            "CLOUDFLARE_ZONE_ID": self.zone,
            "ACCESS_EMAILS": self.admitted.emails,
            "ACCESS_SERVICE_CLIENTS": self.admitted.clients,
        }
        lacking = ", ".join(name for name, value in told.items() if not value)
        if self.api_token and lacking:
            found = "nothing"
            raise AccessCheckError(found, lacking, "set beside CLOUDFLARE_API_TOKEN")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """Read it from what the command was given."""
        wildcard = Wildcard.parse(given["wildcard"])
        team = _TEAM.fullmatch(given["team_domain"])
        if team is None:
            shape = "https:// and the team's domain, without a slash at the end"
            raise AccessCheckError(repr(given["team_domain"]), "ACCESS_TEAM_DOMAIN", shape)
        if not _AUDIENCE.fullmatch(given["aud"]):
            raise AccessCheckError(repr(given["aud"]), "ACCESS_AUD", "64 hexadecimal digits")
        application = given["application"] or str(wildcard)
        return cls(
            wildcard=wildcard,
            live=given["hosts"],
            expected=Expected(team["host"], given["aud"], application),
            guest=Guest(
                _plain(given["cf_access_client_id"]),
                _plain(given["cf_access_client_secret"]),
                _plain(given["cf_access_other_token"]),
            ),
            admitted=Admitted(_set(given["emails"].lower()), _set(given["service_clients"])),
            api_token=given["cloudflare_api_token"],
            account=given["account"],
            zone=given["zone"],
        )

    def unseen(self) -> tuple[str, ...]:
        """Say what is not asked for want of something to ask with."""
        ifs = {
            "whether a service token is let in: CF_ACCESS_CLIENT_ID is not set": (
                self.guest.client_id
            ),
            "whether another application's token is: CF_ACCESS_OTHER_TOKEN is not set": (
                self.guest.other_token
            ),
            "what the policies say: CLOUDFLARE_API_TOKEN is not set": self.api_token,
        }
        return tuple(text for text, given in ifs.items() if not given)


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _set(text: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, text.split(","))))


class Check:
    """Asks every host, and Cloudflare itself where it was given a token for that."""

    def __init__(
        self, question: Question, console: Console, transports: Transports | None = None
    ) -> None:
        self._question = question
        self._console = console
        self._edge = Edge(transports or Internet())
        self._probes = Probes(question.expected, question.guest)

    async def run(self) -> Report:
        """Ask, and report what was found; that nothing can be reached is a finding, too."""
        began = datetime.now(UTC)
        keys = await self._keys()
        hosts = [await self._host(host, keys) for host in self._question.hosts]
        told = await self._control_plane()
        return Report(
            began, str(self._question.wildcard), tuple(hosts), told, self._question.unseen()
        )

    async def _keys(self) -> dict[str, jwt.PyJWK]:
        with self._console.step("fetch the team's keys"):
            try:
                return await fetch_from(
                    f"https://{self._question.expected.team}", self._edge.client
                )()
            except (httpx2.HTTPError, OSError, ValueError) as error:
                self._console.say(f"the team's keys cannot be had: {type(error).__name__}: {error}")
                return {}

    async def _host(self, host: Host, keys: dict[str, jwt.PyJWK]) -> HostReport:
        with self._console.step(f"probe {host.name}"):
            signed, metadata = [], ""
            if host.kind is not Kind.ASIDE:
                judgement, metadata = await self._metadata(host, keys)
                signed.append(Found.of(METADATA, judgement))
            probes = self._probes.knowing(metadata).of(host)
            done = self._counted(len(probes))
            asked = await asyncio.gather(*(self._ask(probe, done) for probe in probes))
        return HostReport(host.name, host.kind, (*signed, *asked))

    async def _metadata(self, host: Host, keys: dict[str, jwt.PyJWK]) -> tuple[Judgement, str]:
        asking = (("cf-access-metadata-request", "true"),)
        url = f"https://{host.name}/?check={secrets.token_hex(8)}"
        heard = await self._edge.ask("HEAD", url, asking)
        if not isinstance(heard, Answer):
            return Judgement(Verdict.INCONCLUSIVE, heard.reason), ""
        judgement = judge_metadata(heard, host.name, self._question.expected, keys)
        return judgement, heard.only("cf-access-metadata")

    async def _ask(self, probe: Probe, done: Callable[[], None]) -> Found:
        heard = await self._edge.ask(
            probe.method, probe.url(), probe.headers, verified=probe.verified
        )
        done()
        return Found.of(probe.name, probe.found(heard))

    def _counted(self, total: int) -> Callable[[], None]:
        asked = iter(range(1, total + 1))
        return lambda: self._console.counted(next(asked), total)

    async def _control_plane(self) -> tuple[Found, ...] | None:
        question = self._question
        if question.api_token is None:
            return None
        api = Api(self._edge, question.api_token, question.account, question.zone)
        plane = ControlPlane(api, question.wildcard, question.expected, question.admitted)
        with self._console.step("read what Cloudflare was told"):
            return tuple(Found.of(name, judged) for name, judged in await plane.judge())
