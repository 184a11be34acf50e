import hashlib
import json

import pytest
from structlog.testing import capture_logs

from shared.audit import audit_line, audit_record, write_audit, write_refusal
from shared.database import Database
from shared.errors import AuditError, MutedError
from shared.guard import StartupPoint
from shared.seal import Seal
from shared.testing import as_preview, as_production
from shared.tripwire import Allowed, arm
from tests.environment import ACCESS, audit_hooks, full_log

CLONE = "postgresql://app:hunter2@monolith-pg-pr-7-rw:5432/monolith"


@pytest.fixture
def preview():
    """Settings of preview 7 that decided every point, and its database, judged but not asked."""
    with as_preview(DATABASE_URL=CLONE, HEAD_SHA="a" * 40, GITHUB_TOKEN="x") as settings:
        database = Database.from_settings(settings)
    for point in StartupPoint:
        settings.guard.decide(point)
    database.judge_target()
    return settings, database


def test_record(preview):
    """
    The audit record says mode, PR, commit, decisions, facts with verdicts, what was dropped.
    """
    record = audit_record(*preview)

    assert {key: value for key, value in record.items() if key != "digest"} == {
        "mode": "preview",
        "pr_number": 7,
        "head_sha": "a" * 40,
        "access": None,
        "outbound": {
            "tripwire": {"armed": False, "allowed": []},
            "seal": {"landlock": None, "ports": [], "reason": "nobody has asked"},
            "network_policy": "not visible from inside",
            "blind_spots": ["everything"],
        },
        "startup_points": [
            {"point": "scheduler loop", "runs": False, "reason": "PR_ENV"},
            {"point": "discord bot", "runs": False, "reason": "PR_ENV"},
        ],
        "database": {
            "verdict": "UNABLE",
            "facts": [
                {
                    "name": "host",
                    "expected": "the host of monolith-pg-pr-7",
                    "found": "monolith-pg-pr-7-rw",
                    "verdict": "MATCH",
                }
            ],
        },
        "dropped_credentials": ["GITHUB_TOKEN"],
    }


def test_digest(preview):
    """
    The digest is the SHA-256 of the rest of the record as JSON, sorted and without white space.
    """
    record = audit_record(*preview)
    digest = record.pop("digest")
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))

    assert digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert audit_record(None, None)["digest"] != digest


def test_line(preview):
    """
    The audit line is one line: mode, decisions, database, verdict, what was dropped, digest.
    """
    record = audit_record(*preview)

    assert audit_line(record) == (
        "preview 7, scheduler loop disabled (PR_ENV), discord bot disabled (PR_ENV), "
        "database 'monolith-pg-pr-7-rw' UNABLE, tripwire unarmed, unsealed (nobody has asked), "
        f"dropped GITHUB_TOKEN, {record['digest']}"
    )


def test_record_of_an_armed_preview(preview):
    """
    Where the tripwire is armed and the process is sealed, record and line say with which ports.
    """
    seal = Seal(7, (443, 5432))
    with audit_hooks():
        arm(Allowed((("monolith-pg-pr-7-rw", 5432), ("a.example", 443))), seal)
        record = audit_record(*preview)

    spots = record["outbound"].pop("blind_spots")
    assert spots[0].startswith("TCP to port 443 and 5432 of any host ")
    assert record["outbound"] == {
        "tripwire": {"armed": True, "allowed": ["monolith-pg-pr-7-rw:5432", "a.example:443"]},
        "seal": {"landlock": 7, "ports": [443, 5432], "reason": ""},
        "network_policy": "not visible from inside",
    }
    assert f", tripwire armed, {seal}, dropped GITHUB_TOKEN, sha256:" in audit_line(record)


def test_line_with_access():
    """
    The audit line of a preview behind Cloudflare Access says whose word it takes.
    """
    with as_preview(**ACCESS) as settings:
        record = audit_record(settings, Database.from_settings(settings))

    assert record["access"] == "https://team.cloudflareaccess.com"
    assert ", access https://team.cloudflareaccess.com, sha256:" in audit_line(record)


def test_line_of_production():
    """
    Production's audit line says what runs and what lacks a setting, and the name that answered.
    """
    with as_production() as settings:
        database = Database.from_settings(settings)
    for point in StartupPoint:
        settings.guard.decide(point)
    database.facts["cluster_name"] = database.expected.judge_server("monolith-pg")
    record = audit_record(settings, database)

    assert audit_line(record) == (
        "production, scheduler loop enabled (production), discord bot disabled (no "
        f"DISCORD_BOT_TOKEN), database 'monolith-pg' MATCH, {record['digest']}"
    )


def test_unknown():
    """
    Before anything is known the record says so, and claims nothing.
    """
    record = audit_record(None, None)

    assert record.pop("digest").startswith("sha256:")
    assert record == {
        "mode": "unknown",
        "pr_number": None,
        "head_sha": None,
        "access": None,
        "outbound": None,
        "startup_points": [],
        "database": {"verdict": "UNABLE", "facts": []},
        "dropped_credentials": [],
    }
    assert audit_line(audit_record(None, None)).startswith("unknown, database 'unknown' UNABLE, ")


def test_exact_lines(preview):
    """
    The log gets exactly one line a startup point, then the audit line with the whole record.
    """
    record = audit_record(*preview)
    with capture_logs() as logged:
        write_audit(record)

    assert [line.pop("log_level") for line in logged] == ["info"] * 3
    assert logged[:2] == [
        {"event": "scheduler loop disabled (PR_ENV)"},
        {"event": "discord bot disabled (PR_ENV)"},
    ]
    assert logged[2] == {"event": f"audit: {audit_line(record)}"} | record


def test_refusal(preview):
    """
    A refusal is one error line that names the step and the cause, and the audit line.
    """
    record = audit_record(*preview)
    error = MutedError("discord bot", "PR_ENV")
    with capture_logs() as logged:
        write_refusal("settings", error, record)

    refused = {"event": "refused to start", "step": "settings", "error": str(error)}
    assert logged == [
        refused | {"log_level": "error"},
        {"event": f"audit: {audit_line(record)}", "log_level": "error"} | record,
    ]


def test_log_that_takes_nothing(preview):
    """
    A log that cannot be written is an error of its own, which says why.
    """
    with full_log(), pytest.raises(AuditError, match="No space left on device"):
        write_audit(audit_record(*preview))
