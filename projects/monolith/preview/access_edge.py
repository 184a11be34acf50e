"""The only module that asks a host from outside, as anybody on the Internet could."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

import httpx2

from preview.access_verdict import Answer

AGENT = "monolith-preview-check-access/1"
"""Of our own: the names of common scripts are refused before Access is asked."""

AT_ONCE = 6
TIMEOUT_SECONDS = 10
RETRIES = 2
LONGEST_SECONDS = 30
LARGEST_BODY = 1 << 16

Headers = tuple[tuple[str, str], ...]


def service_token(client_id: str, secret: str) -> Headers:
    """Return the headers in which a program shows a service token."""
    return (("CF-Access-Client-Id", client_id), ("CF-Access-Client-Secret", secret))


class Transports(Protocol):
    """Makes the connections of a check."""

    def __call__(self, *, verified: bool) -> httpx2.AsyncBaseTransport:
        """Return a transport without connections; `verified` insists on the host's certificate."""
        ...


class Internet:
    """Connects over the Internet, and to nothing else than what the name says."""

    def __init__(self) -> None:
        self._verifying = ssl.create_default_context()
        self._trusting = ssl.create_default_context()
        self._trusting.check_hostname = False
        self._trusting.verify_mode = ssl.CERT_NONE

    def __call__(self, *, verified: bool) -> httpx2.AsyncBaseTransport:
        """Retry a connection that does not come about, and no request."""
        context = self._verifying if verified else self._trusting
        return httpx2.AsyncHTTPTransport(verify=context, retries=RETRIES, trust_env=False)


class Trouble(StrEnum):
    """Why there was no answer."""

    NO_ADDRESS = "the name has no address"
    NO_TLS = "the edge has no certificate for the name"
    OTHER = "no answer"


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer came, and why."""

    trouble: Trouble
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Read an error of the client, whose causes say more than it does."""
        for cause in _causes(error):
            if isinstance(cause, socket.gaierror) and cause.errno in _NO_ADDRESS:
                return cls(Trouble.NO_ADDRESS, Trouble.NO_ADDRESS.value)
            if isinstance(cause, ssl.SSLError) and _is_alert(cause):
                return cls(Trouble.NO_TLS, Trouble.NO_TLS.value)
        return cls(Trouble.OTHER, f"{Trouble.OTHER} ({type(error).__name__}: {error})".strip())


_NO_ADDRESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_alert(error: ssl.SSLError) -> bool:
    """Tell whether the other side refused; what we refused ourselves proves nothing."""
    reason = getattr(error, "reason", None) or ""
    return "ALERT" in reason or "UNRECOGNIZED_NAME" in reason


@dataclass(slots=True)
class Edge:
    """
    Asks, each time over a connection of its own, without cookies, and follows no redirect.

    Only AT_ONCE requests are under way at a time.
    """

    transports: Transports = field(default_factory=Internet)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def client(self, *, verified: bool = True) -> httpx2.AsyncClient:
        """Make a client for one request."""
        return httpx2.AsyncClient(
            transport=self.transports(verified=verified),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
        )

    async def ask(
        self, method: str, url: str, headers: Headers = (), *, verified: bool = True
    ) -> Answer | Silence:
        """Ask once, and return what came back."""
        try:
            async with (
                self._places,
                asyncio.timeout(LONGEST_SECONDS),
                self.client(verified=verified) as client,
                client.stream(method, url, headers=list(headers)) as response,
            ):
                items = response.headers.multi_items()
                found = tuple((name.lower(), value) for name, value in items)
                switched = response.status_code == httpx2.codes.SWITCHING_PROTOCOLS
                body = "" if switched else await _beginning(response)
                return Answer(response.status_code, found, body)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            return Silence.of(error)


async def _beginning(response: httpx2.Response) -> str:
    """Read the beginning of a body; what was answered stays answered where the body breaks off."""
    body = b""
    with suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for part in response.aiter_raw():
                body += part
                if len(body) >= LARGEST_BODY:
                    break
    return body[:LARGEST_BODY].decode(errors="replace")
