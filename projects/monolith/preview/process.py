"""The only module that runs the monolith as a process of its own."""

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired, run
from typing import Any

import httpx2

from preview.binaries import die_with_parent
from shared.errors import MonolithError

_POLL_SECONDS = 0.05
_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LAST_WORDS = 5


@dataclass(slots=True)
class App:
    """
    One run of the monolith, and what it says.

    Args:
        failure: makes the error that says it does not run, from a reason and its last words.
    """

    process: Popen[bytes]
    log: Path
    failure: Callable[[str, str], MonolithError]
    _read: int = 0

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def ended(self) -> MonolithError:
        """Return the error that says why it is of no use, with the end of its log."""
        slow = f"it was not ready after {_READY_SECONDS:g} s"
        reason = slow if self.runs else f"it ended with exit code {self.process.returncode}"
        lines = self.log.read_text(errors="replace").splitlines()
        return self.failure(reason, "\n".join(["Its log ends:", *lines[-_LAST_WORDS:]]))

    def news(self) -> list[str]:
        """Return the lines that it has said since this was last asked."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            lines, _, _ = log.read().rpartition(b"\n")
        self._read += len(lines) + bool(lines)
        return lines.decode(errors="replace").splitlines()

    async def ready(self, url: str, host: str) -> dict[str, Any]:
        """
        Wait until it is ready, and return its attestation.

        Somebody else may have taken the port in the meantime; only the app on
        this database counts, by the host that it attests.
        """
        deadline = time.monotonic() + _READY_SECONDS
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            while self.runs and time.monotonic() < deadline:
                with suppress(httpx2.TransportError, ValueError, KeyError):
                    attestation: dict[str, Any] = (await client.get("/api/preview")).json()
                    facts = {
                        fact["name"]: fact["found"] for fact in attestation["database"]["facts"]
                    }
                    if facts["host"] == host:
                        return attestation
                await asyncio.sleep(_POLL_SECONDS)
        raise self.ended()


@asynccontextmanager
async def monolith(
    verb: str,
    environment: Mapping[str, str],
    log: Path,
    failure: Callable[[str, str], MonolithError],
) -> AsyncIterator[App]:
    """Run `monolith VERB` with an environment of its own and nothing of ours; end it at the end."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        process = Popen(  # noqa: S603  the program is ours
            [sys.executable, "-P", "-m", "preview", verb],  # -P: nothing in / is a module of ours
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            cwd="/",
            env={"PATH": os.defpath, **environment},
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509  no other way to ask for it
        )
    finally:
        os.close(output)
    try:
        yield App(process, log, failure)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except TimeoutExpired:
            process.kill()
            process.wait()


def free_port(wanted: int) -> int:
    """Return the wanted port, or any other where somebody listens on that."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError):
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def head_sha() -> str | None:
    """Return the commit that is checked out, where this is a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    here = str(Path(__file__).parent)
    said = run([git, "-C", here, "rev-parse", "HEAD"], capture_output=True, check=False, text=True)  # noqa: S603  asks for a name
    found = re.fullmatch(r"([0-9a-f]{40})\n", said.stdout)
    return found[1] if found else None
