"""What a test of the guard has for its own: an environment, audit hooks, a log on a full disk."""

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import structlog

from shared import log
from shared.database import Database
from shared.settings import Settings
from shared.testing import SOURCE

ACCESS = {
    "ACCESS_TEAM_DOMAIN": "https://team.cloudflareaccess.com",
    "ACCESS_AUD": "a" * 64,
    "ACCESS_EMAILS": "ada@example.com, Grace@Example.com",
    "ACCESS_SERVICE_CLIENTS": "0123456789abcdef0123456789abcdef.access",
}


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Replace the whole environment, with a DATABASE_URL unless one is given."""
    with patch.dict(os.environ, {"DATABASE_URL": SOURCE, **variables}, clear=True):
        yield


def read(dsn: str, **variables: str) -> Database:
    """Return the database that an environment leads to; it is not connected to."""
    with environment(DATABASE_URL=dsn, **variables):
        return Database.from_settings(Settings())


class _Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


@contextmanager
def full_log() -> Iterator[None]:
    """Let the log be on a disk that is full."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log.set_up(_Full())
    try:
        yield
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def audit_hooks() -> Iterator[None]:
    """Let what a test arms hear of what the test itself audits only, and let it go at the end."""
    hooks: list[Callable[[str, tuple[Any, ...]], None]] = []

    def audit(event: str, *args: Any) -> None:
        for hook in hooks:
            hook(event, args)

    with patch("sys.addaudithook", hooks.append), patch("sys.audit", audit):
        yield
