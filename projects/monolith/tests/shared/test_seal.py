import ctypes
import errno
import json
import os
import socket
import sys
from pathlib import Path
from subprocess import run

import pytest

from shared import seal as module
from shared.errors import SealError
from shared.seal import Seal

HERE = "127.0.0.1"
PRELUDE = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, threading
from shared import seal as module
from shared.errors import SealError
from shared.seal import Seal, seal

ports, pid = json.loads(sys.argv[1]), int(sys.argv[2])
said = {}

def attempt(name, work):
    try: said[name] = work() or "done"
    except OSError as error: said[name] = errno.errorcode[error.errno]

def reach(port): socket.create_connection(("127.0.0.1", port)).close()
"""


def child(script, *ports, pid=0):
    """Run a script in a process of its own, whatever becomes of that, and return what it said."""
    ended = run(
        [sys.executable, "-c", f"{PRELUDE}\n{script}\nprint(json.dumps(said))",
         json.dumps(ports), str(pid)],
        env=os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


VERSION = child("said['version'] = str(seal((), required=False))")["version"]
needs_landlock = pytest.mark.skipif(
    not VERSION.startswith("sealed"), reason=f"this machine's kernel says: {VERSION}"
)


@pytest.fixture
def listeners():
    """Two ports that are listened on."""
    with socket.create_server((HERE, 0)) as one, socket.create_server((HERE, 0)) as other:
        for listener in (one, other):
            listener.setblocking(False)
        yield one, other


def came(listener):
    """Tell whether anyone has come to a listener since this was last asked."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.own_process
@needs_landlock
def test_ports(listeners):
    """
    A sealed process and its children connect to the ports of the list only; before, to any.
    """
    one, other = listeners
    said = child(
        """
attempt("before", lambda: reach(ports[1]))
said["seal"] = str(seal((ports[0],), required=True))
attempt("allowed", lambda: reach(ports[0]))
attempt("refused", lambda: reach(ports[1]))
script = f"import socket; socket.create_connection(('127.0.0.1', {ports[1]}))"
ended = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True)
said["child"] = ended.stderr.splitlines()[-1]
""",
        one.getsockname()[1],
        other.getsockname()[1],
    )

    assert (came(one), came(one)) == (True, False)
    assert (came(other), came(other)) == (True, False)
    assert f"TCP {one.getsockname()[1]} only" in said["seal"]
    assert (said["before"], said["allowed"], said["refused"]) == ("done", "done", "EACCES")
    assert said["child"].startswith("PermissionError")


@pytest.mark.own_process
@needs_landlock
def test_from_c(listeners):
    """
    What C code does is held as well: a connect() that Python does not see.
    """
    one, _ = listeners
    said = child(
        """
sock = socket.socket()
address = (2).to_bytes(2, sys.byteorder) + ports[0].to_bytes(2, "big")
address += socket.inet_aton("127.0.0.1") + bytes(8)
connect = ctypes.CDLL(None, use_errno=True).connect
seal((), required=True)
said["result"], said["errno"] = connect(sock.fileno(), address, 16), ctypes.get_errno()
""",
        one.getsockname()[1],
    )

    assert (said["result"], said["errno"], came(one)) == (-1, 13, False)


@pytest.mark.own_process
@needs_landlock
def test_irrevocable(listeners):
    """
    A second seal takes away and never gives back.
    """
    one, other = (listener.getsockname()[1] for listener in listeners)
    said = child(
        """
seal((ports[0],), required=True)
seal((ports[0], ports[1]), required=True)
attempt("both", lambda: reach(ports[0]))
attempt("second", lambda: reach(ports[1]))
""",
        one,
        other,
    )

    assert (said["both"], said["second"]) == ("done", "EACCES")


@pytest.mark.own_process
@needs_landlock
def test_scopes():
    """
    Abstract Unix sockets and other processes' signals are out of reach too; its own are not.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0" + os.urandom(8).hex().encode())
        listener.listen()
        name = listener.getsockname().decode()
        said = child(
            f"""
def abstract(): socket.socket(socket.AF_UNIX).connect({name!r})
attempt("before", abstract)
attempt("signal before", lambda: os.kill(pid, 0))
version = seal((), required=True).landlock
attempt("abstract", abstract)
attempt("signal", lambda: os.kill(pid, 0))
attempt("own", lambda: os.kill(os.getpid(), 0))
said["scoped"] = version >= 6
""",
            pid=os.getpid(),
        )

    assert (said["before"], said["signal before"], said["own"]) == ("done", "done", "done")
    held = "EPERM" if said["scoped"] else "done"
    assert (said["abstract"], said["signal"]) == (held, held)


@pytest.mark.own_process
@needs_landlock
def test_listening():
    """
    Listening, Unix sockets with a path, and what was connected before are left alone.
    """
    said = child(
        """
