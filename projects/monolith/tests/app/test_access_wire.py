import asyncio
import re
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn

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


@pytest.mark.parametrize("path", ["/api/notes", "/healthz/ws", "/ws"])
async def test_upgrade(door, path):
    """
    An upgrade to a WebSocket is refused like any other request.
    """
    lines = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="]

    assert await door.send(f"GET {path} HTTP/1.1", "Host: preview", *lines) == [401]
    assert door.reached == []
