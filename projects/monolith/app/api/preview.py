"""The attestation: what this process is, live."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse

from app.neutralize import neutralized
from app.resources import Given
from shared import tripwire
from shared.audit import audit_record
from shared.guard import StartupPoint

router = APIRouter(tags=["preview"])


@router.get("/", include_in_schema=False)
async def first_page() -> RedirectResponse:
    """Lead to the attestation."""
    return RedirectResponse("/api/preview")


@router.get("/api/preview")
async def attest(request: Request, given: Given) -> dict[str, Any]:
    """Say the audit record of this start, who asks, and what has been counted since."""
    record = audit_record(given.settings, given.database)
    armed, now = tripwire.armed(), datetime.now(UTC)
    return record | {
        "identity": getattr(request.state, "identity", None),
        "neutralized": await neutralized(given.pool),
        "counters": {
            "connections_identified": given.database.identified,
            "connections_refused": given.database.refused,
            "startup_points_failed": {point: given.failures[point] for point in StartupPoint},
            "requests_refused": given.door.refused if given.door else {},
            "outbound_refused": armed.refused if armed else {},
            "acts_refused": given.settings.guard.refusals,
        },
        "started_at": given.started_at,
        "uptime_seconds": round((now - given.started_at).total_seconds(), 3),
    }
