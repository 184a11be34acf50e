"""
The pytest plugin for authors of jobs and routes: both worlds, and whether an app is muted.

pytest loads it by its entry point, so it imports next to nothing, and nothing of ours imports it.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from shared.muted import assert_muted
from shared.sink import Sink

if TYPE_CHECKING:  # every project whose venv has us pays for what we import
    from shared.settings import Settings

__all__ = ["Block", "Sink", "World", "as_preview", "as_production", "assert_muted"]

CLONE = "postgresql://app:secret@monolith-pg-pr-7-rw:5432/monolith"
SOURCE = "postgresql://app:secret@monolith-pg-rw:5432/monolith"
KEPT = ("HOME", "PATH", "TMPDIR")
"""What a program needs that a test may start, whichever world it is in."""
LEFT_ALONE = ("COVERAGE_", "PYTEST_")
"""What the tools around a test keep in its environment."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Layer:
    """An environment that replaces another one, which is `before`."""

    def __init__(self, before: dict[str, str]) -> None:
        self.before = before


_layers: list[_Layer] = []
_lock = RLock()


def _read() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ if not name.startswith(LEFT_ALONE)}


def _write(variables: Mapping[str, str]) -> None:
    for name in _read():
        del os.environ[name]
    os.environ.update(variables)


class Block:
    """
    A block, or the calls of a function, in one world.

    Inside, the environment holds what this world has and nothing else; then it
    is exactly as before, also after an exception, and whatever the order in
    which blocks of several tasks end.
    """

    def __init__(self, **variables: str) -> None:
        self.variables = variables
        self._entered: list[_Layer] = []

    def __enter__(self) -> "Settings":
        from shared.settings import Settings  # noqa: PLC0415  see TYPE_CHECKING

        with _lock:
            kept = {name: os.environ[name] for name in KEPT if name in os.environ}
            self._entered.append(_Layer(_read()))
            _layers.append(self._entered[-1])
            _write(kept | self.variables)
            try:
                return Settings()
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __exit__(self, *_: object) -> None:
        with _lock:
            layer = self._entered.pop()
            at = _layers.index(layer)
            del _layers[at]
            if at < len(_layers):  # a later block goes on, and will bring back what we found
                _layers[at].before = layer.before
            else:
                _write(layer.before)

    def __call__(self, function: _Function) -> _Function:
        """
        Make a function run in this world, whether sync or async.

        Raises:
            TypeError: it is something else, whose work would be done outside.
        """
        if not inspect.isfunction(function) or _yields(function):
            msg = (
                f"Cannot decorate {function!r}: expected a function that returns, or an async one. "
                "Use the fixture preview_env or production_env, with usefixtures on a class."
            )
            raise TypeError(msg)

        @wraps(function)
        def here(*args: Any, **named: Any) -> Any:
            with Block(**self.variables):
                return function(*args, **named)

        @wraps(function)
        async def later(*args: Any, **named: Any) -> Any:
            with Block(**self.variables):
                return await function(*args, **named)

        return cast("_Function", later if inspect.iscoroutinefunction(function) else here)


def _yields(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def as_preview(**variables: str) -> Block:
    """
    Be in a preview, for a block that gets its settings, or for a function that it decorates.

    The environment is a legal one; `variables` are added, or replace DATABASE_URL.
    """
    return Block(**{"DATABASE_URL": CLONE, **variables}, PR_ENV="true")


def as_production(**variables: str) -> Block:
    """Be in production; all else is as with `as_preview`."""
    return Block(**{"DATABASE_URL": SOURCE, **variables}, PR_ENV="false")


WORLDS = {"preview": as_preview, "production": as_production}


@dataclass(frozen=True, slots=True)
class World:
    """The world that a test is in, and the settings that its environment gives."""

    name: str
    settings: "Settings"

    @property
    def preview(self) -> bool:
        """Whether it is a preview; else it is production."""
        return self.settings.pr_env

    def enter(self, **variables: str) -> Block:
        """Be in the same world with other variables: `with world.enter(DATABASE_URL=dsn) as …`."""
        return WORLDS[self.name](**variables)


def _for_a_test(block: Block, monkeypatch: pytest.MonkeyPatch) -> Iterator["Settings"]:
    # monkeypatch is torn down after us, and then gives every variable the value that it has here
    for name, value in _read().items():
        monkeypatch.setenv(name, value)
    for name in block.variables.keys() - os.environ.keys():
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with block as settings:
        yield settings


@pytest.fixture
def preview_env(monkeypatch: pytest.MonkeyPatch) -> Iterator["Settings"]:
    """Be in a preview while the test runs; these are its settings."""
    yield from _for_a_test(as_preview(), monkeypatch)


@pytest.fixture
def production_env(monkeypatch: pytest.MonkeyPatch) -> Iterator["Settings"]:
    """Be in production while the test runs; these are its settings."""
    yield from _for_a_test(as_production(), monkeypatch)


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Be in the world of this run of a test that is marked `both_worlds`: `world.preview`."""
    mark = request.node.get_closest_marker("both_worlds")
    if not hasattr(request, "param"):
        pytest.fail(
            "Cannot choose a world: expected the test to say that it runs in both. "
            "Mark it with @pytest.mark.both_worlds.",
            pytrace=False,
        )
    enter = WORLDS[request.param]
    block = enter(*mark.args, **mark.kwargs) if mark else enter()
    for settings in _for_a_test(block, monkeypatch):
        yield World(request.param, settings)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Refuse and record what goes out from here on; what the test does not `take()` fails it."""
    with Sink() as opened:
        yield opened
    if acts := opened.take():
        left = "\n- ".join(["Expected that nothing goes out, and found:", *map(str, acts)])
        pytest.fail(f"{left}\nWhat the test means to happen it takes: sink.take().", pytrace=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        "both_worlds(**variables): run the test in a preview and in production, "
        "whose environments also have these variables.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make two tests of each that is marked."""
    if metafunc.definition.get_closest_marker("both_worlds"):
        if "world" not in metafunc.fixturenames:
            metafunc.fixturenames.append("world")
        metafunc.parametrize("world", WORLDS, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have a marked test enter its world also where it does not ask for the fixture."""
    if not item.get_closest_marker("both_worlds"):
        return
    if not isinstance(item, pytest.Function) or "world" not in _params(item):
        pytest.fail(
            f"Cannot run {item.name} in both worlds: expected a test that can be parametrized, "
            "a method of unittest.TestCase cannot. Make it a plain function or class.",
            pytrace=False,
        )
    if "world" not in item.fixturenames:
        item.fixturenames.append("world")


def _params(item: pytest.Function) -> Mapping[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}
