"""The only module that fetches the keys with which Cloudflare Access signs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx2
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

FRESH_SECONDS = 300
STALE_SECONDS = 24 * 3600
COOL_DOWN_SECONDS = 30
FETCH_SECONDS = 5
LARGEST_SET = 1 << 20
SMALLEST_KEY_BITS = 2048

Keys = dict[str, jwt.PyJWK]
Fetch = Callable[[], Awaitable[Keys]]

log = structlog.get_logger()


class UnknownKeyError(Exception):
    """The team has no key of this name."""


class NoKeysError(Exception):
    """Whether the team has such a key cannot be known."""


@dataclass(slots=True)
class KeySet:
    """
    The team's public keys, fetched when needed and kept while they cannot be.

    Only one fetch runs at a time, and only one begins in COOL_DOWN_SECONDS,
    whatever came of the last one and whatever keys are asked for. Keys serve
    for STALE_SECONDS after they were last fetched, then no more.

    Args:
        clock: seconds of a clock that never goes back.
    """

    fetch: Fetch
    clock: Callable[[], float] = time.monotonic
    _keys: Keys = field(default_factory=dict)
    _fetched: float = float("-inf")
    _tried: float = float("-inf")
    _fetching: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def key(self, name: str) -> jwt.PyJWK:
        """
        Return the key of this name.

        Raises:
            UnknownKeyError: the team has none.
            NoKeysError: it cannot be known; ask again later.
        """
        known = name in self._usable()
        if not known or self._age() > FRESH_SECONDS:
            await self._refresh(wait=not known)
        usable = self._usable()
        if name in usable:
            return usable[name]
        if self._fetched < self._tried or not usable:
            raise NoKeysError
        raise UnknownKeyError

    async def _refresh(self, *, wait: bool) -> None:
        if self._fetching.locked() and not wait:
            return
        async with self._fetching:
            now = self.clock()
            if now - self._tried < COOL_DOWN_SECONDS:
                return
            self._tried = now
            try:
                self._keys, self._fetched = await self.fetch(), now
            except Exception as error:  # noqa: BLE001  whatever it is, the old keys still serve
                log.error("cannot fetch the team's keys", error=f"{type(error).__name__}: {error}")

    def _age(self) -> float:
        return self.clock() - self._fetched

    def _usable(self) -> Keys:
        return self._keys if self._age() <= STALE_SECONDS else {}


def fetch_from(issuer: str, client: Callable[[], httpx2.AsyncClient] = httpx2.AsyncClient) -> Fetch:
    """Return what fetches the keys of the team whose tokens name `issuer`."""

    async def fetch() -> Keys:
        body = bytearray()
        async with (
            asyncio.timeout(FETCH_SECONDS),
            client() as asking,
            asking.stream("GET", f"{issuer}/cdn-cgi/access/certs") as answer,
        ):
            answer.raise_for_status()
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > LARGEST_SET:
                    message = "the key set is too large"
                    raise ValueError(message)
        return read_keys(body.decode())

    return fetch


def read_keys(document: str) -> Keys:
    """
    Read a JSON Web Key Set (RFC 7517), and keep of it the RSA keys that may verify a token.

    Raises:
        ValueError: there is none, or it is no key set.
    """
    try:
        found = jwt.PyJWKSet.from_json(document).keys
    except (jwt.PyJWTError, AttributeError) as error:
        raise ValueError(str(error)) from error
    keys = {str(key.key_id): key for key in found if key.key_id and _verifies(key)}
    if not keys:
        message = "there is no RSA key in it"
        raise ValueError(message)
    return keys


def _verifies(key: jwt.PyJWK) -> bool:
    return (
        key.algorithm_name == "RS256"
        and key.public_key_use in (None, "sig")
        and isinstance(key.key, RSAPublicKey)
        and key.key.key_size >= SMALLEST_KEY_BITS
    )
