"""The world outside of a preview, which must not be hit: it counts whoever comes."""

import ctypes
import selectors
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ELSEWHERE, CLONE_ADDRESS, PRODUCTION_ADDRESS = "127.0.0.9", "127.0.0.7", "127.0.0.8"
CLONE_HOST = "monolith-pg-pr-7-rw"
NO_NAMESPACE = "no mount namespace"
_POLL_SECONDS = 0.01
_NEW_MOUNTS, _BIND, _PRIVATE = 0x20000, 4096, 0x44000
_CLONE_HOSTS = {
    CLONE_HOST + end
    for end in ("", ".monolith-pr-7", ".monolith-pr-7.svc", ".monolith-pr-7.svc.cluster.local")
}


class Listeners:
    """One port for TCP and datagrams, and one Unix socket: who comes is counted, then let go."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / ".s.PGSQL.5432"
        self._count, self._lock = 0, threading.Lock()
        self._sockets = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]
        self._sockets.append(socket.socket(socket.AF_UNIX))
        streams, datagrams, local = self._sockets
        streams.bind((ELSEWHERE, 0))
        self.port = streams.getsockname()[1]
        datagrams.bind((ELSEWHERE, self.port))
        local.bind(str(self.path))
        with suppress(PermissionError):  # only root may listen there
            self._sockets.append(socket.socket(type=socket.SOCK_DGRAM))
            self._sockets[-1].bind((self.resolver, 53))
        self._waiting = selectors.DefaultSelector()
        for one in self._sockets:
            if one.type == socket.SOCK_STREAM:
                one.listen()
            one.setblocking(False)  # noqa: FBT003  the standard library's signature
            self._waiting.register(one, selectors.EVENT_READ)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def resolver(self) -> str:
        """An address of loopback that no other world has."""
        return f"127.1.{self.port >> 8}.{self.port & 255}"

    def came(self) -> int:
        """Count who has come since this was last asked."""
        self._take()
        with self._lock:
            count, self._count = self._count, 0
        return count

    def close(self) -> None:
        """Let nobody come any more."""
        self._ends.set()
        self._thread.join()
        self._waiting.close()
        for one in self._sockets:
            one.close()
        self.path.unlink()

    def _listen(self) -> None:
        while not self._ends.is_set():
            if self._waiting.select(timeout=_POLL_SECONDS):
                self._take()

    def _take(self) -> None:
        with self._lock:
            for one in self._sockets:
                with suppress(BlockingIOError):
                    while True:
                        self._let_go(one)
                        self._count += 1

    @staticmethod
    def _let_go(one: socket.socket) -> None:
        if one.type == socket.SOCK_DGRAM:
            one.recvfrom(9)
        else:
            one.accept()[0].close()


@dataclass
class Outside:
    """
    What an attempt is given: where it wants to get, and what it has got.

    Args:
        host: elsewhere, with `port` for TCP and datagrams, and `path` as a Unix socket.
        source: production's DSN, and `clone` its clone's.
        preview: False in the control.
        settings: of the app that has started, with `database`; None before.
    """

    host: str
    port: int
    path: str
    source: str
    clone: str
    preview: bool
    bell: socket.socket
    settings: Any = None
    database: Any = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as Python's sockets want them."""
        return self.host, self.port

    @property
    def client(self) -> list[str]:
        """A program that connects there."""
        reach = f"import socket; socket.create_connection({self.address!r})"
        return [sys.executable, "-S", "-c", reach]

    def ring(self) -> None:
        """Tell the world outside of something that is no packet; over what was open before."""
        self.bell.send(b"x")


def bell(port: int) -> socket.socket:
    """Connect a socket for datagrams, which no later seal or tripwire closes."""
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.connect((ELSEWHERE, port))
    return made


def stand_in_for_dns(names: Mapping[str, str]) -> None:
    """
    Let the clone's names lead to the clone, and every other name elsewhere; no packet leaves.

    It takes the place of the C function, tells audit hooks what that would
    tell them, and reads full-width letters as that does.
    """
    import _socket  # noqa: PLC0415  what shared/tripwire.py binds

    real = _socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not name or _is_address(name):
            return real(host, *args, **kwargs)
        sys.audit("socket.getaddrinfo", host, *args)
        plain = name.encode("idna").decode().lower().removesuffix(".")
        where = CLONE_ADDRESS if plain in _CLONE_HOSTS else ELSEWHERE
        return real(names.get(plain, where), *args, **kwargs)

    _socket.getaddrinfo = getaddrinfo


def _is_address(name: str) -> bool:
    with suppress(OSError):
        socket.inet_aton(name)
        return True
    return ":" in name


def resolve_at(address: str, directory: Path) -> None:
    """
    Let this process look names up at an address, in a mount namespace of its own.

    Raises:
        PermissionError: the system does not let it have one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    files = {
        "/etc/resolv.conf": f"nameserver {address}\noptions timeout:1 attempts:1\n",
        "/etc/nsswitch.conf": "hosts: dns\n",
    }
    done = [libc.unshare(_NEW_MOUNTS), libc.mount(None, b"/", None, _PRIVATE, None)]
    for path, text in files.items():
        mine = directory / Path(path).name
        mine.write_text(text)
        done.append(libc.mount(bytes(mine), path.encode(), None, _BIND, None))
    if any(done):
        raise PermissionError(ctypes.get_errno(), NO_NAMESPACE)


@contextmanager
def relay(address: tuple[str, int], path: Path) -> Iterator[None]:
    """Serve at an address what is behind a Unix socket, as a Service does for a pod."""
    ends = threading.Event()
    with socket.create_server(address) as server:
        server.settimeout(_POLL_SECONDS)
        accepting = threading.Thread(target=_accept, args=(server, path, ends))
        accepting.start()
        try:
            yield
        finally:
            ends.set()
            accepting.join()


def _accept(server: socket.socket, path: Path, ends: threading.Event) -> None:
    with ExitStack() as open_until_the_end:
        while not ends.is_set():
            with suppress(TimeoutError):
                near = open_until_the_end.enter_context(server.accept()[0])
                far = open_until_the_end.enter_context(socket.socket(socket.AF_UNIX))
                far.connect(str(path))
                for ways in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=ways, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
