import asyncio
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from shared.errors import OutboundRefusedError
from shared.testing import Sink


@pytest.fixture
def listener():
    """A TCP server on loopback that is only listened on: `port`, and `hits()` counts who came."""

    class Listener:
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]

        def hits(self):
            self.server.settimeout(0.1)
            met = 0
            with suppress(TimeoutError):
                while True:
                    self.server.accept()[0].close()
                    met += 1
            return met

    with Listener.server:
        yield Listener()


def connect(port):
    socket.create_connection(("127.0.0.1", port)).close()


async def connect_async(port):
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def send(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", ("127.0.0.1", port))


async def run_async(_port):
    await (await asyncio.create_subprocess_exec("true")).wait()


def in_a_thread(port):
    caught = []

    def work():
        try:
            connect(port)
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


ACTS = {
    "connect": (connect, "reach 127.0.0.1:PORT"),
    "async-connect": (connect_async, "reach 127.0.0.1:PORT"),
    "thread": (in_a_thread, "reach 127.0.0.1:PORT"),
    "executor": (lambda port: asyncio.to_thread(connect, port), "reach 127.0.0.1:PORT"),
    "datagram": (send, "reach 127.0.0.1:PORT"),
    "look-up": (lambda _: socket.getaddrinfo("nobody.invalid", 443), "look up nobody.invalid"),
    "program": (lambda _: subprocess.run(["true"], check=True), "run true"),
    "async-program": (run_async, "run true"),
    "shell": (lambda _: os.system("true"), "run a shell"),
}


async def perform(act, port):
    """Do an act, whether sync or async."""
    done = act(port)
    if asyncio.iscoroutine(done):
        await done


@pytest.mark.parametrize(("act", "said"), ACTS.values(), ids=ACTS)
async def test_act(sink, listener, act, said):
    """
    An act is refused before it has an effect, as an OSError, and recorded, from wherever it comes.
    """
    with pytest.raises(OutboundRefusedError, match="expected nothing but what the test has let"):
        await perform(act, listener.port)

    assert [str(one) for one in sink.take()] == [said.replace("PORT", str(listener.port))]
    assert listener.hits() == 0
    assert sink.take() == []


async def test_what_is_let(sink, listener):
    """
    What the test lets goes out, is recorded all the same, and is exactly what the test named.
    """
    sink.let("127.0.0.1", listener.port)
    sink.let("true")
    connect(listener.port)
    await run_async(None)
    with pytest.raises(OutboundRefusedError):
        connect(1)
    with pytest.raises(OutboundRefusedError):
        subprocess.run(["git", "push"], check=False)

    assert [str(act) for act in sink.take()] == [
        f"reach 127.0.0.1:{listener.port}", "run true", "reach 127.0.0.1:1", "run git",
    ]  # fmt: skip
    assert listener.hits() == 1


async def test_what_is_no_act(source, sink):
    """
    The test's Postgres and what its own loop needs go out unrecorded; another socket does not.
    """
    async with source.connect() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await asyncio.to_thread(asyncio.run, asyncio.sleep(0))
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OutboundRefusedError):
        other.connect("/run/docker.sock")

    assert [str(act) for act in sink.take()] == ["reach /run/docker.sock"]


def test_one_in_another(listener):
    """
    The innermost sink records what is refused, and the one that lets an act records that.
    """
    with Sink() as outer, Sink() as inner:
        outer.let("127.0.0.1", listener.port)
        connect(listener.port)
        with pytest.raises(OutboundRefusedError):
            send(1)

    assert [act.port for act in outer.take()] == [listener.port]
    assert [act.port for act in inner.take()] == [1]


def test_closed(listener):
    """
    A sink that is closed, also by an exception, hears nothing and refuses nothing.
    """
    with suppress(ZeroDivisionError), Sink() as sink:
        raise ZeroDivisionError
    connect(listener.port)

    assert sink.take() == []
    assert listener.hits() == 1


def python(script):
    """Return what a script prints in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_hook():
    """
    A process that opens no sink gets no hook, and one that opens many gets one.
    """
    script = """
import sys
hooks = 0
def count(event, args):
    global hooks
    hooks += event == "sys.addaudithook"
sys.addaudithook(count)
from shared.testing import Sink
print(hooks)
for _ in range(3):
    with Sink():
        pass
print(hooks)
"""
    assert python(script).split() == ["0", "1"]


def test_hook_that_is_kept_out():
    """
    A sink that another audit hook keeps out refuses to open; it does not pass for an empty one.
    """
    script = """
import sys
def only_me(event, args):
    if event == "sys.addaudithook":
        raise RuntimeError
sys.addaudithook(only_me)
from shared.testing import Sink
try:
    with Sink():
        print("open")
except RuntimeError as error:
    print(error)
"""
    assert python(script).startswith("Cannot open the sink: expected to hear audit events")


TESTS = """
    import socket
    import subprocess
    import threading
    from contextlib import suppress

    ELSEWHERE = ("192.0.2.1", 443)

    def test_quiet(sink):
        pass

    def test_hidden(sink):
        with suppress(OSError):
            socket.create_connection(ELSEWHERE)
        with suppress(OSError):
            subprocess.run(["git", "push"])

    def test_taken(sink):
        with suppress(OSError):
            socket.create_connection(ELSEWHERE)
        assert [str(act) for act in sink.take()] == ["reach 192.0.2.1:443"]

    def test_taken_too_early(sink):
        assert sink.take() == []
        with suppress(OSError):
            socket.getaddrinfo("nobody.invalid", 443)

    async def test_raised(sink):
        socket.create_connection(ELSEWHERE)

    def test_let(sink):
        sink.let("true")
        subprocess.run(["true"])

    def test_without(tmp_path):
        subprocess.run(["true"], check=True)
"""


@pytest.mark.parametrize("options", [["-n0"], ["-n2"]], ids=["alone", "xdist"])
def test_outcome(pytester, options):
    """
    A test that leaves an act in the sink is an error at its teardown, which lists what went out.
    """
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--strict-markers", "--strict-config", "-ra", *options)

    result.assert_outcomes(passed=6, failed=1, errors=4)
    result.stdout.fnmatch_lines(
        [
            "Expected that nothing goes out, and found:",
            "- reach 192.0.2.1:443",
            "- run git",
            "What the test means to happen it takes: sink.take().",
        ]
    )
    result.stdout.fnmatch_lines_random(["- look up nobody.invalid", "- run true"])
    result.stdout.fnmatch_lines_random(
        [f"ERROR *::test_{name} *" for name in ("hidden", "taken_too_early", "raised", "let")]
    )
    result.stdout.fnmatch_lines(["FAILED *::test_raised *"])
