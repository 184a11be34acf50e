import errno
import io
import json
import os
import re
import socket
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import run

import pytest
import structlog
from structlog.testing import capture_logs

from shared import log, tripwire
from shared.database import Database
from shared.errors import OutboundRefusedError, UnguardedError
from shared.outward import Act, Kind
from shared.seal import Seal
from shared.settings import Settings
from shared.tripwire import Allowed, Tripwire
from tests.environment import ACCESS, audit_hooks, environment

CLONE, ELSEWHERE = "127.0.0.1", "127.0.0.9"
TCP = "postgresql://app:x@monolith-pg-pr-7-rw:5432/monolith"
UNIX = "postgresql://app:x@/monolith?host=/run/monolith-pg-pr-7"

PRELUDE = """
import asyncio, ctypes, http.client, json, os, shlex, socket, subprocess, sys, threading

host, port, armed_for, path = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
armed = lambda: None
if armed_for is not None:
    from shared import log
    from shared.seal import Seal
    from shared.tripwire import Allowed, arm, armed
    log.set_up()
    arm(Allowed(tuple(map(tuple, armed_for["hosts"])), tuple(armed_for["sockets"])), Seal())
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
reaching = f"import socket; socket.create_connection(({host!r}, {port}))"
client = [sys.executable, "-S", "-c", reaching]

def in_a_thread(work):
    caught = []
    def body():
        try: work()
        except OSError as error: caught.append(error)
    thread = threading.Thread(target=body)
    thread.start(); thread.join()
    if caught: raise caught[0]

async def datagram():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=(host, port))
    transport.sendto(b"x"); transport.close()

def fork():
    if os.fork() == 0:
        try: socket.create_connection((host, port))
        finally: os._exit(0)
    os.wait()

def from_c():
    libc = ctypes.CDLL(None)
    address = (2).to_bytes(2, sys.byteorder) + port.to_bytes(2, "big") + socket.inet_aton(host)
    sock = socket.socket()
    libc.connect(sock.fileno(), address + bytes(8), 16)

said = "nothing"
try:
    ATTEMPT
    said = "done"
except BaseException as error:
    said, refusal = f"{type(error).__name__}: {error}", error
    while refusal and type(refusal).__name__ != "OutboundRefusedError":
        refusal = refusal.__cause__ or refusal.__context__
    if refusal: said = "refused"
print(json.dumps({"said": said, "counted": armed().refused if armed() else None}))
"""


class Listener:
    """Listens at one port for TCP and datagrams; whoever comes waits to be counted."""

    def __init__(self, host):
        self.stream, self.datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        self.stream.bind((host, 0))
        self.port = self.stream.getsockname()[1]
        self.stream.listen()
        self.datagrams.bind((host, self.port))
        for sock in (self.stream, self.datagrams):
            sock.setblocking(False)

    def came(self):
        """Count who has come since this was last asked."""
        count = 0
        for take in (self.stream.accept, lambda: self.datagrams.recvfrom(9)):
            with suppress(BlockingIOError):
                while True:
                    first, _ = take()
                    count += 1
                    if isinstance(first, socket.socket):
                        first.close()
        return count


@pytest.fixture
def listener():
    """Make listeners: `listener("127.0.0.9")`."""
    with ExitStack() as stack:

        def listen(host):
            made = Listener(host)
            stack.enter_context(made.stream)
            stack.enter_context(made.datagrams)
            return made

        yield listen


