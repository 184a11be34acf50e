"""The only module that writes the audit line and builds the attestation."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import structlog

from shared import tripwire
from shared.database import Database
from shared.errors import AuditError, MonolithError
from shared.identity import Verdict
from shared.seal import Seal
from shared.settings import Settings

log = structlog.get_logger()


def audit_record(settings: Settings | None, database: Database | None) -> dict[str, Any]:
    """
    Say what this start is: mode, startup points with their decisions, database and verdict.

    What is not known yet is unknown, None or empty. The last entry, `digest`, is
    the SHA-256 of all the others as JSON with sorted keys and no white space.
    """
    record = _mode(settings) | {
        "outbound": _outbound() if settings and settings.pr_env else None,
        "pr_number": database.expected.number if database else None,
        "database": {
            "verdict": database.verdict if database else Verdict.UNABLE,
            "facts": [asdict(fact) for fact in database.facts.values()] if database else [],
        },
    }
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return record | {"digest": f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"}


def _mode(settings: Settings | None) -> dict[str, Any]:
    if settings is None:
        return {
            "mode": "unknown",
            "head_sha": None,
            "access": None,
            "startup_points": [],
            "dropped_credentials": [],
        }
    return {
        "mode": "preview" if settings.pr_env else "production",
        "head_sha": settings.head_sha,
        "access": settings.access_team_domain,
        "startup_points": [asdict(decision) for decision in settings.guard.decisions],
        "dropped_credentials": list(settings.dropped),
    }


def _outbound() -> dict[str, Any]:
    armed = tripwire.armed()
    seal = armed.seal if armed else Seal(reason="nobody has asked")
    return {
        "tripwire": {"armed": armed is not None, "allowed": armed.allowed.said if armed else []},
        "seal": asdict(seal) | {"ports": list(seal.ports)},
        "network_policy": "not visible from inside",
        "blind_spots": armed.blind_spots if armed else ["everything"],
    }


def audit_line(record: dict[str, Any]) -> str:
    """Put an audit record into one line for people."""
    pr = f" {record['pr_number']}" if record["pr_number"] else ""
    points = [_decided(point) for point in record["startup_points"]]
    found = {fact["name"]: fact["found"] for fact in record["database"]["facts"]}
    database = f"database {found.get('cluster_name', found.get('host', 'unknown'))!r}"
    return ", ".join(
        [
            f"{record['mode']}{pr}",
            *points,
            f"{database} {record['database']['verdict']}",
            *(_held(record["outbound"]) if record["outbound"] else []),
            *([f"access {record['access']}"] if record["access"] else []),
            *[f"dropped {name}" for name in record["dropped_credentials"]],
            record["digest"],
        ]
    )


def write_audit(record: dict[str, Any]) -> None:
    """
    Write a line for each startup point, and the audit line.

    Raises:
        AuditError: they could not be written, so nothing may start.
    """
    for point in record["startup_points"]:
        _write(log.info, _decided(point))
    _write(log.info, f"audit: {audit_line(record)}", **record)


def write_refusal(step: str, error: MonolithError, record: dict[str, Any]) -> None:
    """
    Write which step was refused and why, and the audit line.

    Raises:
        AuditError: they could not be written.
    """
    _write(log.error, "refused to start", step=step, error=str(error))
    _write(log.error, f"audit: {audit_line(record)}", **record)


def _write(write: Callable[..., None], event: str, **facts: Any) -> None:
    try:
        write(event, **facts)
    except OSError as error:
        reason = str(error)
    else:
        return
    raise AuditError(reason)


def _held(outbound: dict[str, Any]) -> tuple[str, str]:
    armed = "armed" if outbound["tripwire"]["armed"] else "unarmed"
    return f"tripwire {armed}", str(Seal(**outbound["seal"]))


def _decided(point: dict[str, Any]) -> str:
    return f"{point['point']} {'enabled' if point['runs'] else 'disabled'} ({point['reason']})"
