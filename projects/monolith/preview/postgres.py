"""The only module that starts Postgres."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess  # noqa: TID251  the operator's side runs Postgres; no guard speaks here
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import asyncpg
from pydantic import SecretStr

from preview.binaries import Account, Binaries, die_with_parent
from preview.errors import (
    EngineError,
    ForeignEngineError,
    SocketPathError,
)
from shared.dsn import Target

SUPERUSER = "postgres"
APP = "app"
DATABASE = "monolith"
PORT = 5432
START_SECONDS = 60.0
STOP_SECONDS = 15.0
SOURCE_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "64MB",
    "max_connections": "50",
    "huge_pages": "off",
    "jit": "off",
}

_HBA = "local all all scram-sha-256\n"
_MACOS = sys.platform == "darwin"
_LOCALE = "C" if _MACOS else "C.UTF-8"
_LONGEST_SOCKET = 103 if _MACOS else 107
_POLL_SECONDS = 0.02
_NOT_UP_YET = (ConnectionError, FileNotFoundError, asyncpg.CannotConnectNowError, TimeoutError)


@dataclass(slots=True)
class Engine:
    """
    One Postgres: its data directory, its socket, its process.

    Only a process that is a postgres of exactly this data directory is ever
    signalled. Nobody gets in without a password, and only over the socket.

    Args:
        name: what it reports as cluster_name; also the last part of its socket directory.
        home: a directory that belongs to this engine alone.
    """

    name: str
    home: Path
    binaries: Binaries
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.home = self.home.resolve()
        socket = self.socket_dir / f".s.PGSQL.{PORT}"
        if len(bytes(socket)) > _LONGEST_SOCKET:
            raise SocketPathError(socket, _LONGEST_SOCKET)

    @property
    def account(self) -> Account:
        """The user who runs it."""
        return self.binaries.account

    @property
    def data(self) -> Path:
        """The data directory; where it exists, it is complete."""
        return self.home / "data"

    @property
    def socket_dir(self) -> Path:
        """Where the socket is; the identity check reads the last part."""
        return self.home / "run" / self.name

    @property
    def log(self) -> Path:
        """What Postgres says."""
        return self.home / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The process that is a postgres of exactly this data directory, if there is one."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().partition("\n")[0])
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    @property
    def running(self) -> bool:
        """Whether its process lives, whoever started it."""
        return self.pid is not None

    def _is_ours(self, pid: int) -> bool:
        program, _, settings = _command_line(pid).partition(f" -D {self.data} ")
        return program.endswith("/postgres") and bool(settings)

    def init(self) -> None:
        """
        Make the data directory, the first time only, with a random superuser password.

        Raises:
            UnreachableError: the home is closed to the account.
            EngineError: initdb failed; nothing of it stays.
        """
        if self.data.exists():
            return
        partial = self.prepare()
        self.save_password(SUPERUSER, new_password())
        command = [self.binaries.program("initdb"), "-D", str(partial), "-U", SUPERUSER]
        command += ["--locale-provider=libc", f"--locale={_LOCALE}", "--encoding=UTF8"]
        command += ["--auth=scram-sha-256", f"--pwfile={self._password_file(SUPERUSER)}"]
        code, said = self.account.run(command, die_with_parent(signal.SIGINT))
        if code:
            shutil.rmtree(partial)
            self.log.write_text(said)
            raise EngineError(self.name, "initialise", said[-1000:], self.log)
        self.finish(partial)

    def prepare(self) -> Path:
        """
        Make the home, and in it an empty place for a data directory in the making.

        What a crash left of earlier ones goes. The place has a name of its own:
        an initdb that is being killed still empties its own for a moment.
        """
        self.account.reach(self.home)
        for left in self.home.glob("data.*"):
            shutil.rmtree(left, ignore_errors=True)
        partial = self.home / f"data.{secrets.token_hex(4)}"
        partial.mkdir(mode=0o700)
        self.account.own(partial)
        return partial

    def finish(self, partial: Path) -> None:
        """Take what was made for the data directory, with configuration that says nothing."""
        contents = {"postgresql.conf": "", "postgresql.auto.conf": "", "pg_hba.conf": _HBA}
        for name, content in contents.items():
            path = partial / name
            path.write_text(content)
            path.chmod(0o600)
            self.account.own(path)
        partial.rename(self.data)

    async def start(
        self,
        settings: Mapping[str, str],
        *,
        die_with_parent: bool = False,
        seconds: float = START_SECONDS,
    ) -> None:
        """
        Start Postgres, and return when it answers.

        Args:
            settings: all on the command line, which no file and no ALTER SYSTEM overrules.
            die_with_parent: shut it down when this process ends, however it
                ends. Linux only, and only in the main thread: the signal
                comes when the thread ends that started it.
            seconds: until it must answer; recovery counts.

        Raises:
            EngineError: it ended, or did not answer in time; it does not run then.
        """
        if die_with_parent and threading.current_thread() is not threading.main_thread():
            msg = "die_with_parent is for the main thread: the signal comes when the thread ends"
            raise RuntimeError(msg)
        self._make_socket_dir()
        self._disown_stale_pid()
        self._process = self._spawn(settings, dies=die_with_parent)
        try:
            await asyncio.wait_for(self._answer(self._process), seconds)
        except BaseException as error:
            await _end(self._process)
            if isinstance(error, TimeoutError):
                reason = f"it did not answer within {seconds:g} s: {self._last_words()}"
                raise EngineError(self.name, "start", reason, self.log) from error
            raise

    async def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """
        Stop Postgres, whoever started it; more and more firmly, and not at all if it is down.

        Args:
            seconds: how long each degree of firmness gets.

        Raises:
            ForeignEngineError: it runs as a user whose processes we may not signal.
            EngineError: not even SIGKILL ended it.
        """
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                break
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                break
            except PermissionError:
                raise ForeignEngineError(self.name, pid) from None
            await _wait(partial(self._has_ended, pid), seconds)
        if self.running:
            raise EngineError(self.name, "stop", "it survived SIGKILL", self.log)
        if self._process is not None:
            await _end(self._process)
            self._process = None

    def _has_ended(self, pid: int) -> bool:
        """Ask for the process, not for its pid file, which goes a moment earlier."""
        if self._process is not None:
            self._process.poll()
        return not self._is_ours(pid)

    @asynccontextmanager
    async def connect(
        self, role: str = SUPERUSER, database: str = SUPERUSER
    ) -> AsyncIterator[asyncpg.Connection]:
        """Connect over the socket, with nothing taken from the environment."""
        target = self.target(role, database)
        connection: asyncpg.Connection = await asyncpg.connect(  # noqa: TID251  the operator's side has no pool
            **target.parameters(tls=False), timeout=START_SECONDS
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=STOP_SECONDS)

    def target(self, role: str = APP, database: str = DATABASE) -> Target:
        """Say how a role of ours gets in."""
        password = SecretStr(self._password_file(role).read_text())
        return Target(str(self.socket_dir), PORT, role, password, database)

    def dsn(self, role: str = APP, database: str = DATABASE) -> SecretStr:
        """Say the same in one line, for DATABASE_URL."""
        target = self.target(role, database)
        password = quote(target.password.get_secret_value(), safe="")
        host = quote(target.host, safe="")
        return SecretStr(f"postgresql://{role}:{password}@/{database}?host={host}")

    def save_password(self, role: str, password: SecretStr) -> None:
        """Keep a role's password in the home, for the account and root only."""
        path = self._password_file(role)
        path.unlink(missing_ok=True)
        with open(path, "w", opener=_private) as file:  # noqa: PTH123  Path.open has no opener
            file.write(password.get_secret_value())
        self.account.own(path)

    def _password_file(self, role: str) -> Path:
        return self.home / f"{role}.password"

    def _make_socket_dir(self) -> None:
        self.account.reach(self.socket_dir.parent)
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        self.account.own(self.socket_dir)

    def _disown_stale_pid(self) -> None:
        """
        Keep a recycled pid from stopping a start.

        Postgres takes any live process of that number for its rival, except its
        own parent; so the file gets our pid, and keeps the rest of what it says.
        """
        path = self.data / "postmaster.pid"
        if path.exists() and not self.running:
            _, line, rest = path.read_text().partition("\n")
            ours = self.home / "postmaster.pid"  # written here: the data directory is not ours
            ours.unlink(missing_ok=True)
            with open(ours, "x", opener=_private) as file:  # noqa: PTH123  Path.open has no opener
                file.write(f"{os.getpid()}{line}{rest}")
            self.account.own(ours)
            ours.replace(path)

    def _command(self, settings: Mapping[str, str]) -> list[str]:
        quoted = str(self.socket_dir).replace('"', '""')
        fixed = {
            "cluster_name": self.name,
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": f'"{quoted}"',
            "logging_collector": "off",
        }
        known = self.binaries.settings()  # io_method, for one, came with 18
        chosen = {key: value for key, value in settings.items() if key in known} | fixed
        command = [self.binaries.program("postgres"), "-D", str(self.data)]
        for key, value in chosen.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _spawn(self, settings: Mapping[str, str], *, dies: bool) -> subprocess.Popen[bytes]:
        first = die_with_parent(signal.SIGINT) if dies else None
        command = self._command(settings)
        log = _private(str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            return self.account.spawn(command, output=log, new_session=True, first=first)
        finally:
            os.close(log)

    async def _answer(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            try:
                async with self.connect() as connection:
                    await connection.fetchval("SELECT 1")
            except _NOT_UP_YET:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return
        raise EngineError(self.name, "start", self._last_words(), self.log)

    def _last_words(self) -> str:
        return " / ".join(self.log.read_text(errors="replace").splitlines()[-5:])


async def create_database(engine: Engine, password: SecretStr | None = None) -> None:
    """
    Make the role that the app uses, without any right beyond its own database, and that database.

    What exists already is kept; the role gets the password in any case.
    """
    password = password or new_password()
    async with engine.connect() as connection:
        if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", APP):
            await connection.execute(f"CREATE ROLE {APP} LOGIN")
        await _set_password(connection, APP, password)
        engine.save_password(APP, password)
        query = "SELECT count(*) FROM pg_database WHERE datname = $1"
        if not await connection.fetchval(query, DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {APP}")


async def rotate_passwords(engine: Engine) -> None:
    """
    Give a clone passwords of its own.

    No password of the source opens it afterwards: the app's and the
    superuser's are new and random, every other role's is taken away.
    """
    new = {SUPERUSER: new_password(), APP: new_password()}
    async with engine.connect() as connection, connection.transaction():
        query = "SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL"
        for record in await connection.fetch(query):
            await _set_password(connection, record["rolname"], new.get(record["rolname"]))
    for role, password in new.items():
        engine.save_password(role, password)


def new_password() -> SecretStr:
    """Make a password that nobody knows yet."""
    return SecretStr(secrets.token_urlsafe(24))


async def _set_password(
    connection: asyncpg.Connection, role: str, password: SecretStr | None
) -> None:
    query = "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)"
    value = password.get_secret_value() if password else None
    await connection.execute(await connection.fetchval(query, role, value))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child of ours, whose number cannot have gone to anyone else."""
    for how in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(how)
            await _wait(lambda: process.poll() is not None, STOP_SECONDS)


async def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  the kernel sends no event
        await asyncio.sleep(_POLL_SECONDS)


def _command_line(pid: int) -> str:
    if not _MACOS:
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return os.fsdecode(raw.replace(b"\0", b" "))
    command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, check=False, text=True).stdout  # noqa: S603  a fixed program