def attempt(what, host, port, allowed=None, path=""):
    """Try something in a process of its own, which is armed where anything is said of it."""
    ended = run(
        [sys.executable, "-c", PRELUDE.replace("ATTEMPT", what), host, str(port),
         json.dumps(allowed), path],
        env=os.environ | {"PYTHONPATH": str(Path(tripwire.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = json.loads(ended.stdout) if ended.stdout else {"said": ended.stderr}
    logged = re.findall(r"^\{.+\}$", ended.stderr, re.MULTILINE)
    return said | {"log": [json.loads(line) for line in logged]}


WAYS = {
    "connect": "socket.socket().connect((host, port))",
    "connect_ex": "socket.socket().connect_ex((host, port))",
    "create_connection": "socket.create_connection((host, port))",
    "v6-mapped": "socket.socket(socket.AF_INET6).connect((f'::ffff:{host}', port))",
    "sendto": "udp.sendto(b'x', (host, port))",
    "sendmsg": "udp.sendmsg([b'x'], [], 0, (host, port))",
    "fast-open": "socket.socket().sendto(b'x', socket.MSG_FASTOPEN, (host, port))",
    "asyncio": "asyncio.run(asyncio.open_connection(host, port))",
    "asyncio-udp": "asyncio.run(datagram())",
    "thread": "in_a_thread(lambda: socket.create_connection((host, port)))",
    "http": "http.client.HTTPConnection(host, port).connect()",
    "subprocess": "subprocess.run(client, check=True)",
    "system": "os.system(shlex.join(client))",
    "spawn": "os.waitpid(os.posix_spawn(client[0], client, os.environ), 0)",
    "exec": "os.execv(client[0], client)",
    "fork": "fork()",
    "ctypes": "from_c()",
    "interpreter": "import _xxsubinterpreters as i; i.run_string(i.create(), client[3])",
}


def allowing(*hosts, sockets=()):
    """Say what is allowed."""
    return {"hosts": hosts, "sockets": sockets}


@pytest.mark.own_process
@pytest.mark.parametrize("what", WAYS.values(), ids=WAYS.keys())
def test_way_out(listener, what):
    """
    Each way out is refused before anything leaves, and led to a listener before it was armed.
    """
    elsewhere = listener(ELSEWHERE)
    attempt(what, ELSEWHERE, elsewhere.port)
    unarmed = elsewhere.came()
    armed = attempt(what, ELSEWHERE, elsewhere.port, allowing((CLONE, elsewhere.port)))

    assert (unarmed, elsewhere.came()) == (1, 0)
    assert armed["counted"]
    assert armed["said"] == "refused" or "interpreter creation failed" in armed["said"]


@pytest.mark.own_process
@pytest.mark.parametrize(
    "allowed",
    [CLONE, "localhost"],
    ids=["address", "name"],
)
def test_clone(listener, allowed):
    """
    The clone is reached, by address and by name, at its port; another port or host is not.
    """
    clone, other = listener(CLONE), listener(CLONE)
    reach = "for _ in range(2): socket.create_connection((host, port))"
    same = attempt(reach, CLONE, clone.port, allowing((allowed, clone.port)))
    by_name = attempt(reach, "localhost", clone.port, allowing(("localhost", clone.port)))
    port = attempt(reach, CLONE, other.port, allowing((allowed, clone.port)))

    assert (same["said"], by_name["said"], clone.came()) == ("done", "done", 4)
    assert same["counted"] == {}
    assert (port["said"], other.came()) == ("refused", 0)
    assert port["counted"] == {f"reach {CLONE}:{other.port}": 1}


@pytest.mark.own_process
def test_name(listener):
    """
    No other name is looked up; one that is allowed is.
    """
    port = listener(CLONE).port
    allowed = allowing(("localhost.localdomain", port))
    control = attempt("socket.getaddrinfo('x.invalid', port)", CLONE, port)
    refused = attempt("socket.getaddrinfo('x.invalid', port)", CLONE, port, allowed)
    let = attempt(
        "try: socket.getaddrinfo('localhost.localdomain', port)\n    except socket.gaierror: pass",
        CLONE, port, allowed,
    )  # fmt: skip

    assert control["said"].startswith("gaierror")
    assert (refused["said"], refused["counted"]) == ("refused", {"look up x.invalid": 1})
    assert (let["said"], let["counted"]) == ("done", {})


@pytest.mark.own_process
def test_unix_socket(state_dir):
    """
    The clone's Unix socket is reached; another is not, Docker's least of all.
    """
    directory = state_dir / "u"
    directory.mkdir()
    ours, docker = directory / ".s.PGSQL.5432", directory / "docker.sock"
    with socket.socket(socket.AF_UNIX) as clone, socket.socket(socket.AF_UNIX) as other:
        for sock, path in ((clone, ours), (other, docker)):
            sock.bind(str(path))
            sock.listen()
            sock.setblocking(False)
        reach = "socket.socket(socket.AF_UNIX).connect(path)"
        allowed = allowing(sockets=[str(ours)])
        said = [
            attempt(reach, CLONE, 1, allowed, str(path))["said"]
            for path in (ours, docker, directory / "." / ".." / "u" / "docker.sock")
        ]
        accepted = clone.accept()[0]
        accepted.close()
        with pytest.raises(BlockingIOError):
            other.accept()

    assert said == ["done", "refused", "refused"]


@pytest.mark.own_process
def test_counted_and_logged_once():
    """
    A refusal is counted each time and logged the first time, and neither grows without an end.
    """
    scan = """
    for number in range(2 * 150):
        try: socket.socket().connect((host, 1 + number % 150))
        except OSError as error: last = error
    try: raise last
    finally: assert last.errno == 1"""
    ended = attempt(scan, ELSEWHERE, 1, allowing((CLONE, 5432)))
    counted = ended["counted"]

    assert len(counted) == len(ended["log"]) == tripwire.MOST_COUNTED + 1
    assert counted[f"reach {ELSEWHERE}:1"] == 2
    assert counted[tripwire.REST] == 2 * 50
    assert ended["log"][0]["event"] == "outbound refused"
    assert ended["log"][0]["act"] == f"reach {ELSEWHERE}:1"


@pytest.mark.own_process
def test_rebinding():
    """
    Assigning to the names that arming has read neither disarms nor widens what is armed.
    """
    rebind = """
    import shared.tripwire as tripwire, shared.outward as outward
    for name, value in dict(vars(tripwire)).items():
        if getattr(value, "__module__", "").startswith("shared.") and name != "armed":
            setattr(tripwire, name, lambda *_: None)
    outward.outward_act = lambda *_: None
    outward.EVENTS = frozenset()
    sys.addaudithook = None
    os.system("true")"""
    ended = attempt(rebind, CLONE, 1, allowing((CLONE, 1)))

    assert ended["said"] == "refused"


@pytest.mark.own_process
def test_arming_again():
    """
    Arming a second time allows nothing that the first did not.
    """
    again = "arm(Allowed(((host, port),)), Seal()); socket.socket().connect((host, port))"
    ended = attempt(again, ELSEWHERE, 9, allowing((CLONE, 9)))

    assert (ended["said"], ended["counted"]) == ("refused", {f"reach {ELSEWHERE}:9": 1})


@pytest.mark.own_process
def test_hook_that_keeps_it_out():
    """
    Where another hook keeps the tripwire from being armed, nobody is told that it is.
    """
    veto = """
    from shared.seal import Seal
    from shared.tripwire import Allowed, arm
    def veto(event, args):
        if event == "sys.addaudithook": raise RuntimeError
    sys.addaudithook(veto)
    arm(Allowed(), Seal())"""
    ended = attempt(veto, CLONE, 1)

    assert "another audit hook keeps it from being armed" in ended["said"]
    assert ended["counted"] is None


def test_this_process():
    """
    Nothing is armed where nobody has armed it.
    """
    assert tripwire.armed() is None


def test_refusal():
    """
    A refusal is an OSError that libraries take for a lack of permission, and says what to do.
    """
    error = OutboundRefusedError("reach h:1", "clone:5432", "Name it.")

    assert isinstance(error, PermissionError)
    assert error.errno == errno.EPERM
    assert str(error) == (
        "Refused to reach out: expected nothing but clone:5432, the code asks to reach h:1. "
        "Name it."
    )


def found_armed():
    """Return what is armed, where something must be."""
    armed = tripwire.armed()
    assert armed
    return armed


@pytest.fixture
def hooked():
    """What tells a tripwire that was armed in this process; Python itself tells it nothing."""
    with audit_hooks():
        tripwire.arm(Allowed(((CLONE, 9),), ("/s",)), Seal())
        yield sys.audit
    assert tripwire.armed() is None


def test_hook(hooked):
    """
    The hook refuses what is not allowed, and lets pass what is, what is no act, and what it is not
    told of.
    """
    with socket.socket() as sock:
        hooked("socket.connect", sock, (CLONE, 9))
        hooked("socket.connect", sock, (f"::ffff:{CLONE}", 9))
        hooked("socket.sendmsg", sock, None)
        hooked("socket.getaddrinfo", "localhost", 1, 0, 0, 0)
        hooked("ctypes.dlsym", None, "strlen")
        hooked("open", "/etc/passwd", "r", 0)
        with pytest.raises(OutboundRefusedError) as refused:
            hooked("socket.connect", sock, (CLONE, 8))

    assert refused.value.act == f"reach {CLONE}:8"
    assert refused.value.allowed == f"/s, {CLONE}:9"
    assert refused.value.remedy == tripwire.REMEDIES[Kind.REACH]
    assert found_armed().refused == {f"reach {CLONE}:8": 1}


def test_hook_says_what_is_armed(hooked):
    """
    The hook itself says what is armed, with its seal, and that nothing was refused yet.
    """
    found = found_armed()

    assert hooked
    assert (found.allowed, found.seal) == (Allowed(((CLONE, 9),), ("/s",)), Seal())
    assert found.refused == {}


def test_hook_that_is_not_asked(monkeypatch):
    """
    Arming that does not answer is an error, not a claim.
    """
    monkeypatch.setattr("sys.addaudithook", lambda _: None)
    with pytest.raises(UnguardedError, match="says another audit hook keeps it from being armed"):
        tripwire.arm(Allowed(), Seal())

    assert tripwire.armed() is None


def test_counting():
    """
    Each act is counted, each first one logged; beyond the hundredth they are counted as one.
    """
    refused: Counter[str] = Counter()
    with capture_logs() as logged:
        count = tripwire._counting(refused)
        for number in range(tripwire.MOST_COUNTED + 2):
            count(Act(Kind.RUN, str(number)))
            count(Act(Kind.RUN, "0"))

    assert refused["run 0"] == tripwire.MOST_COUNTED + 3
    assert refused["the rest"] == 2
    assert len(refused) == tripwire.MOST_COUNTED + 1
    assert [line["act"] for line in logged] == list(refused)
    assert {(line["event"], line["log_level"]) for line in logged} == {
        ("outbound refused", "warning")
    }


def test_log_that_fails():
    """
    An act is counted, and so refused, also where the log cannot be written.
    """

    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "No space left on device")

    refused: Counter[str] = Counter()
    log.set_up(Full())
    try:
        tripwire._counting(refused)(Act(Kind.RUN, "git"))
    finally:
        structlog.reset_defaults()

    assert refused == {"run git": 1}


@pytest.mark.parametrize(
    ("kind", "named"),
    [(Kind.REACH, True), (Kind.LOOK_UP, True), (Kind.RUN, False), (Kind.CALL, False)],
)
def test_remedy(kind, named):
    """
    What can be allowed says how; what cannot sends to production only.
    """
    remedy = tripwire.REMEDIES[kind]

    assert ("EGRESS_ALLOW" in remedy and "preview.egressAllow" in remedy) is named
    assert "production" in remedy


@pytest.mark.parametrize(
    ("dsn", "more", "said", "ports"),
    [
        (UNIX, {}, ["/run/monolith-pg-pr-7/.s.PGSQL.5432"], ()),
        (TCP, {}, ["monolith-pg-pr-7-rw:5432"], (5432,)),
        (
            TCP,
            ACCESS | {"EGRESS_ALLOW": "b.example:443,1.2.3.4:25"},
            [
                "monolith-pg-pr-7-rw:5432",
                "team.cloudflareaccess.com:443",
                "b.example:443",
                "1.2.3.4:25",
            ],
            (25, 443, 5432),
        ),
        (
            UNIX,
            ACCESS | {"ACCESS_TEAM_DOMAIN": "https://team.example:8443"},
            ["/run/monolith-pg-pr-7/.s.PGSQL.5432", "team.example:8443"],
            (8443,),
        ),
    ],
    ids=["twin", "cluster", "all", "team-port"],
)
def test_allowed(dsn, more, said, ports):
    """
    A preview may reach its clone, its team's keys and EGRESS_ALLOW, each at its port.
    """
    with environment(PR_ENV="true", DATABASE_URL=dsn, **more):
        settings = Settings()
    allowed = Allowed.from_settings(settings, Database.from_settings(settings).target)

    assert (allowed.said, allowed.ports) == (said, ports)


@pytest.mark.parametrize(
    ("seal", "first", "count"),
    [
        (Seal(), "TCP from C code, and", 8),
        (Seal(5, (443,)), "TCP to port 443 of any host from C code, and", 8),
        (Seal(6, (443,)), "TCP to port 443 of any host from C code, and", 7),
        (Seal(7, (443, 5432)), "TCP to port 443 and 5432 of any host from C code, and", 7),
        (Seal(7), "datagrams, Multipath TCP and TCP fast open from C code, and", 6),
    ],
    ids=["unsealed", "without-scopes", "scopes", "ports", "no-tcp"],
)
def test_blind_spots(seal, first, count):
    """
    The blind spots that remain are fewer, the more is sealed; that the hook can be passed stays.
    """
    spots = Tripwire(Allowed(), seal).blind_spots

    assert spots[0].startswith(first)
    assert ("signals to other processes of the same user" in spots) is not seal.scoped
    assert (len(spots), spots[-1]) == (count, "code of the pull request that disarms the tripwire")
