import asyncio
import json.tool
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace

import pytest

from shared.guard import Guard, StartupPoint
from shared.testing import assert_muted

ELSEWHERE = ("192.0.2.1", 443)


class App:
    """An ASGI app that asks its guard about every startup point, and then does as it is told."""

    def __init__(self, start=None, stop=None, *, preview=True):
        self.state = SimpleNamespace(guard=Guard(preview=preview))
        self.start, self.stop, self.started = start, stop, False

    async def __call__(self, scope, receive, send):
        assert (scope["type"], (await receive())["type"]) == ("lifespan", "lifespan.startup")
        self.started = True
        for point in StartupPoint:
            self.state.guard.decide(point)
        if self.start:
            await self.start()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        if self.stop:
            await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


@pytest.fixture
def ended():
    """Whatever a test has started in the background ends by itself once this event is set."""
    event = threading.Event()
    yield event
    event.set()


async def what_is_wrong_with(app, *others, **named):
    """Return the lines of what was not muted."""
    with pytest.raises(AssertionError) as caught:
        await assert_muted(app, *others, **named)
    first, *found = str(caught.value).split("\n- ")
    assert first == "Expected a muted app, and found:"
    return found


async def test_muted_app():
    """
    An app whose guard was asked, and that starts nothing, is muted; it was started and stopped.
    """
    app = App()
    await assert_muted(app)

    assert app.started


async def test_production():
    """
    An app whose guard lets a startup point run is not muted, and is not even started.
    """
    app = App(preview=False)
    found = await what_is_wrong_with(app)

    assert found == [f"the {point} would run (production)" for point in StartupPoint]
    assert not app.started
    assert app.state.guard.decisions == ()


async def test_guard_that_nobody_asked():
    """
    A startup point about which nobody asked the guard is not muted, whatever the app does.
    """
    guard = Guard(preview=True)
    guard.decide(StartupPoint.SCHEDULER)
    unasked = [point for point in StartupPoint if point != StartupPoint.SCHEDULER]

    assert await what_is_wrong_with(App(), guard) == [
        f"nobody asked the guard about the {point}" for point in unasked
    ]


async def test_app_without_a_guard():
    """
    An app that has no guard where it is looked for is refused, with what to do.
    """

    async def app(*_):
        raise AssertionError

    with pytest.raises(TypeError, match=r"or hand it over: assert_muted\(app, guard\)"):
        await assert_muted(app)


async def loop_for_ever():
    """Be a loop that nobody stops."""
    while True:
        await asyncio.sleep(60)


@pytest.mark.parametrize("when", ["start", "stop"])
async def test_task(when):
    """
    A task that runs after the app has started, or after it has stopped, is named.
    """
    tasks = []

    async def begin():
        tasks.append(asyncio.create_task(loop_for_ever(), name="poller"))

    (found,) = await what_is_wrong_with(App(**{when: begin}))
    tasks[0].cancel()

    assert found.startswith("a task runs: poller, <coroutine object loop_for_ever ")


async def test_task_that_was_there():
    """
    A task that was there before the app is not the app's.
    """
    task = asyncio.create_task(loop_for_ever())
    await assert_muted(App())

    assert task.cancel()


async def test_task_that_ends_with_the_app():
    """
    A loop that runs only while the app is up is named all the same.
    """
    tasks = []

    async def start():
        tasks.append(asyncio.create_task(loop_for_ever(), name="poller"))

    async def stop():
        tasks.pop().cancel()

    (found,) = await what_is_wrong_with(App(start, stop))

    assert "poller" in found
    assert tasks == []


async def test_thread(ended):
    """
    A thread that the app has started is named.
    """

    async def start():
        threading.Thread(target=ended.wait, name="ticker").start()

    assert await what_is_wrong_with(App(start)) == ["a thread runs: ticker"]


async def test_look_up():
    """
    A thread in which the loop has looked up the app's database is not the app's.
    """

    async def start():
        await asyncio.get_running_loop().getaddrinfo("localhost", 5432)

    await assert_muted(App(start))

    assert any(thread.name.startswith("asyncio_") for thread in threading.enumerate())


@pytest.mark.parametrize("when", ["start", "stop"])
async def test_outward_acts(when):
    """
    What the app does outwards at its start or its stop is named and does not happen, though the
    app hides it.
    """

    async def act():
        with suppress(OSError):
            socket.create_connection(ELSEWHERE)
        with suppress(OSError):
            subprocess.Popen(["git", "push"])

    assert await what_is_wrong_with(App(**{when: act})) == [
        "it asked to reach 192.0.2.1:443",
        "it asked to run git",
    ]


async def test_what_the_test_lets(sink):
    """
    An app may reach what the test lets it reach, as a database on TCP; its test takes it.
    """
    with socket.create_server(("127.0.0.1", 0)) as database:
        address = database.getsockname()

        async def start():
            socket.create_connection(address).close()

        refused, _ = await what_is_wrong_with(App(start))
        sink.let(*address)
        await assert_muted(App(start))

    assert refused.startswith("it did not start: OutboundRefusedError")
    assert [act.port for act in sink.take()] == [address[1]]


@pytest.mark.parametrize("how", ["import json.tool", "from json import tool"])
async def test_import(how):
    """
    A module that only startup points may import is refused and named, though the app hides it and
    the test has imported it, and is there again afterwards.
    """

    async def start():
        import_module("json.decoder")
        with suppress(ImportError):
            exec(how)

    exec(how)
    before = dict(sys.modules)
    found = await what_is_wrong_with(App(start), modules=["json.tool", "not.there"])

    assert found == ["json.tool was imported"]
    assert sys.modules == before
    assert json.tool is sys.modules["json.tool"]


async def test_app_that_does_not_start():
    """
    An app that cannot start or stop, or has no lifespan, is not taken for a muted one.
    """

    async def fail():
        raise ZeroDivisionError

    async def no_lifespan(scope, _receive, _send):
        assert scope["type"] == "http"

    async def silent(_scope, receive, _send):
        await receive()

    guard = App().state.guard
    for point in StartupPoint:
        guard.decide(point)

    assert await what_is_wrong_with(App(fail)) == ["it did not start: ZeroDivisionError: "]
    assert await what_is_wrong_with(App(None, fail)) == ["it did not stop: ZeroDivisionError: "]
    (found,) = await what_is_wrong_with(no_lifespan, guard)
    assert found.startswith("it did not start: AssertionError")
    assert await what_is_wrong_with(silent, guard) == ["it did not say that it has started"]
