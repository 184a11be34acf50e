"""Attempts through programs, processes and interpreters, which know nothing of a tripwire."""

import asyncio
import multiprocessing
import os
import shlex
import signal
import subprocess
from multiprocessing.util import spawnv_passfds

from tests.escapes.outside import Outside
from tests.escapes.registry import Chapter, Layer

programs = Chapter("Programs, processes, interpreters")


@programs.tries(Layer.TRIPWIRE)
def git(out: Outside) -> None:
    """A push, or anything else, by git."""
    subprocess.run(["git", "ls-remote", f"git://{out.host}:{out.port}/vault"], check=True)


@programs.tries(Layer.TRIPWIRE)
def subprocess_run(out: Outside) -> None:
    """`subprocess.run()`."""
    subprocess.run(out.client, check=True)


@programs.tries(Layer.TRIPWIRE)
def subprocess_shell(out: Outside) -> None:
    """A shell that connects by itself."""
    subprocess.run(["bash", "-c", f": > /dev/tcp/{out.host}/{out.port}"], check=True)


@programs.tries(Layer.TRIPWIRE)
def asyncio_subprocess(out: Outside) -> None:
    """A program that asyncio starts."""

    async def run() -> None:
        await (await asyncio.create_subprocess_exec(*out.client)).wait()

    asyncio.run(run())


@programs.tries(Layer.TRIPWIRE)
def os_system(out: Outside) -> None:
    """`os.system()`."""
    os.system(shlex.join(out.client))


@programs.tries(Layer.TRIPWIRE)
def os_popen(out: Outside) -> None:
    """`os.popen()`."""
    os.popen(shlex.join(out.client)).read()


@programs.tries(Layer.TRIPWIRE)
def os_exec(out: Outside) -> None:
    """Becoming another program."""
    os.execv(out.client[0], out.client)


@programs.tries(Layer.TRIPWIRE)
def os_posix_spawn(out: Outside) -> None:
    """`os.posix_spawn()`."""
    os.waitpid(os.posix_spawn(out.client[0], out.client, os.environ), 0)


@programs.tries(Layer.TRIPWIRE)
def os_spawn(out: Outside) -> None:
    """`os.spawnv()`."""
    os.spawnv(os.P_WAIT, out.client[0], out.client)


@programs.tries(Layer.TRIPWIRE)
def os_fork(out: Outside) -> None:
    """A copy of the process, made by `os.fork()`."""
    child = os.fork()
    if not child:
        try:
            _reach(out.host, out.port)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _reach(host: str, port: int) -> None:
    import socket  # noqa: PLC0415  in whatever process this runs

    socket.create_connection((host, port))


@programs.tries(Layer.TRIPWIRE)
def multiprocessing_fork(out: Outside) -> None:
    """`multiprocessing`, which forks."""
    _process("fork", out)


@programs.tries(Layer.SEAL)
def multiprocessing_spawn(out: Outside) -> None:
    """`multiprocessing`, which starts a new interpreter past Python's audit events."""
    _process("spawn", out)


@programs.tries(Layer.TRIPWIRE)
def multiprocessing_forkserver(out: Outside) -> None:
    """`multiprocessing`, which asks a server to fork; its own Unix socket is in the way."""
    _process("forkserver", out)


def _process(method: str, out: Outside) -> None:
    context = multiprocessing.get_context(method)
    context.Process(target=_reach, args=out.address).start()  # type: ignore[attr-defined]
    for child in multiprocessing.active_children():
        child.join()


@programs.tries(Layer.SEAL)
def posixsubprocess(out: Outside) -> None:
    """The C function below `subprocess`, which tells no audit event."""
    child = spawnv_passfds(os.fsencode(out.client[0]), out.client, ())
    os.waitpid(child, 0)


@programs.tries(Layer.TRIPWIRE)
def interpreter(out: Outside) -> None:
    """A second interpreter in the same process, which has no hooks of Python."""
    try:
        import _interpreters as interpreters  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # noqa: PLC0415
    interpreters.run_string(interpreters.create(), out.client[3])


@programs.tries(Layer.SEAL, landlock=6, blind_spot="signals to other processes")
def signal_to_a_neighbour(out: Outside) -> object:
    """A signal to another process of the same user, such as production's in a twin."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    neighbour = os.fork()
    if not neighbour:
        if signal.sigtimedwait([signal.SIGUSR1], 2):
            out.ring()
        os._exit(0)
    yield
    os.kill(neighbour, signal.SIGUSR1)
    os.waitpid(neighbour, 0)
