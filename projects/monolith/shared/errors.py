"""Every error that is raised on purpose."""

import errno
from collections.abc import Iterable
from inspect import signature
from typing import ClassVar, Self


class MonolithError(Exception):
    """Something was refused on purpose, before it had any effect."""

    exit_code: ClassVar[int] = 78
    """EX_CONFIG of sysexits.h: the configuration is wrong, a restart does not help."""

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Be made anew from what it was made of, which it keeps under the same names."""
        names = signature(type(self)).parameters
        return type(self), tuple(getattr(self, name) for name in names)


class SettingsError(MonolithError):
    """The environment is missing, contradictory or misspelt; `problems` has a sentence each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"Refused to read the settings: {' '.join(self.problems)}")


class TargetError(MonolithError):
    """DATABASE_URL is not one that we understand to the last character; never echoes it."""

    def __init__(self, found: str, remedy: str) -> None:
        self.found = found
        self.remedy = remedy
        super().__init__(
            "Refused to read DATABASE_URL: expected postgresql://user:password@host:port/database "
            f"or postgresql://user:password@/database?host=/socket/directory, it {found}. {remedy}"
        )


class WrongDatabaseError(MonolithError):
    """A fact about the database belongs to another environment. Never retried."""

    def __init__(self, fact: str, expected: str, found: str, remedy: str) -> None:
        self.fact = fact
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(
            f"Refused to use the database: expected {fact} to be {expected}, "
            f"found {found!r}. {remedy}"
        )


class UnidentifiedDatabaseError(MonolithError):
    """The database could not be asked who it is, so nobody may use it."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(
            f"Cannot identify the database: expected {where} to say who it is, {reason}. "
            "Check that it runs and that DATABASE_URL names it, then restart."
        )


class NoAccessError(MonolithError):
    """A preview that others can reach would be open to all of them."""

    def __init__(self, found: str, fact: str) -> None:
        self.found = found
        self.fact = fact
        super().__init__(
            "Refused to open the preview: expected Cloudflare Access before what others can reach, "
            f"ACCESS_* is unset and {fact} is {found!r}. "
            "Set ACCESS_TEAM_DOMAIN, ACCESS_AUD, ACCESS_EMAILS and ACCESS_SERVICE_CLIENTS."
        )


class ListenError(MonolithError):
    """The address to listen on cannot be had."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host = host
        self.port = port
        self.reason = reason
        super().__init__(
            f"Refused to listen: expected {host} port {port} to be free and ours, the system says "
            f"{reason}. Correct LISTEN_HOST and LISTEN_PORT, or end what listens there."
        )


class StartupPointError(MonolithError):
    """A startup point that must run could not be started, so nothing runs."""

    def __init__(self, point: str, reason: str) -> None:
        self.point = point
        self.reason = reason
        super().__init__(
            f"Cannot start the {point}: expected the database to be ready for it, "
            f"it says {reason}. Apply the migrations, then restart."
        )


class WorkingTreeError(MonolithError):
    """The vault's working tree has no place, so nothing runs."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            "Cannot make the vault's working tree: expected a directory for temporary files, "
            f"the system says {reason}. Point TMPDIR at one that can be written, then restart."
        )


class NeutralizeError(MonolithError):
    """The database may not be neutralised, or still is not; nothing of it was changed."""

    def __init__(self, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"Refused to neutralise the database: expected {expected}, {found}. "
            "Run it in a preview, and keep neutralize.sql in step with the schema."
        )


class MutedError(MonolithError):
    """An act was asked for whose startup point the guard has muted."""

    def __init__(self, point: str, reason: str) -> None:
        self.point = point
        self.reason = reason
        super().__init__(
            f"Refused to act: expected the {point} to run, the guard says it is muted ({reason}). "
            "Do it in production."
        )


class OutboundRefusedError(MonolithError, PermissionError):
    """A preview's code asked for what only production may do; libraries see an OSError (EPERM)."""

    def __init__(self, act: str, allowed: str, remedy: str) -> None:
        self.act = act
        self.allowed = allowed
        self.remedy = remedy
        message = (
            f"Refused to reach out: expected nothing but {allowed}, "
            f"the code asks to {act}. {remedy}"
        )
        super().__init__(errno.EPERM, message)

    def __str__(self) -> str:
        """Return the message without the number that an OSError puts before it."""
        return str(self.strerror)


class UnguardedError(MonolithError):
    """A preview would serve where its tripwire sees nothing."""

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            "Refused to serve a preview: expected its tripwire to be armed and asyncio's own event "
            f"loop, the process says {found}. Start it with `monolith serve`."
        )


class SealError(MonolithError):
    """PR_ENV_SEAL=required, and the kernel does not seal."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            "Refused to start unsealed: expected Landlock with network rules, "
            f"the system says {reason}. "
            "Run it on Linux 6.7 or newer, where nothing forbids Landlock, before any thread."
        )


class PollError(MonolithError):
    """Repositories of the changelog could not be polled; `failing` has each with the reason."""

    def __init__(self, failing: tuple[tuple[str, str], ...]) -> None:
        self.failing = failing
        found = ", ".join(f"{name}: {reason}" for name, reason in failing)
        super().__init__(
            f"Cannot poll the repositories: expected GitHub to list their commits, it says {found}."
            " Check CHANGELOG_REPOSITORIES and what GITHUB_TOKEN may read."
        )


class VaultError(MonolithError):
    """Git or the vault's remote said no; the next run begins anew."""

    def __init__(self, verb: str, reason: str) -> None:
        self.verb = verb
        self.reason = reason
        super().__init__(
            f"Cannot push the vault: expected git {verb} to succeed, git says {reason}. "
            "Check VAULT_GIT_REMOTE, VAULT_GIT_BRANCH and who may write there."
        )


class AuditError(MonolithError):
    """The audit line could not be written, so nothing may start."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"Refused to start: expected to write the audit line, the log says {reason}. "
            "Give the process a standard error that takes writes, then restart."
        )
