import socket
from pathlib import Path
from unittest.mock import sentinel

import pytest

from shared.outward import EVENTS, LONGEST_SAID, Act, Kind, address_of, outward_act

FAMILIES = {
    "inet": socket.AF_INET,
    "inet6": socket.AF_INET6,
    "unix": socket.AF_UNIX,
    "netlink": socket.AF_NETLINK,
}


class Liar(str):
    """A string that says that it equals whatever it is compared with."""

    __slots__ = ()

    def __str__(self):
        return "127.0.0.1"

    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash("127.0.0.1")


@pytest.mark.parametrize("event", ["socket.connect", "socket.sendto", "socket.sendmsg"])
@pytest.mark.parametrize(
    ("family", "address", "act"),
    [
        ("inet", ("1.2.3.4", 443), Act(Kind.REACH, "1.2.3.4", 443)),
        ("inet", ("example.com", 25), Act(Kind.REACH, "example.com", 25)),
        ("inet", ("127.0.0.1", 5432), Act(Kind.REACH, "127.0.0.1", 5432)),
        ("inet", (b"1.2.3.4", True), Act(Kind.REACH, "1.2.3.4", 1)),
        ("inet", (Liar("1.2.3.4"), 443), Act(Kind.REACH, "1.2.3.4", 443)),
        ("inet6", ("::1", 443, 0, 0), Act(Kind.REACH, "::1", 443)),
        ("unix", "/run/docker.sock", Act(Kind.REACH, "/run/docker.sock")),
        ("unix", b"/run/docker.sock", Act(Kind.REACH, "/run/docker.sock")),
        ("unix", b"\0abstract", Act(Kind.REACH, "@abstract")),
        ("unix", bytearray(b"/x"), Act(Kind.REACH, "what is a bytearray")),
        ("netlink", (0, 0), Act(Kind.REACH, "address family 16")),
    ],
    ids=lambda part: part if isinstance(part, str) and part.isalnum() else "",
)
def test_reach(event, family, address, act):
    """
    Connecting and sending to any address is an act that names exactly that address and its port.
    """
    with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as sock:
        found = outward_act(event, (sock, address))

    assert found == act
    assert found
    assert type(found.what) is str


def test_sending_where_it_is_connected():
    """
    Sending on a connected socket is no act of its own: connecting was.
    """
    with socket.socket() as sock:
        assert outward_act("socket.sendmsg", (sock, None)) is None
        assert outward_act("socket.sendmsg", (sock, ("1.2.3.4", 1)))


@pytest.mark.parametrize("event", ["socket.getaddrinfo", "socket.gethostbyname"])
@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.com.", "example.com"),
        (b"example.com", "example.com"),
        ("2130706441", "2130706441"),
        ("127.9", "127.9"),
        ("localhost.evil.com", "localhost.evil.com"),
        ("1.2.3.4%evil.com", "1.2.3.4%evil.com"),
    ],
)
def test_look_up(event, host, name):
    """
    Looking a name up is an act, in whatever case, and also where it only resembles an address.
    """
    assert outward_act(event, (host, 1, 0, 0, 0)) == Act(Kind.LOOK_UP, name)


@pytest.mark.parametrize(
    "host", [None, "", b"", "localhost", "1.2.3.4", "::1", "fe80::1%eth0", "::ffff:1.2.3.4"]
)
def test_look_up_that_asks_nobody(host):
    """
    What needs no asking is no act: an address, this machine, anything to listen on.
    """
    assert outward_act("socket.getaddrinfo", (host, 1, 0, 0, 0)) is None
    assert outward_act("socket.getaddrinfo", ("example.com", 1, 0, 0, 0))


@pytest.mark.parametrize(
    ("event", "args"),
    [("socket.gethostbyaddr", ("1.2.3.4",)), ("socket.getnameinfo", (("1.2.3.4", 1),))],
)
def test_name_of_an_address(event, args):
    """
    Asking for the name of an address is an act: the name servers hear of it.
    """
    assert outward_act(event, args) == Act(Kind.LOOK_UP, "1.2.3.4")


@pytest.mark.parametrize(
    ("event", "args", "what"),
    [
        ("subprocess.Popen", ("git", ["git", "push", "secret"], None, None), "git"),
        ("subprocess.Popen", (Path("/bin/sh"), ["-c", "secret"], None, None), "/bin/sh"),
        ("os.system", (b"secret",), "a shell"),
        ("os.exec", (b"/bin/true", ["secret"], None), "/bin/true"),
        ("os.posix_spawn", ("/bin/true", ["secret"], {}), "/bin/true"),
        ("os.spawn", (0, "/bin/true", ["secret"], None), "/bin/true"),
        ("os.fork", (), "a copy of this process"),
        ("os.forkpty", (), "a copy of this process"),
        ("cpython.PyInterpreterState_New", (), "an interpreter without this tripwire"),
    ],
)
def test_run(event, args, what):
    """
    Starting a program or a copy of the process is an act that never says with which arguments.
    """
    assert outward_act(event, args) == Act(Kind.RUN, what)


SYMBOLS = (
    "connect sendto sendmsg sendmmsg syscall getaddrinfo gethostbyname gethostbyname2 "
    "gethostbyaddr res_query system popen fork vfork clone posix_spawn posix_spawnp "
    "execl execle execlp execv execve execvp execvpe fexecve"
)


@pytest.mark.parametrize("event", ["ctypes.dlsym", "ctypes.dlsym/handle"])
@pytest.mark.parametrize("symbol", SYMBOLS.split())
def test_call(event, symbol):
    """
    Fetching a function of C that leads outwards is an act; fetching another is none.
    """
    assert outward_act(event, (sentinel.library, symbol)) == Act(Kind.CALL, f"{symbol}() from C")
    assert outward_act(event, (sentinel.library, f"{symbol}_")) is None


@pytest.mark.parametrize(
    "event", ["open", "import", "socket.bind", "socket.__new__", "builtins.id"]
)
def test_what_stays_inside(event):
    """
    Any other event is no act, whatever its arguments are.
    """
    assert event not in EVENTS
    assert outward_act(event, ()) is None


ALWAYS = {"os.fork", "os.forkpty", "os.system", "cpython.PyInterpreterState_New"}


@pytest.mark.parametrize("event", sorted(EVENTS - ALWAYS))
def test_what_nobody_knows(event):
    """
    An event of a form that we do not understand is an act, so that it is refused.
    """
    assert outward_act(event, ()) == Act(Kind.CALL, f"{event} in a way that nobody knows")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Act(Kind.REACH, "1.2.3.4", 443), "reach 1.2.3.4:443"),
        (Act(Kind.REACH, "::1", 443), "reach [::1]:443"),
        (Act(Kind.REACH, "/run/x"), "reach /run/x"),
        (Act(Kind.LOOK_UP, "example.com"), "look up example.com"),
        (Act(Kind.RUN, "a\nb\udcff"), "run a?b?"),
        (Act(Kind.CALL, "x" * LONGEST_SAID), f"call {'x' * 100}"),
        (Act(Kind.RUN, "x" * (LONGEST_SAID + 1)), f"run {'x' * 100}…"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_how_it_is_said(act, said):
    """
    An act is said on one short line, whatever the code has put into it.
    """
    assert str(act) == said


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("0:0:0::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("01.2.3.4", None),
        ("example.com", None),
        ("", None),
    ],
)
def test_address(text, address):
    """
    Each address has one spelling; what only resembles one has none.
    """
    assert address_of(text) == address
