"""The only module that speaks to git; it starts no program itself."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from shared.errors import VaultError

LOCAL_SECONDS = 60.0
NETWORK_SECONDS = 120.0

_NAME, _PASSWORD = "MONOLITH_GIT_NAME", "MONOLITH_GIT_PASSWORD"  # noqa: S105  variables' names
_HELPER = (
    f"""!f() {{ test "$1" != get || """
    f"""printf 'username=%s\\npassword=%s\\n' "${_NAME}" "${_PASSWORD}"; }}; f"""
)
_ALWAYS = {
    "core.hooksPath": os.devnull,
    "core.symlinks": "false",
    "gc.autoDetach": "false",
    "maintenance.autoDetach": "false",
    "user.name": "monolith",
    "user.email": "monolith@localhost",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program has left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Command:
    """
    A program to run to its end.

    Args:
        environment: all of it.
        seconds: after which it is killed, with what it has started.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    seconds: float


Run = Callable[[Command], Awaitable[Ended]]
"""Runs a program, or raises TimeoutError; whoever cancels it ends the program, too."""


@dataclass(frozen=True, slots=True)
class Remote:
    """
    A git remote, and one branch of it.

    Args:
        url: without a password.
        name, password: what `git` is to answer when the remote asks who it is.
    """

    url: str
    branch: str
    name: SecretStr | None = None
    password: SecretStr | None = None

    @classmethod
    def read(cls, given: SecretStr, branch: str) -> Self:
        """Part what is secret about a remote from its address."""
        url = given.get_secret_value()
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
            return cls(url, branch)
        who, _, host = parts.netloc.rpartition("@")
        name, _, password = who.partition(":")
        bare = urlunsplit(parts._replace(netloc=host))
        return cls(bare, branch, SecretStr(unquote(name)), SecretStr(unquote(password)))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold."""
        return tuple(s.get_secret_value() for s in (self.password, self.name) if s)

    def configuration(self) -> dict[str, str]:
        """Return what git's configuration says of the remote; the secrets are not in it."""
        configured = {"remote.origin.url": self.url}
        if self.name is not None:
            parts = urlsplit(self.url)
            configured[f"credential.{parts.scheme}://{parts.netloc}.helper"] = _HELPER
        return configured

    def environment(self) -> dict[str, str]:
        """Return the variables that git's helper reads."""
        if self.name is None or self.password is None:
            return {}
        return {_NAME: self.name.get_secret_value(), _PASSWORD: self.password.get_secret_value()}


@dataclass(frozen=True, slots=True)
class WorkingTree:
    """
    A directory in which the remote's branch is checked out.

    No secret gets into an argument, a file or a message. No hook, no user's and no
    system's configuration has any effect, nothing is asked of a terminal, and a link in the
    remote's tree is a plain file here.

    Args:
        inherited: variables that every program gets, such as PATH.
    """

    directory: Path
    remote: Remote
    run: Run = field(repr=False)
    inherited: Mapping[str, str] = field(repr=False)

    async def take_over(self) -> None:
        """Make the directory what the remote's branch is now, or empty where there is none."""
        branch = f"refs/heads/{self.remote.branch}"
        here = f"refs/remotes/origin/{self.remote.branch}"
        await self._git("init", "--quiet", "--initial-branch", self.remote.branch)
        if (await self._git("ls-remote", "origin", branch, seconds=NETWORK_SECONDS)).out:
            fetch = ("fetch", "--quiet", "--no-tags", "--depth=1", "origin", f"+{branch}:{here}")
            await self._git(*fetch, seconds=NETWORK_SECONDS)
            await self._git("reset", "--quiet", "--hard", here)
        else:
            await self._git("update-ref", "-d", branch)
            await self._git("read-tree", "--empty")
        await self._git("clean", "--quiet", "-ffdx")

    async def commit(self, message: str) -> bool:
        """Commit what differs; False where nothing does."""
        await self._git("add", "--all", "--force", ".")
        if not (await self._git("status", "--porcelain")).out:
            return False
        await self._git("commit", "--quiet", "--no-verify", "--message", message)
        return True

    async def push(self) -> str:
        """Push the commit; returns why the remote rejected it, or nothing."""
        refs = f"HEAD:refs/heads/{self.remote.branch}"
        ended = await self._ended("push", "--porcelain", "origin", refs, seconds=NETWORK_SECONDS)
        rejected = [line for line in ended.out.splitlines() if line.startswith("!")]
        if ended.code and not rejected:
            raise self._error(verb="push", ended=ended)
        return self._without_secrets(" ".join(rejected).replace("\t", " "))

    async def _git(self, *arguments: str, seconds: float = LOCAL_SECONDS) -> Ended:
        ended = await self._ended(*arguments, seconds=seconds)
        if ended.code:
            raise self._error(arguments[0], ended)
        return ended

    async def _ended(self, *arguments: str, seconds: float) -> Ended:
        command = Command(("git", *arguments), self._environment(), self.directory, seconds)
        try:
            return await self.run(command)
        except TimeoutError:
            reason = f"nothing for {seconds:g} s"
        except OSError as error:
            reason = f"that it cannot be started: {error.strerror}"
        raise VaultError(arguments[0], reason)

    def _environment(self) -> dict[str, str]:
        configuration = _ALWAYS | self.remote.configuration()
        numbered = {
            f"GIT_CONFIG_{part}_{i}": text
            for i, pair in enumerate(configuration.items())
            for part, text in zip(("KEY", "VALUE"), pair, strict=True)
        }
        return {
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            **self.inherited,
            **self.remote.environment(),
            **numbered,
            "GIT_CEILING_DIRECTORIES": str(self.directory.parent),
            "GIT_CONFIG_COUNT": str(len(configuration)),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }

    def _error(self, verb: str, ended: Ended) -> VaultError:
        said = ended.err.strip() or ended.out.strip() or f"nothing, and ends with {ended.code}"
        return VaultError(verb, self._without_secrets(" ".join(said.split()[:60])))

    def _without_secrets(self, text: str) -> str:
        for secret in self.remote.secrets:
            text = text.replace(secret, "…")
        return text
