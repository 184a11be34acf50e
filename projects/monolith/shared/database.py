"""The only module that connects to the database; nobody gets an unidentified connection."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg
import structlog

from shared.dsn import Target, parse
from shared.errors import SettingsError, UnidentifiedDatabaseError, WrongDatabaseError
from shared.identity import Expected, Fact, Verdict, identify
from shared.settings import Settings

RETRY_SECONDS = 0.5
CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 60.0
CLOSE_SECONDS = 0.5
POOL_SIZE = 10

_NO_ANSWER = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
_FROM_POOL = ("loop", "connection_class", "record_class")

log = structlog.get_logger()


@dataclass(slots=True)
class Database:
    """
    The one database of this process, and what it has said of itself.

    Every connection, also one that a pool opens later, says who it is before
    anyone gets it. Only Verdict.MATCH lets it through.
    """

    target: Target
    expected: Expected
    tls: ssl.SSLContext | None
    wait_seconds: float
    facts: dict[str, Fact] = field(default_factory=dict)
    identified: int = 0
    refused: int = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """
        Read where DATABASE_URL points, and whose database that must be.

        Raises:
            TargetError: DATABASE_URL cannot be read.
            SettingsError: DATABASE_CA_FILE cannot be used.
        """
        target = parse(settings.database_url.get_secret_value())
        expected = Expected(settings.pr_env, settings.pr_number).narrowed(target)
        tls = _verify_full(settings.database_ca_file, target)
        return cls(target, expected, tls, settings.database_wait_seconds)

    def judge_target(self) -> None:
        """
        Judge where the target points; no packet leaves.

        Raises:
            WrongDatabaseError: it points at another environment's database.
        """
        self._admit(self.expected.judge_host(self.target))

    @property
    def verdict(self) -> Verdict:
        """MATCH once the host and the server have both matched, UNABLE before."""
        verdicts = {fact.verdict for fact in self.facts.values()}
        if Verdict.MISMATCH in verdicts:
            return Verdict.MISMATCH
        if Verdict.UNABLE in verdicts or "cluster_name" not in self.facts:
            return Verdict.UNABLE
        return Verdict.MATCH

    async def check(self, wait_seconds: float | None = None) -> None:
        """
        Identify the database on one connection of its own, waiting for it to be up.

        Only "not up yet" is waited for: connection refused, starting up,
        password not set yet. A wrong identity is refused at once.

        Args:
            wait_seconds: how long to wait, where that is not what the settings say.

        Raises:
            WrongDatabaseError: another database answered.
            UnidentifiedDatabaseError: none answered before the deadline.
        """
        wait_seconds = self.wait_seconds if wait_seconds is None else wait_seconds
        deadline = time.monotonic() + wait_seconds
        said: set[str] = set()
        while True:
            try:
                connection = await self.connect()
            except _NO_ANSWER as error:
                reason = _reason(error)
                if not _not_up_yet(error):
                    raise UnidentifiedDatabaseError(str(self.target), reason) from error
                if time.monotonic() >= deadline:
                    reason = f"it was not up after {wait_seconds:g} s ({reason})"
                    raise UnidentifiedDatabaseError(str(self.target), reason) from error
                if reason not in said:
                    log.warning("waiting for the database", at=str(self.target), reason=reason)
                    said.add(reason)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await connection.close()
                return

    async def connect(self, *_dsn: object, **options: Any) -> asyncpg.Connection:
        """
        Judge the target, open one connection to it, and identify that.

        This is the pool's `connect` hook. Whatever address the pool was given,
        it is the target that is connected to.

        Raises:
            WrongDatabaseError: another database answered; the connection is closed.
        """
        self.judge_target()
        classes = {key: options[key] for key in _FROM_POOL if key in options}
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                **self.target.parameters(self.tls or False),
                **classes,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
            )
        except ssl.SSLCertVerificationError as error:
            self._admit(self._certificate(Verdict.MISMATCH, error.verify_message))
            raise
        try:
            if self.tls:
                self._admit(self._certificate(Verdict.MATCH, "verified"))
            self._admit(self.expected.judge_server(await identify(connection)))
        except BaseException:
            connection.terminate()
            raise
        self.identified += 1
        return connection

    def _admit(self, fact: Fact) -> None:
        self.facts[fact.name] = fact
        try:
            self.expected.refuse(fact)
        except WrongDatabaseError:
            self.refused += 1
            raise

    def _certificate(self, verdict: Verdict, found: str) -> Fact:
        expected = f"one for {self.target.host} from DATABASE_CA_FILE"
        return Fact("certificate", expected, found, verdict)

    @asynccontextmanager
    async def pool(self, size: int = POOL_SIZE) -> AsyncIterator[asyncpg.Pool]:
        """
        Open a pool, identified connection by connection, and close it at the end.

        Who has not given its connection back by then loses it after CLOSE_SECONDS.

        Raises:
            WrongDatabaseError: another database answered.
            UnidentifiedDatabaseError: none answered; it is not waited for.
        """
        await self.check(0)
        pool = await asyncpg.create_pool(connect=self.connect, min_size=1, max_size=size)
        try:
            yield pool
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.close()


def _verify_full(ca_file: Path | None, target: Target) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    if target.is_socket:
        problem = (
            "DATABASE_CA_FILE is set and DATABASE_URL names a socket, which has no TLS. Unset it."
        )
        raise SettingsError([problem])
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError):
        pass
    problem = (
        "expected DATABASE_CA_FILE to hold PEM certificates, the file says otherwise. Correct it."
    )
    raise SettingsError([problem])


def _not_up_yet(error: Exception) -> bool:
    """
    Tell whether waiting may help.

    asyncio reports several refused addresses of one name as one plain OSError
    without a number.
    """
    if isinstance(error, asyncpg.PostgresError):
        # CloudNativePG sets the clone's password a moment after Postgres answers.
        return isinstance(
            error,
            asyncpg.CannotConnectNowError | asyncpg.InvalidAuthorizationSpecificationError,
        )
    refused = ConnectionRefusedError | ConnectionResetError | FileNotFoundError
    return isinstance(error, refused) or (type(error) is OSError and error.errno is None)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
