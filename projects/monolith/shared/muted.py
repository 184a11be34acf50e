"""The part of the pytest plugin that starts and stops an app, and tells what was not muted."""

import importlib.abc
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager
from threading import enumerate as threads
from typing import TYPE_CHECKING, Any

from shared.sink import Sink

if TYPE_CHECKING:  # see shared.testing
    from shared.guard import Guard

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
TURNS = 10
"""Of the loop: what was started has so many to show itself."""
POOLED = "asyncio_"
"""Threads of the loop's own executor, which stay when they have looked up a name."""


async def assert_muted(
    app: App, guard: "Guard | None" = None, *, modules: Collection[str] = ()
) -> None:
    """
    Start an app and stop it, and assert that no startup point took part in either.

    Never starts an app whose guard lets anything run.

    Args:
        app: an ASGI app that was not started yet; its guard is `app.state.guard`.
        guard: the app's guard, where it is not there.
        modules: what only startup points import. Whoever imports them meanwhile
            is refused, also where a test has imported them before.

    Raises:
        AssertionError: it names all that was not muted.
        TypeError: there is no guard.
    """
    __tracebackhide__ = True
    guard = guard or getattr(getattr(app, "state", None), "guard", None)
    if guard is None:
        msg = (
            "Cannot tell whether the app is muted: expected its guard at app.state.guard, there is "
            "none. Put it there, or hand it over: assert_muted(app, guard)."
        )
        raise TypeError(msg)
    found = _running(guard)
    if not found:
        with _refused(modules) as imported:
            found = await _Visit().to(app)
        found += [f"{name} was imported" for name in imported]
        found += [f"nobody asked the guard about the {point}" for point in _unasked(guard)]
    if found:
        raise AssertionError("\n- ".join(["Expected a muted app, and found:", *found]))


def _running(guard: "Guard") -> list[str]:
    """Say which startup points such a guard lets run; it is not asked itself."""
    from shared.guard import Guard, StartupPoint  # noqa: PLC0415  see TYPE_CHECKING

    asked = [Guard(guard.preview, guard.lacking).decide(point) for point in StartupPoint]
    return [f"the {it.point} would run ({it.reason})" for it in asked if it.runs]


def _unasked(guard: "Guard") -> list[str]:
    from shared.guard import StartupPoint  # noqa: PLC0415  see TYPE_CHECKING

    return [point for point in StartupPoint if point not in {it.point for it in guard.decisions}]


class _Visit:
    """One run of an app's lifespan, in the visitor's own task, and all that it has left behind."""

    def __init__(self) -> None:
        self._before = _running_now()
        self._left: dict[object, str] = {}
        self._ready = self._asked = False

    async def to(self, app: App) -> list[str]:
        """Start the app, look around, stop it, look again; say what was found."""
        version = {"version": "3.0", "spec_version": "2.0"}
        scope: Message = {"type": "lifespan", "asgi": version, "state": {}}
        trouble = []
        with Sink() as sink:
            try:
                await app(scope, self._receive, self._send)
            except Exception as error:  # noqa: BLE001  whatever it is, the app is not as expected
                when = "stop" if self._ready else "start"
                trouble.append(f"it did not {when}: {type(error).__name__}: {error}")
            await self._look()
        if not self._ready and not trouble:
            trouble.append("it did not say that it has started")
        return [*trouble, *self._left.values(), *(f"it asked to {act}" for act in sink.take())]

    async def _receive(self) -> Message:
        if self._asked:
            await self._look()
            return {"type": "lifespan.shutdown"}
        self._asked = True
        return {"type": "lifespan.startup"}

    async def _send(self, message: Message) -> None:
        self._ready = self._ready or message["type"] == "lifespan.startup.complete"

    async def _look(self) -> None:
        from asyncio import sleep  # noqa: PLC0415  see shared.testing

        for _ in range(TURNS):
            await sleep(0)
        now = _running_now()
        self._left |= {one: said for one, said in now.items() if one not in self._before}


def _running_now() -> dict[object, str]:
    """Say of each task of this loop, and of each thread but the loop's own, that it runs."""
    from asyncio import all_tasks  # noqa: PLC0415  see shared.testing

    said: dict[object, str] = {}
    said.update((it, f"a task runs: {it.get_name()}, {it.get_coro()!r}") for it in all_tasks())
    for thread in threads():
        if not thread.name.startswith(POOLED):
            said[thread] = f"a thread runs: {thread.name}"
    return said


class _Finder(importlib.abc.MetaPathFinder):
    """Refuses to find some modules and what is in them, and remembers who was looked for."""

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = tuple(modules)
        self.asked: list[str] = []

    def refuses(self, name: str) -> bool:
        """Tell whether a module is one of them, or is in one."""
        return any(f"{name}.".startswith(f"{module}.") for module in self._modules)

    def find_spec(self, name: str, *_: object) -> None:
        """Leave what is not refused to the other finders."""
        if self.refuses(name):
            self.asked.append(name)
            msg = f"Refused to import {name}: expected a muted app, only startup points import it."
            raise ImportError(msg, name=name)


@contextmanager
def _refused(modules: Collection[str]) -> Iterator[list[str]]:
    """Let nobody import these modules; yields who was asked for."""
    finder = _Finder(modules)
    hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if finder.refuses(name)}
    split = [(*name.rpartition("."), module) for name, module in hidden.items()]
    owned = [(sys.modules[up], name, it) for up, _, name, it in split if up in sys.modules]
    for owner, name, _ in owned:
        vars(owner).pop(name, None)
    sys.meta_path.insert(0, finder)
    try:
        yield finder.asked
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(hidden)
        for owner, name, module in owned:
            setattr(owner, name, module)
