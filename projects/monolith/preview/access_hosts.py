"""The only module that knows which names a check asks."""

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from preview.errors import AccessCheckError

_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]"
_WILDCARD = re.compile(rf"(?P<label>[a-z0-9-]*\*[a-z0-9-]*)\.(?P<domain>{_DOMAIN})")


class Kind(StrEnum):
    """What a name is to the previews."""

    LIVE = "a preview"
    MADE_UP = "made up"
    ASIDE = "aside"
    """Nobody should get anywhere by it: a deeper name, or the bare domain."""


@dataclass(frozen=True, slots=True)
class Host:
    """One name that is asked."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Wildcard:
    """The names of previews: `*.pr.example.com`, `pr-*.example.com` or `*.example.dev`."""

    label: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read one.

        Raises:
            AccessCheckError: it is none.
        """
        match = _WILDCARD.fullmatch(text)
        if match is None:
            raise AccessCheckError(repr(text), "--wildcard", "one * in the first of several labels")
        return cls(match["label"], match["domain"])

    def __str__(self) -> str:
        return f"{self.label}.{self.domain}"

    def covers(self, host: str) -> bool:
        """Tell whether a host is one of these names; a deeper one is not."""
        label = re.escape(self.label).replace(r"\*", "[a-z0-9-]+")
        return re.fullmatch(rf"{label}\.{re.escape(self.domain)}", host) is not None

    def hosts(self, live: tuple[str, ...]) -> list[Host]:
        """
        List the previews, and the names that a check makes up.

        Raises:
            AccessCheckError: a preview has another name, or there is nothing to prove it on.
        """
        for host in live:
            if not self.covers(host):
                raise AccessCheckError(repr(host), "HOST", f"a name like {self}")
        made_up = f"{self.label.replace('*', f'probe-{secrets.token_hex(8)}')}.{self.domain}"
        asked = [Host(name, Kind.LIVE) for name in dict.fromkeys(live)]
        if self.label == "*":
            asked.append(Host(made_up, Kind.MADE_UP))
            return [*asked, *_aside(asked), Host(self.domain, Kind.ASIDE)]
        if not live:  # DNS knows no such wildcard, so a name that nobody has leads nowhere
            found = "none"
            raise AccessCheckError(found, "HOST", f"a preview, where names are like {self}")
        return [*asked, Host(made_up, Kind.ASIDE), *_aside(asked)]


def _aside(hosts: list[Host]) -> list[Host]:
    return [Host(f"a.{host.name}", Kind.ASIDE) for host in hosts]
