"""What the report of `monolith preview check-access` proves."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from preview.rules import Access

LONGEST = timedelta(minutes=30)
"""How old a proof may be."""
_CLOCKS = timedelta(minutes=5)
"""How far our clock and GitHub's may be apart."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known about Access, and why no more than that."""

    access: Access
    why: str


def read(report: Path | None, wildcard: str, now: datetime) -> Proof:
    """
    Judge a report. Only a fresh one about our own names proves anything.

    One that says EXPOSED is believed whatever else is in it, however old it is.
    """
    if report is None:
        return Proof(Access.UNPROVEN, "no report of check-access was given")
    try:
        said = json.loads(report.read_text())
        verdict = said["verdict"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return Proof(Access.UNPROVEN, f"{report} is no report ({type(error).__name__})")
    if verdict == "EXPOSED":
        return Proof(Access.EXPOSED, "check-access says EXPOSED")
    doubt = _doubt(said, wildcard, now)
    if doubt is None:
        return Proof(Access.PROVEN, "check-access says PROTECTED")
    return Proof(Access.UNPROVEN, doubt)


def _doubt(said: dict[str, Any], wildcard: str, now: datetime) -> str | None:
    if said["verdict"] != "PROTECTED":
        return f"check-access says {said['verdict']}"
    if said.get("wildcard") != wildcard:
        return f"check-access was asked about {said.get('wildcard')}, not {wildcard}"
    try:
        age = now - datetime.fromisoformat(said["checked_at"])
    except (KeyError, TypeError, ValueError):
        return "check-access does not say when it looked"
    if not -_CLOCKS <= age <= LONGEST:
        return f"check-access looked at {said['checked_at']}, not within {LONGEST}"
    return None
