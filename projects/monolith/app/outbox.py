"""The only module that keeps what is to be said on Discord, and says it."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

LONGEST_TEXT = 2000
"""Discord's limit, in UTF-16 code units to be on the safe side."""

LEASE = timedelta(seconds=60)
POST_SECONDS = 45.0
"""Longer than the 30 s that discord.py waits for a rate limit of which it knows nothing."""

POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300
MOST_ATTEMPTS = 50
KEPT = timedelta(days=30)
FORGET_SECONDS = 3600.0

_ADD = """
INSERT INTO outbox.messages (key, channel, text, reply_to) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO NOTHING
"""
_CLAIM = """
UPDATE outbox.messages SET claimed_until = clock_timestamp() + $1::interval, attempts = attempts + 1
WHERE key = (
  SELECT key FROM outbox.messages
  WHERE sent_at IS NULL AND due_at <= clock_timestamp()
    AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
  ORDER BY created_at, key LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING key, channel, text, reply_to, attempts, claimed_until
"""
_SENT = """
UPDATE outbox.messages
SET sent_at = clock_timestamp(), message_id = $2, claimed_until = NULL, last_error = NULL
WHERE key = $1 AND sent_at IS NULL
"""
_AGAIN = """
UPDATE outbox.messages SET claimed_until = NULL, last_error = $3,
  due_at = clock_timestamp() + make_interval(secs => $4)
WHERE key = $1 AND claimed_until = $2 AND sent_at IS NULL
"""
_PARK = """
UPDATE outbox.messages SET claimed_until = NULL, last_error = $3, due_at = 'infinity'
WHERE key = $1 AND claimed_until = $2 AND sent_at IS NULL
"""
_FORGET = "DELETE FROM outbox.messages WHERE sent_at < now() - $1::interval"

_LONGEST_ERROR = 500

log = structlog.get_logger()


class UnsendableError(Exception):
    """Discord will not take a message, however often it is posted."""


@dataclass(frozen=True, slots=True)
class Message:
    """
    What is to be said once.

    Args:
        key: says which message it is; a second one of the same key is dropped.
        channel: where, as Discord's id.
        reply_to: the message that it answers, as Discord's id.
    """

    key: str
    channel: int
    text: str
    reply_to: int | None = None

    @property
    def nonce(self) -> str:
        """What Discord knows the message by for some minutes; it takes 25 characters at most."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:25]


async def add(connection: asyncpg.Pool | PoolConnectionProxy, message: Message) -> None:
    """Put a message into the outbox, in the transaction of `connection`, unless it is known."""
    text = shortened(message.text)
    await connection.execute(_ADD, message.key, message.channel, text, message.reply_to)


def shortened(text: str) -> str:
    """Cut a text to what Discord takes."""
    if units(text) <= LONGEST_TEXT:
        return text
    cut = text.encode("utf-16-le")[: 2 * (LONGEST_TEXT - 1)]
    return cut.decode("utf-16-le", errors="ignore") + "…"


def units(text: str) -> int:
    """Count UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


@dataclass(slots=True)
class Delivery:
    """
    Post what waits in the outbox, each row by one worker at a time.

    A row is claimed under a lease, posted with a nonce that comes from its key,
    and marked. Whoever dies in between leaves it to be posted again with the
    same nonce, for which Discord returns the message that is there already.

    Args:
        post: posts a message and returns its id, or raises UnsendableError.
    """

    pool: asyncpg.Pool
    post: Callable[[Message], Awaitable[int]]
    added: asyncio.Event = field(default_factory=asyncio.Event)
    _forget_at: float = 0.0

    async def run(self) -> None:
        """Post until cancelled; trouble is waited out."""
        while True:
            self.added.clear()
            try:
                while await self.deliver_one():
                    pass
                await self._forget()
            except Exception as error:  # noqa: BLE001  whatever it is, delivery must go on
                with suppress(OSError):  # a full log stops no delivery
                    log.error("outbox cannot be read", error=f"{type(error).__name__}: {error}")
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self.added.wait()
            except TimeoutError:
                pass

    async def deliver_one(self) -> bool:
        """Claim one row that is due and post it; False where none is."""
        row = await self.pool.fetchrow(_CLAIM, LEASE)
        if row is None:
            return False
        message = Message(row["key"], row["channel"], row["text"], row["reply_to"])
        try:
            async with asyncio.timeout(POST_SECONDS):
                number = await self.post(message)
        except UnsendableError as error:
            await self._park(row, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, it must not stop the rows behind
            await self._try_again(row, f"{type(error).__name__}: {error}")
        else:
            await self.pool.execute(_SENT, message.key, number)
            with suppress(OSError):  # a full log sends nothing twice
                log.info("message sent", key=message.key)
        return True

    async def _try_again(self, row: asyncpg.Record, reason: str) -> None:
        if row["attempts"] >= MOST_ATTEMPTS:
            await self._park(row, reason)
            return
        pause = min(2.0 ** min(row["attempts"], 10), LONGEST_PAUSE_SECONDS)
        reason = _storable(reason)
        await self.pool.execute(_AGAIN, row["key"], row["claimed_until"], reason, pause)
        log.warning("message not sent", key=row["key"], error=reason, again_in=pause)

    async def _park(self, row: asyncpg.Record, reason: str) -> None:
        await self.pool.execute(_PARK, row["key"], row["claimed_until"], _storable(reason))
        log.error("message parked", key=row["key"], error=reason)

    async def _forget(self) -> None:
        """Forget now and then what was sent long ago."""
        if time.monotonic() >= self._forget_at:
            await self.pool.execute(_FORGET, KEPT)
            self._forget_at = time.monotonic() + FORGET_SECONDS


def _storable(reason: str) -> str:
    return reason.encode(errors="backslashreplace").decode().replace("\0", "")[:_LONGEST_ERROR]
