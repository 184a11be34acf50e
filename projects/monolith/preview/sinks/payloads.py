"""What Discord's objects look like to a program."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

TOKEN = "good-token"  # noqa: S105  the only token that the Discord on loopback knows
BOT: dict[str, Any] = {
    "id": "100",
    "username": "monolith",
    "discriminator": "0",
    "avatar": None,
    "bot": True,
}
PERSON: dict[str, Any] = {"id": "200", "username": "ada", "discriminator": "0", "avatar": None}
CHANNEL = "300"

_EPOCH_MS = 1_420_070_400_000  # Discord's time begins with 2015
_LISTS = ("attachments", "embeds", "mentions", "mention_roles", "components")


def snowflakes() -> Iterator[str]:
    """Yield ids as Discord makes them: time in milliseconds, then a counter."""
    for count in itertools.count():
        yield str((int(time.time() * 1000) - _EPOCH_MS) << 22 | count % 4096)


def message(number: str, channel: str, author: dict[str, Any], content: str) -> dict[str, Any]:
    """Return a message of now."""
    return {key: [] for key in _LISTS} | {
        "id": number,
        "channel_id": channel,
        "author": author,
        "content": content,
        "timestamp": datetime.now(UTC).isoformat(),
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "pinned": False,
        "type": 0,
    }


def interaction(number: str, query: str) -> dict[str, Any]:
    """Return a person's use of /notes."""
    options = [{"name": "query", "type": 3, "value": query}]
    return {
        "id": number,
        "application_id": BOT["id"],
        "token": f"token-of-{number}",
        "type": 2,
        "version": 1,
        "data": {"id": "1", "name": "notes", "type": 1, "options": options},
        "user": PERSON,
        "channel_id": CHANNEL,
        "entitlements": [],
        "attachment_size_limit": 0,
    }


def application() -> dict[str, Any]:
    """Return the application that the bot belongs to."""
    return {
        "id": BOT["id"],
        "name": "monolith",
        "description": "",
        "icon": None,
        "bot_public": False,
        "bot_require_code_grant": False,
        "verify_key": "",
        "summary": "",
        "flags": 0,
        "owner": PERSON,
        "team": None,
    }


def command(number: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a slash command as it was registered."""
    ids = {"id": number, "application_id": BOT["id"], "version": "1"}
    return ids | {"default_member_permissions": None} | entry


def ready(session: str, resume_url: str) -> dict[str, Any]:
    """Return what the gateway says to a bot that has identified itself."""
    return {
        "v": 10,
        "user": BOT,
        "guilds": [],
        "session_id": session,
        "resume_gateway_url": resume_url,
        "application": {"id": BOT["id"], "flags": 0},
        "shard": [0, 1],
    }
