"""The only module that writes the audit line and builds the attestation."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import structlog

from shared.database import Database
from shared.errors import AuditError
from shared.identity import Verdict
from shared.settings import Settings

log = structlog.get_logger()


def audit_record(settings: Settings, database: Database | None = None) -> dict[str, Any]:
    """
    Say what this start is: mode, startup points with their decisions, database and verdict.

    The last entry, `digest`, is the SHA-256 of all the others as JSON with
    sorted keys and no white space.
    """
    facts = database.facts.values() if database else ()
    record: dict[str, Any] = {
        "mode": "preview" if settings.pr_env else "production",
        "pr_number": settings.pr_number or (database.expected.number if database else None),
        "head_sha": settings.head_sha,
        "startup_points": [asdict(decision) for decision in settings.guard.decisions],
        "database": {
            "verdict": database.verdict if database else Verdict.UNABLE,
            "facts": [asdict(fact) for fact in facts],
        },
        "dropped_credentials": list(settings.dropped),
    }
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return record | {"digest": f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"}


def audit_line(record: dict[str, Any]) -> str:
    """Put an audit record into one line for people."""
    pr = f" {record['pr_number']}" if record["pr_number"] else ""
    points = [
        f"{entry['point']} {'enabled' if entry['runs'] else 'disabled'} ({entry['reason']})"
        for entry in record["startup_points"]
    ]
    found = {fact["name"]: fact["found"] for fact in record["database"]["facts"]}
    database = f"database {found.get('cluster_name', found.get('host', 'unknown'))!r}"
    return ", ".join(
        [f"{record['mode']}{pr}", *points, f"{database} {record['database']['verdict']}", record["digest"]]
    )


def write_audit_line(record: dict[str, Any]) -> None:
    """
    Write the audit line down.

    Raises:
        AuditError: it could not be written, so nothing may start.
    """
    try:
        log.info(f"audit: {audit_line(record)}", **record)
    except OSError as error:
        reason = str(error)
    else:
        return
    raise AuditError(reason)
