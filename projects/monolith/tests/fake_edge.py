"""A Cloudflare on loopback, edge and API, that can be told each way to be wrong."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import jwt
import trustme
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.fake_cloudflare_api import FakeCloudflareApi
from tests.team import AUD, CLIENT, Team

WILDCARD, DOMAIN, LIVE = "*.pr.example.com", "pr.example.com", "7.pr.example.com"
TEAM, API = "team.cloudflareaccess.com", "api.cloudflare.com"
SECRET = "the-secret-of-the-service-token"
OTHER_AUD = "b" * 64

HANDSHAKE_FAILURE = bytes.fromhex("15030300020228")

Hook = Callable[[web.Request], web.Response | None]


class FakeEdge:
    """
    One Access application before one wildcard, well configured until it is told otherwise.

    What a test puts into `first` answers before anything else does.
    """

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.team = Team(f"https://{TEAM}")
        self.api = FakeCloudflareApi()
        self.first: list[Hook] = []
        self.requests: list[str] = []
        self.agents: set[str] = set()
        self.live = {LIVE}
        self.unknown = {DOMAIN}
        self.refuses_connections: Callable[[str], bool] = lambda _: False
        self.covers: Callable[[web.Request], bool] = lambda _: True
        self.audience = AUD
        self.application = WILDCARD
        self.claims: dict[str, Any] = {}
        self.key: RSAPrivateKey | None = self.team.keys["one"]
        self.service_tokens = {(CLIENT, SECRET)}
        self.audiences = {AUD}
        self.any_of_team = False
        self.trusts: Callable[[web.Request], bool] = lambda _: False
        self.marks = True
        self.certified: Callable[[str], str] = lambda host: host
        self.origin: Hook = self._origin
        self._ports: dict[str, int] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    def token(self, **others: Any) -> str:
        """Sign a person's token of this team."""
        return self.team.token(**others)

    def __call__(self, *, verified: bool) -> httpx2.AsyncBaseTransport:
        """Connect to loopback, whatever the host; nothing else differs from the Internet."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        if not verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return ToLoopback(self, httpx2.AsyncHTTPTransport(verify=context, trust_env=False))

    def port(self, host: str, scheme: str) -> int:
        """Return the port of loopback where a host is."""
        if host in self.unknown:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if self.refuses_connections(host):
            raise ConnectionRefusedError
        return self._ports["alert" if scheme == "https" and not self.certified(host) else scheme]

    @contextmanager
    def running(self) -> Iterator["FakeEdge"]:
        """Serve from a thread, for a command has a loop of its own."""
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self.serve()) as edge,
        ):
            yield edge

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeEdge"]:
        """Listen on free ports of loopback: with TLS, for whatever name, without, and to refuse."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("nobody.example").configure_cert(tls)
        tls.sni_callback = self._choose
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        refusing = await asyncio.start_server(self._alert, "127.0.0.1", 0)
        addresses = [*runner.addresses, refusing.sockets[0].getsockname()]
        names = ("https", "http", "alert")
        self._ports = {name: at[1] for name, at in zip(names, addresses, strict=True)}
        try:
            yield self
        finally:
            refusing.close()
            await refusing.wait_closed()
            await runner.cleanup()

    async def _alert(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refuse the handshake as an edge without a certificate does; asyncio would hang up."""
        await reader.read(4096)
        writer.write(HANDSHAKE_FAILURE)
        await writer.drain()
        writer.close()

    def _choose(self, connection: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> None:
        """Show the certificate for a name."""
        certified = self.certified(name)
        if certified not in self._contexts:
            self._contexts[certified] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.authority.issue_cert(certified).configure_cert(self._contexts[certified])
        connection.context = self._contexts[certified]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0]
        if host == TEAM:
            return web.Response(text=self.team.key_set(), status=self.team.status)
        if host == API:
            return self.api.answer(request)
        self.requests.append(f"{request.method} {request.scheme}://{request.host}{request.rel_url}")
        self.agents.add(request.headers.get("User-Agent", ""))
        ways = (*self.first, self._to_https, self._access, self.origin)
        answers = (answer for way in ways if (answer := way(request)) is not None)
        return next(answers, web.Response(status=404))

    def _to_https(self, request: web.Request) -> web.Response | None:
        where = f"https://{request.host.partition(':')[0]}{request.path}"
        moved = web.Response(status=301, headers={"Location": where})
        return moved if request.scheme == "http" else None

    def _access(self, request: web.Request) -> web.Response | None:
        """Let nobody through whom it does not know."""
        host = request.host.partition(":")[0]
        if not self.covers(request):
            return None
        if request.headers.get("cf-access-metadata-request") == "true":
            return web.Response(headers={"cf-access-metadata": self._metadata(host)})
        return None if self._knows(request) else self.refused(request)

    def _metadata(self, host: str) -> str:
        claims = {
            "type": "match", "hostname": host, "auth_domain": TEAM, "aud": self.audience,
            "app_hostname": self.application, "iat": int(time.time()),
        } | self.claims  # fmt: skip
        algorithm = "RS256" if self.key else "none"
        return jwt.encode(claims, self.key or "", algorithm, headers={"kid": "one"})

    def _knows(self, request: web.Request) -> bool:
        client = request.headers.get("CF-Access-Client-Id")
        if client is not None:
            return (client, request.headers["CF-Access-Client-Secret"]) in self.service_tokens
        shown = [
            request.headers.get("Cf-Access-Jwt-Assertion"),
            request.cookies.get("CF_Authorization"),
        ]
        return self.trusts(request) or any(token and self._holds(token) for token in shown)

    def _holds(self, token: str) -> bool:
        try:
            claims = jwt.decode(
                token,
                self.team.keys["one"].public_key(),
                algorithms=["RS256"],
                audience=self.audiences,
                options={"verify_aud": not self.any_of_team},
            )
        except jwt.PyJWTError:
            return False
        return self.any_of_team or claims.get("type") == "app"

    def refused(self, request: web.Request) -> web.Response:
        """Refuse as Access does: a script and a preflight are not led to a login."""
        host = request.host.partition(":")[0]
        marked = {"cf-access-aud": self.audience, "cf-access-domain": self.application}
        if request.method == "OPTIONS":
            return web.Response(status=403, headers=marked if self.marks else {})
        resource = f"https://{host}/.well-known/cloudflare-access-protected-resource{request.path}"
        headers = {"www-authenticate": f'Cloudflare-Access resource_metadata="{resource}"'}
        if "X-Requested-With" in request.headers:
            return web.Response(status=401, headers=headers)
        login = f"https://{TEAM}/cdn-cgi/access/login/{host}?kid={self.audience}&meta=x"
        headers["Location"] = f"{login}&redirect_url={request.path}"
        headers["Set-Cookie"] = "CF_AppSession=x; Path=/; Secure; HttpOnly"
        return web.Response(status=302, headers=headers)

    def _origin(self, request: web.Request) -> web.Response | None:
        if request.host.partition(":")[0] not in self.live:
            return None
        return web.Response(text=json.dumps({"mode": "preview"}), content_type="application/json")


class ToLoopback(httpx2.AsyncBaseTransport):
    """Connects to the edge on loopback, and names the host in TLS and in the request."""

    def __init__(self, edge: FakeEdge, inner: httpx2.AsyncBaseTransport) -> None:
        self._edge = edge
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it there."""
        host, scheme = request.url.host, request.url.scheme
        try:
            port = self._edge.port(host, scheme)
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host="127.0.0.1", port=port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close what was opened."""
        await self._inner.aclose()
