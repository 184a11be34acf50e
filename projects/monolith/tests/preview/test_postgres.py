import asyncio
import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from preview.binaries import Binaries
from preview.errors import BinariesError, EngineError, SocketPathError, UnreachableError
from preview.postgres import SOURCE_SETTINGS, Engine, create_database
from shared.dsn import parse

NAME = "monolith-pg-pr-7"
START = "await engine.start({}, die_with_parent=DIES); print('up', flush=True); time.sleep(60)"
CHILD = """
import asyncio, sys, time
from pathlib import Path
from preview.binaries import Account, Binaries
from preview.postgres import Engine

async def main():
    engine = Engine(sys.argv[1], Path(sys.argv[2]), Binaries(Path(sys.argv[3]), Account.choose()))
    BODY

asyncio.run(main())
"""


@pytest.fixture
async def parent():
    """Start a process that does something with an engine, and that a test can kill."""
    processes = []

    async def start(body, one):
        code = CHILD.replace("BODY", body)
        processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                code,
                *[one.name, str(one.home), str(one.binaries.directory)],
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=asyncio.subprocess.PIPE,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(condition, seconds=10.0):
    """Wait for something that must come; tell whether it did."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  the kernel sends no event
        await asyncio.sleep(0.01)
    return condition()


async def test_life(engine):
    """
    An engine says its name, listens on its socket alone, and another process's handle stops it.
    """
    one = engine(NAME)
    one.init()
    await one.start(SOURCE_SETTINGS)
    async with one.connect() as connection:
        name = await connection.fetchval("SHOW cluster_name")
        addresses = await connection.fetchval("SHOW listen_addresses")
    again = Engine(one.name, one.home, one.binaries)
    ran = again.running
    await again.stop()
    await again.stop()

    assert (name, addresses, ran) == (NAME, "", True)
    assert one.socket_dir.name == NAME
    assert not one.running


async def test_password(source):
    """
    Nobody gets in over the socket without the password.
    """
    parameters = source.target("postgres", "postgres").parameters(tls=False)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(**{**parameters, "password": "guess"})  # noqa: TID251  a test of the door

    async with source.connect() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_environment(engine, monkeypatch):
    """
    No variable changes where an engine lives or who is asked, and none gets into its process.
    """
    for name in ("PGHOST", "PGDATABASE", "PGUSER", "PGSERVICE", "PGDATA", "PGOPTIONS"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "secret")
    one = engine(NAME)
    one.init()
    await one.start({})
    with pytest.raises((OSError, asyncpg.ClientConfigurationError)):
        await asyncpg.connect()  # noqa: TID251  proves that the environment does mislead

    async with one.connect() as connection:
        assert await connection.fetchval("SHOW cluster_name") == NAME
        assert await connection.fetchval("SELECT current_user") == "postgres"
    if sys.platform == "linux":
        assert Path(f"/proc/{one.pid}/environ").read_text() == "PATH=/usr/bin:/bin\0TZ=UTC\0"


async def test_command_line_wins(source):
    """
    ALTER SYSTEM cannot rename an engine, not even for its next start.
    """
    async with source.connect() as connection:
        await connection.execute("ALTER SYSTEM SET cluster_name = 'monolith-pg-pr-9'")
        await connection.execute("SELECT pg_reload_conf()")
        name = await connection.fetchval("SHOW cluster_name")
        await connection.execute("ALTER SYSTEM RESET cluster_name")

    assert name == "monolith-pg"


async def test_interrupted_init(engine, parent):
    """
    A crash in the middle of initdb leaves nothing that passes for a data directory.
    """
    one = engine(NAME)
    process = await parent("engine.init()", one)
    assert await until(lambda: list(one.home.glob("data.*/pg_wal")))
    process.kill()
    await process.wait()
    left = one.data.exists()
    one.init()
    await one.start({})

    assert not left
    assert one.running


def test_long_socket_path(engine, state_dir):
    """
    A socket path that the system would cut off is refused before anything is made.
    """
    home = state_dir / (
        "x" * (107 - len(f"{state_dir}/") - len(f"/e1000/run/{NAME}/.s.PGSQL.5432"))
    )
    with pytest.raises(SocketPathError, match=r"--state-dir") as caught:
        engine(NAME, home / "and-more")

    assert caught.value.longest in (103, 107)
    assert not home.exists()


async def test_failed_start(engine):
    """
    An engine that ends at once is reported with its last words, and does not run.
    """
    one = engine(NAME)
    one.init()
    with pytest.raises(EngineError, match="invalid value for parameter") as caught:
        await one.start({"shared_buffers": "nonsense"})

    assert not one.running
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  our own


async def test_setting_of_a_newer_version(engine):
    """
    A setting that this version of Postgres does not have is left out, not a reason to fail.
    """
    one = engine(NAME)
    one.init()
    await one.start({"no_such_setting": "1", "max_connections": "7"})
    async with one.connect() as connection:
        assert await connection.fetchval("SHOW max_connections") == "7"


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
@pytest.mark.parametrize("dies", [True, False], ids=["dies", "stays"])
async def test_killed_parent(engine, parent, dies):
    """
    When its parent is killed with -9, an engine that was to die with it goes down, and no other.
    """
    one = engine(NAME)
    one.init()
    process = await parent(START.replace("DIES", str(dies)), one)
    assert await process.stdout.readline() == b"up\n"
    assert one.running
    process.kill()
    await process.wait()

    assert await until(lambda: not one.running, seconds=10.0 if dies else 1.0) is dies


async def test_death_signal_in_thread(engine):
    """
    An engine that would die with a thread, not with the process, is refused.
    """
    one = engine(NAME)
    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(asyncio.run, one.start({}, die_with_parent=True))

    assert not one.home.exists()


async def test_recycled_pid(engine, binaries):
    """
    A stranger who got the number of a dead engine is never signalled, and does not stop a start.
    """
    one = engine(NAME)
    one.init()
    await one.start({})
    pid_file = one.data / "postmaster.pid"
    _, _, rest = pid_file.read_text().partition("\n")
    await one.stop()
    nowhere = asyncio.subprocess.DEVNULL
    with binaries.account.spawn(["/bin/sleep", "60"], output=nowhere) as stranger:
        pid_file.write_text(f"{stranger.pid}\n{rest}")
        ran = one.running
        await one.stop()
        await one.start({})
        survived = stranger.poll() is None
        stranger.kill()

    assert (ran, survived, one.running) == (False, True, True)


async def test_app_role(source):
    """
    The app's role owns its database, and has no right beyond it.
    """
    await create_database(source)
    async with source.connect("app", "monolith") as connection:
        await connection.execute("CREATE SCHEMA mine; DROP SCHEMA mine")
        for forbidden in ("CREATE ROLE other", "SELECT * FROM pg_authid", "CREATE DATABASE other"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)

    assert parse(source.dsn().get_secret_value()) == source.target()


def test_missing_binaries(tmp_path, state_dir):
    """
    A directory without Postgres is refused by name, with what to do.
    """
    with pytest.raises(BinariesError, match=f"{tmp_path}.*Name the directory"):
        Binaries.locate(state_dir, explicit=tmp_path)


@pytest.mark.usefixtures("as_root")
async def test_unreachable_binaries(tmp_path, state_dir, binaries):
    """
    Programs that Postgres's user cannot reach are copied once, work, and their place stays closed.
    """
    package = Path(str(binaries.directory.parents[1]))
    for original in (package, package.with_name(f"{package.name}.libs")):
        (tmp_path / original.name).symlink_to(original)
    hidden = tmp_path / package.name / "pginstall" / "bin"
    home = state_dir / "copy"
    found = Binaries.locate(home, explicit=hidden)
    made = (found.directory / "postgres").stat().st_ctime_ns
    one = Engine(NAME, home / "e", Binaries.locate(home, explicit=hidden))
    one.init()

    assert found.directory.is_relative_to(home)
    assert (found.directory / "postgres").stat().st_ctime_ns == made
    assert not (found.directory.parent / "include").exists()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(home)


@pytest.mark.usefixtures("as_root")
def test_unreachable_state_dir(tmp_path):
    """
    A state directory that Postgres's user cannot reach is refused by name, and stays closed.
    """
    with pytest.raises(UnreachableError, match=f"{tmp_path}.*--state-dir PATH"):
        Binaries.locate(tmp_path / "state")

    assert not (tmp_path / "state").exists()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
