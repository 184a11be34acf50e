import asyncio
import re
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn

from app.access import EXEMPT
from tests.app.behind import HEADER, Behind
from tests.team import EMAIL, Team


class Wire:
    """Sends a server whatever bytes a test makes up, and reads the statuses of its answers."""

    def __init__(self, behind, port):
        self.reached, self.port = behind.reached, port

    async def send(self, *lines, body=b"", then="close"):
        """Send a request of these lines, and what comes after it; the last one closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = [*lines, f"Connection: {then}", "", ""]
        writer.write("\r\n".join(head).encode("latin-1") + body)
        answer = b""
        with suppress(ConnectionResetError):  # it may hang up before it was told everything
            answer = await reader.read()
        writer.close()
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.fixture(scope="module")
def team():
    """A team with one key."""
    return Team()


@pytest.fixture
async def door(team):
    """An app behind the door of a team, and a way to send bytes to the server that serves it."""
    behind = Behind(team)
    config = uvicorn.Config(behind.app, lifespan="off", log_config=None, port=0)
    server = uvicorn.Server(config)
    async with listening(server) as port:
        yield Wire(behind, port)


@asynccontextmanager
async def listening(server):
    """Serve on a free port of loopback."""
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    "target",
    [
        "/%68ealthz", "//healthz", "/healthz/", "/healthz;x", "/healthz%3fx", "/healthz%00",
        "/healthz%2f..%2fapi", "/./healthz", "/api/../healthz", "/HEALTHZ", "/healthz#x",
        "http://preview/healthz", "http://preview/healthz?x", "healthz", "*",
    ],
)  # fmt: skip
async def test_target(door, target):
    """
    However a request writes a probe's path, only the path itself is let through.
    """
    assert await door.send(f"GET {target} HTTP/1.1", "Host: preview") in ([401], [400])
    assert door.reached == []
    assert await door.send("GET /healthz?x HTTP/1.1", "Host: preview") == [200]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [f"{HEADER}:"],
        [f"{HEADER}: {{0}}", f"{HEADER.upper()}: {{0}}"],
        [f"{HEADER}: {{0}}", f"{HEADER}:"],
        [f"{HEADER}: {{0}}, {{0}}"],
        [f"{HEADER}: {{0}}", " {0}"],
        [f"{HEADER.replace('-', '_')}: {{0}}"],
        [f"X-Forwarded-{HEADER}: {{0}}"],
        [f"{HEADER} : {{0}}"],
        [f"{HEADER}: {{0}}" + "x" * 9000],
        [f"{HEADER}: {{0}}", "X: " + "x" * 200_000],
    ],
    ids=[
        "none", "empty", "two-in-two-cases", "and-an-empty-one", "joined", "folded",
        "underscores", "prefixed", "blank-before-colon", "long", "endless-head",
    ],
)  # fmt: skip
async def test_header(door, team, lines):
    """
    Exactly one header with exactly one token is a token; whatever else a request has is refused.
    """
    token = team.token()
    sent = [line.format(token) for line in lines]
    request = ["GET /api/notes HTTP/1.1", "Host: preview"]

    assert await door.send(*request, *sent) in ([401], [400], [])
    assert door.reached == []
    assert await door.send(*request, f"{HEADER.lower()}: \t{token} ") == [200]
    assert door.reached == [EMAIL]


async def test_pipelined(door, team):
    """
    What follows a probe, or a let-in request, on its connection is judged for itself.
    """
    after = b"GET /api/notes HTTP/1.1\r\nHost: preview\r\nConnection: close\r\n\r\n"
    probe = ["GET /healthz HTTP/1.1", "Host: preview"]
    person = ["GET / HTTP/1.1", "Host: preview", f"{HEADER}: {team.token()}"]

    assert await door.send(*probe, body=after, then="keep-alive") == [200, 401]
    assert await door.send(*person, body=after, then="keep-alive") == [200, 401]
    assert door.reached == [None, EMAIL]


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: {0}"],
        ["Content-Length: 0", "Transfer-Encoding: chunked"],
        ["Content-Length: {0}", "Content-Length: 0"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding:\tchunked\x0b"],
    ],
    ids=["body", "length-and-chunks", "two-lengths", "odd-coding", "odd-blank"],
)
async def test_smuggled(door, lines):
    """
    A request that hides in a probe's body reaches nothing.
    """
    hidden = b"GET /api/notes HTTP/1.1\r\nHost: preview\r\n\r\n"
    sent = [line.format(len(hidden)) for line in lines]
    statuses = await door.send("GET /healthz HTTP/1.1", "Host: preview", *sent, body=hidden)

    assert 200 not in statuses[1:]
    assert door.reached in ([], [None])


UPGRADE = ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
UPGRADE += ["Sec-WebSocket-Key: bW9ub2xpdGggcHJvYmUhIQ=="]


@pytest.mark.parametrize("path", ["/api/notes", "/healthz/ws", "/ws", "/healthz", "/readyz"])
@pytest.mark.parametrize("then", ["close", "Upgrade"])
async def test_upgrade(door, path, then):
    """
    An upgrade to a WebSocket is refused like any other request; a probe is answered, not upgraded.
    """
    statuses = await door.send(f"GET {path} HTTP/1.1", "Host: preview", *UPGRADE, then=then)
    probe = path in EXEMPT  # the image has no library for WebSockets, so it is a plain GET

    assert statuses == ([200] if probe else [401])
    assert door.reached == ([None] if probe else [])


@pytest.mark.parametrize(
    "lines",
    [
        ["POST /healthz HTTP/1.1", "X-HTTP-Method-Override: GET"],
        ["HEAD /healthz HTTP/1.1"],
        ["OPTIONS /healthz HTTP/1.1", "Access-Control-Request-Method: GET"],
        ["TRACE /healthz HTTP/1.1"],
        ["CONNECT preview:443 HTTP/1.1"],
        ["GET /api/notes HTTP/1.1", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"],
        ["GET /api/notes HTTP/1.1", "X-Forwarded-Prefix: /healthz", "X-Forwarded-For: 127.0.0.1"],
        ["GET /api/notes HTTP/1.0"],
        ["GET /api/notes HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
         "HTTP2-Settings: AAMAAABkAAQAAP__"],
        ["PRI * HTTP/2.0"],
        ["GET  /healthz HTTP/1.1"],
        ["GET /healthz\t HTTP/1.1"],
        ["get /healthz HTTP/1.1"],
    ],
    ids=["override", "HEAD", "preflight", "TRACE", "CONNECT", "rewritten", "forwarded", "1.0",
         "h2c", "HTTP/2", "two blanks", "tab", "small letters"],
)  # fmt: skip
async def test_other_ways(door, lines):
    """
    Only a plain GET of a probe's path is a probe, whatever a header calls another request.
    """
    statuses = await door.send(*lines, "Host: preview")

    assert 200 not in statuses
    assert door.reached == []
    assert await door.send("GET /healthz HTTP/1.1", "Host: preview") == [200]


async def test_body_of_a_refused(door, team):
    """
    The body of a request that is refused is no request, even with somebody's token in it.
    """
    hidden = "GET /api/notes HTTP/1.1\r\nHost: preview\r\n" + f"{HEADER}: {team.token()}\r\n\r\n"
    request = ["POST /api/notes HTTP/1.1", "Host: preview", f"Content-Length: {len(hidden)}"]
    after = "GET /api/notes HTTP/1.1\r\nHost: preview\r\nConnection: close\r\n\r\n"
    statuses = await door.send(*request, body=(hidden + after).encode(), then="keep-alive")

    assert 200 not in statuses
    assert door.reached == []
