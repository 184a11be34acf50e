import asyncio
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import signature
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.settings import Settings
from shared.testing import CLONE, SOURCE, as_preview, as_production

WORLDS = (as_preview, as_production)
SECRET = {"GITHUB_TOKEN": "hunter2"}
INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture
def untouched(monkeypatch):
    """Hold that each test leaves the environment as it found it, with a secret in it."""
    monkeypatch.setenv("GITHUB_TOKEN", "the developer's own")
    before = dict(os.environ)
    yield
    assert dict(os.environ) == before | {"PYTEST_CURRENT_TEST": os.environ["PYTEST_CURRENT_TEST"]}


@pytest.mark.usefixtures("untouched")
class TestBlock:  # noqa: D101  its tests say it
    @pytest.mark.both_worlds(**SECRET)
    def test_settings(self, world):
        """
        A world has its own settings, and a preview drops the credentials that production keeps.
        """
        names = set(os.environ) - {"HOME", "PATH", "TMPDIR"}
        ours = {name for name in names if not name.startswith(("COVERAGE_", "PYTEST_"))}

        assert world.settings.pr_env is world.preview is (world.name == "preview")
        assert world.settings.database_url.get_secret_value() == CLONE if world.preview else SOURCE
        assert world.settings.dropped == (("GITHUB_TOKEN",) if world.preview else ())
        assert ours == {"PR_ENV", "DATABASE_URL"} | (set() if world.preview else set(SECRET))

    @pytest.mark.parametrize("enter", WORLDS)
    def test_exception(self, enter):
        """
        After an exception the environment is what it was, with all that the test added gone.
        """
        before = dict(os.environ)
        with suppress(ZeroDivisionError), enter(**SECRET):
            os.environ["ADDED"] = "x"
            raise ZeroDivisionError

        assert dict(os.environ) == before

    @pytest.mark.parametrize("enter", WORLDS)
    def test_illegal_variables(self, enter):
        """
        Variables that no such world may have are refused, and the environment is what it was.
        """
        before = dict(os.environ)
        with pytest.raises(SettingsError, match="LISTEN_PORT"), enter(LISTEN_PORT="0"):
            pass
        with pytest.raises(TypeError, match="PR_ENV"):
            enter(PR_ENV="ture")

        assert dict(os.environ) == before

    def test_nesting(self):
        """
        The innermost block says which world it is, one block can be entered twice.
        """
        preview = as_preview(PR_NUMBER="7")
        with preview, as_production(), preview:
            assert Settings().pr_number == 7
        with preview, as_production():
            assert not Settings().pr_env
        with preview, as_production(), suppress(SettingsError), as_production(PR_NUMBER="7"):
            pass

    @given(ends=st.permutations(range(4)), worlds=st.lists(st.booleans(), min_size=4, max_size=4))
    def test_any_order(self, ends, worlds):
        """
        In whatever order blocks end, the last one to end brings back what the first one found.
        """
        before = dict(os.environ)
        blocks = [as_preview(**SECRET) if preview else as_production() for preview in worlds]
        settings = [block.__enter__() for block in blocks]
        for number, end in enumerate(ends):
            blocks[end].__exit__(None, None, None)
            open_ones = set(range(4)) - set(ends[: number + 1])
            if open_ones:
                assert Settings().pr_env is worlds[max(open_ones)]

        assert [one.pr_env for one in settings] == worlds
        assert dict(os.environ) == before

    async def test_tasks(self):
        """
        Tasks in different worlds each have their own settings, and leave nothing behind.
        """
        before, both_inside = dict(os.environ), asyncio.Barrier(2)

        @as_preview(PR_NUMBER="7")
        async def preview():
            await both_inside.wait()
            await asyncio.sleep(0)

        async def production():
            with as_production() as settings:
                await both_inside.wait()
                return settings

        _, settings = await asyncio.gather(preview(), production())

        assert not settings.pr_env
        assert dict(os.environ) == before

    def test_threads(self):
        """
        Threads in different worlds each have their own settings, and leave nothing behind.
        """
        before, interval = dict(os.environ), sys.getswitchinterval()

        def enter(number):
            for _ in range(50):
                with WORLDS[number % 2]() as settings:
                    yield settings.pr_env

        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: set(enter(number)), range(4)))
        sys.setswitchinterval(interval)

        assert found == [{True}, {False}] * 2
        assert dict(os.environ) == before


