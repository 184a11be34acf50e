import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app import startup
from app.git import Command
from tests.app.waiting import until


async def run_program(directory, script, seconds=20.0, **environment):
    """Run a script of the shell as the vault runs git."""
    arguments = ["/bin/sh", "-c", script]
    return await startup._run_program(Command(arguments, environment, directory, seconds))


@pytest.fixture
def typed():
    """Something to read on our own standard input."""
    kept = os.dup(0)
    ours, theirs = os.pipe()
    os.write(theirs, b"typed")
    os.close(theirs)
    os.dup2(ours, 0)
    yield
    os.dup2(kept, 0)
    os.close(kept)
    os.close(ours)


async def test_program(tmp_path, typed):
    """
    A program gets its directory and its environment, nothing of ours and nothing to read; what it
    wrote and how it ended come back, whatever bytes it wrote.
    """
    script = "pwd; echo $A; env | grep -c PATH=; cat; printf 'o\\377'; printf 'e\\377' >&2; exit 3"
    ended = await run_program(tmp_path, script, A="tide")

    assert ended.out.splitlines() == [str(tmp_path), "tide", "0", "o\ufffd"]
    assert (ended.code, ended.err) == (3, "e\ufffd")
    assert (await run_program(tmp_path, "true")).code == 0


def sleeps(process):
    """Tell whether a process still does what it was started for; one that has ended does not."""
    try:
        return "sleep" in Path("/proc", process, "cmdline").read_text()
    except OSError:
        return False


@pytest.fixture
def asleep(tmp_path):
    """A file that names the process that `script` of it leaves asleep."""
    return tmp_path / "asleep"


def script(asleep):
    """Start what sleeps for long, and write down which process it is."""
    return f"sh -c 'echo $$ > {asleep}.new; mv {asleep}.new {asleep}; exec sleep 60' & wait"


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_program_that_hangs(tmp_path, asleep, how):
    """
    A program that does not end in time, or is given up, is ended with all that it has started.
    """
    seconds = 1.0 if how == "timeout" else 60.0
    running = asyncio.create_task(run_program(tmp_path, script(asleep), seconds))
    await until(asleep.exists)
    if how == "cancelled":
        running.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([running])
        await until(lambda: not sleeps(asleep.read_text().strip()))

    assert running.cancelled() or isinstance(running.exception(), TimeoutError)
    assert running.cancelled() is (how == "cancelled")


@pytest.mark.parametrize("later", range(8))
async def test_program_that_is_given_up_as_it_starts(tmp_path, asleep, later):
    """
    A program that is given up before we know that it has started is ended with all that it has
    started, too.
    """
    running = asyncio.create_task(run_program(tmp_path, script(asleep), 60.0))
    for _ in range(2 + later):  # it is known in another moment of its start each time
        await asyncio.sleep(0)
    let_start(asleep)
    running.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([running])
        await until(lambda: not sleeps(asleep.read_text().strip()))

    assert running.cancelled()


def let_start(asleep):
    """Let a program start while the loop stands still."""
    while not asleep.exists():
        time.sleep(0.01)


@pytest.mark.parametrize("later", range(8))
async def test_program_that_ends_when_given_up(tmp_path, later):
    """
    A program that ends by itself just when it is given up is no error of its own.
    """
    ends, pid = tmp_path / "ends", tmp_path / "pid"
    os.mkfifo(ends)
    running = asyncio.create_task(
        run_program(tmp_path, f"echo $$ > new; mv new pid; read x < {ends}")
    )
    await until(pid.exists)
    running.cancel()
    for _ in range(later):  # it ends in another moment of its being given up each time
        await asyncio.sleep(0)
    if not running.done() and Path("/proc", pid.read_text().strip()).exists():
        let_end(int(pid.read_text()), ends)
    await asyncio.wait([running])

    assert running.cancelled()


def let_end(process, ends):
    """Let a program end, and whoever waits for it in a thread know, while the loop stands still."""
    with suppress(OSError):  # it was ended already
        os.close(os.open(ends, os.O_WRONLY | os.O_NONBLOCK))
    with suppress(FileNotFoundError, ProcessLookupError):
        while ") Z " not in Path(f"/proc/{process}/stat").read_text():
            time.sleep(0.01)
    time.sleep(0.2)


async def test_program_that_cannot_start(tmp_path):
    """
    A program that is not there is an error of the system, for whoever wanted it to run.
    """
    command = Command(["/nowhere/git"], {}, tmp_path, 20.0)
    with pytest.raises(FileNotFoundError, match="/nowhere/git"):
        await startup._run_program(command)


@pytest.mark.parametrize("later", range(1, 4))
async def test_program_that_cannot_start_and_is_given_up(tmp_path, later):
    """
    Whoever is given up hears that, and not that the program could not start.
    """
    command = Command(["/nowhere/git"], {}, tmp_path, 20.0)
    running = asyncio.create_task(startup._run_program(command))
    for _ in range(later):  # it fails in another moment of its being given up each time
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