ours, theirs = socket.socketpair()
seal((), required=True)
def listen(): socket.create_server(("127.0.0.1", 0)).close()
attempt("listen", listen)
attempt("pair", lambda: ours.sendall(b"x"))
"""
    )

    assert said == {"listen": "done", "pair": "done"}


@pytest.mark.own_process
def test_threads():
    """
    Where a second thread runs nothing is sealed, and the reason says so; required, it is refused.
    """
    said = child(
        """
wait = threading.Event()
threading.Thread(target=wait.wait, daemon=True).start()
said["seal"] = str(seal((), required=False))
try: seal((), required=True)
except SealError as error: said["error"] = str(error)
"""
    )

    assert said["seal"] == "unsealed (it has 2 threads already)"
    assert said["error"].startswith("Refused to start unsealed: ")
    assert "the system says it has 2 threads already. " in said["error"]


class Kernel:
    """A kernel that writes down what it is asked, and answers as Landlock of a version does."""

    def __init__(self, version, fails=None):
        self.version, self.fails, self.asked = version, fails, []

    def syscall(self, number, *arguments):
        assert not any(isinstance(found, int) for found in arguments)  # ctypes would cut it short
        plain = [getattr(found, "value", found) for found in (number, *arguments)]
        for place, found in enumerate(arguments):
            if hasattr(found, "_obj"):  # what byref() refers to
                size = plain[2] if number.value == 444 else ctypes.sizeof(found._obj)
                plain[place + 1] = bytes(found._obj)[:size].hex()
        self.asked.append(tuple(plain))
        if number.value == self.fails:
            return -1
        if plain[-1] == 1:
            return self.version
        return os.open(os.devnull, os.O_RDONLY) if number.value == 444 else 0

    def prctl(self, *arguments):
        self.asked.append(("prctl", *arguments))
        return -1 if self.fails == "prctl" else 0


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """Put a kernel behind ctypes: `kernel(7)`."""
    (tmp_path / "1").touch()
    monkeypatch.setattr(module, "_THREADS", tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EPERM)

    def make(version, fails=None):
        made = Kernel(version, fails)

        def library(name, *, use_errno):
            assert (name, use_errno) == (None, True)
            return made

        monkeypatch.setattr("ctypes.CDLL", library)
        return made

    return make


def word(*numbers):
    """Write numbers as the kernel reads them, eight bytes each."""
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers).hex()


@pytest.mark.parametrize(
    ("version", "ruleset"),
    [(4, word(0, 2)), (5, word(0, 2)), (6, word(0, 2, 3)), (9, word(0, 2, 3))],
)
def test_what_the_kernel_is_asked(kernel, version, ruleset):
    """
    The kernel is asked to hold connect() by TCP to the ports, and from version 6 on to hold more.
    """
    fake = kernel(version)
    found = module.seal((443, 5432), required=True)

    assert found == Seal(version, (443, 5432))
    fd = fake.asked[2][1]
    assert fake.asked == [
        (444, None, 0, 1),
        (444, ruleset, len(ruleset) // 2, 0),
        (445, fd, 2, word(2, 443), 0),
        (445, fd, 2, word(2, 5432), 0),
        ("prctl", 38, 1, 0, 0, 0),
        (446, fd, 0),
    ]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("fails", [444, 445, 446, "prctl"])
def test_kernel_that_says_no(kernel, fails):
    """
    A no at any step is no seal, with the kernel's reason; required, it is refused.
    """
    kernel(7, fails)

    assert module.seal((443,), required=False) == Seal(reason="Operation not permitted")
    with pytest.raises(SealError, match="the system says Operation not permitted"):
        module.seal((443,), required=True)


def test_kernel_that_is_old(kernel):
    """
    Landlock before version 4 knows no ports, so that nothing is asked of it.
    """
    fake = kernel(3)

    assert module.seal((443,), required=False) == Seal(reason="its Landlock 3 knows no ports")
    assert len(fake.asked) == 1


def test_second_thread(kernel, tmp_path):
    """
    A second thread would not be held, so that nothing is asked where there is one.
    """
    fake = kernel(7)
    (tmp_path / "2").touch()

    assert module.seal((), required=False) == Seal(reason="it has 2 threads already")
    assert fake.asked == []


def test_other_systems(monkeypatch):
    """
    A system without Landlock is asked for nothing.
    """
    monkeypatch.setattr(sys, "platform", "darwin")

    assert module.seal((), required=False) == Seal(reason="darwin has no Landlock")
    with pytest.raises(SealError, match="darwin has no Landlock"):
        module.seal((), required=True)


@pytest.mark.parametrize(
    ("seal", "said"),
    [
        (Seal(7), "sealed (Landlock 7, no TCP)"),
        (Seal(4, (443, 5432)), "sealed (Landlock 4, TCP 443 and 5432 only)"),
        (Seal(reason="Operation not permitted"), "unsealed (Operation not permitted)"),
    ],
    ids=["no-tcp", "ports", "unsealed"],
)
def test_how_it_is_said(seal, said):
    """
    The audit line says with which Landlock and for which ports it is sealed, or why it is not.
    """
    assert str(seal) == said