@pytest.mark.usefixtures("untouched")
class TestDecorator:  # noqa: D101
    def test_function(self):
        """
        A decorated function runs in its world at each call, with its arguments and its name.
        """

        @as_preview(PR_NUMBER="7")
        def count(down, *, to):
            """Count down."""
            assert Settings().pr_number == 7
            return 1 + count(down - 1, to=to) if down > to else 0

        assert (count(5, to=2), count(1, to=1)) == (3, 0)
        assert (count.__name__, list(signature(count).parameters)) == ("count", ["down", "to"])

    async def test_async_function(self):
        """
        A decorated async function is in its world until it is done, not until it is called.
        """
        before = dict(os.environ)

        @as_preview()
        async def wait(*, fail):
            await asyncio.sleep(0)
            assert Settings().pr_env
            return 1 / (not fail)

        assert await wait(fail=False) == 1
        with pytest.raises(ZeroDivisionError):
            await wait(fail=True)
        assert dict(os.environ) == before

    def test_what_cannot_be_decorated(self):
        """
        What does its work after it has returned is refused, not run outside its world.
        """

        class TestClass:
            pass

        def generator():
            yield

        async def async_generator():
            yield

        for one in (TestClass, generator, async_generator, pytest.fixture(lambda: 0)):
            with pytest.raises(TypeError, match="Use the fixture preview_env"):
                as_preview()(one)


@pytest.fixture
def run(pytester):
    """
    Run tests as a project of its own would, strictly: `run(text, "-n2")` gives the result.

    They may import what these tests may.
    """
    pytester.makeini(INI)

    def run(text, *options):
        pytester.makepyfile(text)
        strict = ("--strict-markers", "--strict-config", "-ra")
        return pytester.runpytest_inprocess(*strict, *options)

    return run


BOTH = """
    import pytest
    from shared.settings import Settings

    @pytest.mark.both_worlds
    def test_plain(world):
        assert Settings().pr_env is world.preview

    @pytest.mark.both_worlds
    async def test_async(request):
        assert Settings().pr_env is ("[preview" in request.node.name)

    @pytest.mark.both_worlds(GITHUB_TOKEN="x")
    @pytest.mark.parametrize("number", [1, 2], ids=["one", "two"])
    def test_parametrized(number, world):
        assert bool(world.settings.github_token) is not world.preview
        with world.enter(LISTEN_PORT="1") as settings:
            assert (settings.pr_env, settings.listen_port) == (world.preview, 1)

    @pytest.mark.both_worlds
    class TestClass:
        async def test_method(self, world):
            assert Settings().pr_env is world.preview

        def test_unasked(self):
            assert Settings()
"""


class TestMark:  # noqa: D101
    @pytest.mark.parametrize("options", [["-n0"], ["-n2"]], ids=["alone", "xdist"])
    def test_both_worlds(self, run, options):
        """
        A marked test runs once in each world, whatever its kind, whether it asks for it or not.
        """
        result = run(BOTH, "-v", *options)

        result.assert_outcomes(passed=12)
        ids = ("test_plain[preview]", "test_plain[production]", "test_parametrized[preview-one]")
        result.stdout.fnmatch_lines_random([f"*{id_.replace('[', '[[]')}*" for id_ in ids])

    def test_one_world_fails(self, run):
        """
        A test that holds in one world only fails in the other one, by name.
        """
        result = run(
            """
            import pytest

            @pytest.mark.both_worlds
            def test_world(world):
                assert world.preview
            """
        )

        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["FAILED *::test_world[[]production] *"])

    def test_what_would_run_in_no_world(self, run):
        """
        A test that forgot the mark, or that cannot be run twice, is an error that says what to do.
        """
        result = run(
            """
            import unittest
            import pytest

            def test_forgotten(world):
                raise AssertionError("it ran")

            @pytest.mark.both_worlds
            class TestOld(unittest.TestCase):
                def test_once(self):
                    raise AssertionError("it ran")

            @pytest.mark.both_worlds("preview")
            def test_argument():
                raise AssertionError("it ran")
            """
        )

        result.assert_outcomes(errors=4)
        result.stdout.fnmatch_lines_random(
            [
                "*Mark it with @pytest.mark.both_worlds.",
                "*a method of unittest.TestCase cannot. Make it a plain function or class.",
                "*TypeError: as_preview() takes 0 positional arguments but 1 was given",
            ]
        )
        result.stdout.no_fnmatch_line("*it ran*")

    def test_one_world_only(self, run):
        """
        A test can be run in one world by parametrizing the fixture, as any other.
        """
        result = run(
            """
            import pytest

            @pytest.mark.parametrize("world", ["preview"], indirect=True)
            def test_world(world):
                assert world.preview
            """
        )

        result.assert_outcomes(passed=1)


