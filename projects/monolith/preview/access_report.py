"""The only module that says what a check has shown: as JSON, and as a table for people."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from rich.markup import escape
from rich.table import Table

from preview.access_hosts import Kind
from preview.access_verdict import Judgement, Verdict, worst
from preview.console import Console

METADATA = "metadata"
"""The probe that an origin cannot answer."""

_MEANINGS = {
    Verdict.PROTECTED: "Access is in front of every name that was asked",
    Verdict.EXPOSED: "something is reached without Access. Take the previews away, with --shut, "
    "then close what the table names",
    Verdict.WRONG_APP: "Access is in front, and not as it should be. Correct what the table names",
    Verdict.INCONCLUSIVE: "it was not proven that Access is in front. "
    "Correct what the table names, then run it again",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What one probe, or one assertion, showed."""

    probe: str
    verdict: Verdict
    reason: str

    @classmethod
    def of(cls, probe: str, judgement: Judgement) -> Self:
        """Name what was judged."""
        return cls(probe, judgement.verdict, judgement.reason)


@dataclass(frozen=True, slots=True)
class HostReport:
    """One name, and what every probe of it showed."""

    host: str
    kind: Kind
    probes: tuple[Found, ...]

    @property
    def verdict(self) -> Verdict:
        """The gravest of its probes; Access's own word is one of them, but for names aside."""
        signed = self.kind is Kind.ASIDE or any(found.probe == METADATA for found in self.probes)
        return worst(found.verdict for found in self.probes if signed)


@dataclass(frozen=True, slots=True)
class Report:
    """What a check has shown, and what it could not see."""

    checked_at: datetime
    wildcard: str
    hosts: tuple[HostReport, ...]
    control_plane: tuple[Found, ...] | None
    unseen: tuple[str, ...]
    shut: tuple[int, ...] | None = None

    @property
    def verdict(self) -> Verdict:
        """The gravest of all; no host asked is nothing shown, whatever Cloudflare was told."""
        told = [found.verdict for found in self.control_plane or ()]
        return worst([worst(host.verdict for host in self.hosts), *told])

    def facts(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {
            "verdict": self.verdict,
            "checked_at": self.checked_at.isoformat(),
            "wildcard": self.wildcard,
            "hosts": [
                {
                    "host": host.host,
                    "kind": host.kind,
                    "verdict": host.verdict,
                    "probes": [asdict(found) for found in host.probes],
                }
                for host in self.hosts
            ],
            "control_plane": self.control_plane and [asdict(found) for found in self.control_plane],
            "unseen": list(self.unseen),
            "shut": self.shut,
        }

    def show(self, console: Console) -> None:
        """Show it to a person."""
        table = Table(title=f"Cloudflare Access before {self.wildcard}", box=None)
        for column in ("host", "verdict", "why"):
            table.add_column(column, overflow="fold")
        for row in self.rows():
            table.add_row(*map(escape, row))
        console.table(table, [])
        for text in self.unseen:
            console.say(f"not seen: {text}")
        console.say(f"{self.verdict}: {_MEANINGS[self.verdict]}")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return a row for each host, and below it one for each way in which it was wrong."""
        reports = [(host.host, host.verdict, host.probes) for host in self.hosts]
        if self.control_plane is not None:
            told = worst(found.verdict for found in self.control_plane)
            reports.append(("control plane", told, self.control_plane))
        rows = []
        for name, verdict, probes in reports:
            wrong = [found for found in probes if found.verdict is not Verdict.PROTECTED]
            good = f"{len(probes) - len(wrong)} of {len(probes)} as they should"
            rows.append((name, str(verdict), good))
            rows += [(f"  {names}", *why) for why, names in _alike(wrong).items()]
        return rows


def _alike(wrong: list[Found]) -> dict[tuple[str, str], str]:
    """Name the probes that were wrong in the same way together, the first two of them by name."""
    names: dict[tuple[str, str], list[str]] = {}
    for found in wrong:
        names.setdefault((str(found.verdict), found.reason), []).append(found.probe)
    return {
        why: ", ".join(probes[:2]) + (f" and {len(probes) - 2} more" if probes[2:] else "")
        for why, probes in names.items()
    }