def test_fixtures(run, monkeypatch):
    """
    Each fixture is a world for one test, and undoes what monkeypatch did in it, in either order.
    """
    monkeypatch.setenv("DATABASE_URL", "the developer's own")
    result = run(
        """
        import os
        import pytest
        from shared.settings import Settings

        BEFORE = dict(os.environ)

        @pytest.fixture
        def patched(monkeypatch):
            monkeypatch.setenv("HOME", "/nowhere")
            monkeypatch.setenv("PR_NUMBER", "8")

        def test_patched_before(monkeypatch, preview_env, patched):
            assert (Settings().pr_number, preview_env.pr_env) == (8, True)
            monkeypatch.delenv("DATABASE_URL")
            monkeypatch.delenv("PR_ENV")

        def test_patched_after(preview_env, monkeypatch):
            monkeypatch.setenv("DATABASE_URL", "else")
            os.environ["ADDED"] = "x"

        @pytest.mark.usefixtures("production_env")
        class TestClass:
            async def test_it(self, monkeypatch):
                assert not Settings().pr_env
                monkeypatch.setenv("DATABASE_URL", "else")

        def test_patched_outside(patched, production_env):
            assert production_env.pr_number is None
            assert os.environ["HOME"] == "/nowhere"

        def test_afterwards():
            now = {**os.environ, "PYTEST_CURRENT_TEST": BEFORE["PYTEST_CURRENT_TEST"]}
            assert now == BEFORE
        """
    )

    result.assert_outcomes(passed=5)


def test_project_that_does_not_use_it(pytester, monkeypatch):
    """
    A project that has the plugin and does not use it does not pay for it: nothing big is imported.
    """
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            big = {"pydantic", "asyncpg", "fastapi", "discord", "structlog", "uvicorn", "asyncio"}
            print("imported:", *sorted(big & set(sys.modules)), "shared.testing" in sys.modules)
        """
    )
    pytester.makepyfile("def test_it(): pass")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = pytester.runpytest_subprocess("--co", "--strict-config", "-p", "shared.testing")

    result.stdout.fnmatch_lines(["imported: True"])


def test_page(pytester):
    """
    The tests that docs/testing.md prints pass as they are printed, and none is over ten lines.
    """
    page = (Path(__file__).parents[4] / "docs/testing.md").read_text()
    printed = dict(
        re.findall(r"`projects/monolith/(\S+\.py)`:\n\n```python\n(.+?)```", page, re.DOTALL)
    )
    tests = {name: text for name, text in printed.items() if name.startswith("tests/")}
    for name, text in printed.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pytester.makeini(INI)
    pytester.makeconftest(
        f"""
        import app.jobs

        app.jobs.__path__.append({str(pytester.path / "app/jobs")!r})
        pytest_plugins = ("tests.conftest", "tests.app.conftest")
        """
    )
    result = pytester.runpytest_subprocess("--strict-markers", "--import-mode=importlib")

    result.assert_outcomes(passed=5)
    assert page.count("```python") == len(printed) == len(tests) + 1 == 5
    assert max(len(text.split("\n\n\n")[-1].splitlines()) for text in tests.values()) <= 10
