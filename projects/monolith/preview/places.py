"""The only module that knows which previews this machine has, and who uses the source."""

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

import platformdirs

from preview.binaries import Binaries
from preview.errors import (
    ForeignPreviewError,
    PreviewRunsError,
    ProductionRunsError,
    TooManyPreviewsError,
)
from preview.postgres import Engine
from shared.identity import SOURCE, clone_name

MOST = 3
ROOTS_STATE_DIR = Path("/var/lib/monolith")

_POLL_SECONDS = 0.1
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Preview:
    """
    The place of one preview: its clone, its log, what it says of itself.

    It runs while its lock is held, whatever else the disk says; the system lets
    go of the lock of a process that died.
    """

    number: int
    home: Path

    @property
    def log(self) -> Path:
        """What the app says."""
        return self.home / "app.log"

    @property
    def lock_file(self) -> Path:
        """Held while the preview runs; names the process that holds it."""
        return self.home.with_name(f"{self.number}.lock")

    def facts(self) -> dict[str, Any]:
        """Return what `up` has written down; empty before it was ready."""
        try:
            facts = json.loads((self.home / "preview.json").read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    @property
    def kept(self) -> bool:
        """Whether it stays when nobody runs it."""
        return (self.home / "kept").exists()

    def keep(self, *, kept: bool) -> None:
        """Say whether it stays when nobody runs it."""
        if kept:
            (self.home / "kept").touch()
        else:
            (self.home / "kept").unlink(missing_ok=True)

    def add_facts(self, facts: dict[str, Any]) -> None:
        """Write down what `ls`, `down` and the next `up` want to know."""
        path = self.home / "preview.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.facts() | facts))
        partial.replace(path)

    def engine(self, binaries: Binaries) -> Engine:
        """Return the engine of the clone."""
        return Engine(clone_name(self.number), self.home / "clone", binaries)


@dataclass(frozen=True, slots=True)
class Places:
    """Everything below one state directory."""

    state_dir: Path

    @classmethod
    def default(cls) -> "Places":
        """Return the user's own, or root's, which lies where Postgres' user can reach it."""
        if os.geteuid() == 0:
            return cls(ROOTS_STATE_DIR)
        return cls(platformdirs.user_state_path("monolith"))

    @property
    def elsewhere(self) -> bool:
        """Whether this is another state directory than the usual one."""
        return self != Places.default()

    def preview(self, number: int) -> Preview:
        """Return the place of one preview, which need not exist."""
        return Preview(number, self.state_dir / "previews" / str(number))

    def previews(self) -> list[Preview]:
        """Return every preview that has left a trace."""
        names = [home.name for home in (self.state_dir / "previews").glob("*/")]
        numbers = [int(name) for name in names if re.fullmatch("[1-9][0-9]{0,8}", name)]
        return [self.preview(number) for number in sorted(numbers)]

    def source(self, binaries: Binaries) -> Engine:
        """Return the engine of the source."""
        return Engine(SOURCE, self.state_dir / "source", binaries)

    async def running(self) -> list[Preview]:
        """Return the previews that run."""
        async with self._mutex():
            return self._running()

    @asynccontextmanager
    async def take(self, number: int | None) -> AsyncIterator[Preview]:
        """
        Hold the place of one preview, that of the lowest free number if none is named.

        Raises:
            PreviewRunsError: somebody holds it.
            TooManyPreviewsError: as many run as may.
        """
        async with self._mutex():
            known = {preview.number: preview for preview in self.previews()}
            running = [n for n, preview in known.items() if self._is_held(preview)]
            if number in running:
                raise PreviewRunsError(number, known[number].facts().get("url"))
            if len(running) >= MOST:
                raise TooManyPreviewsError(tuple(running), MOST)
            preview = self.preview(number or next(n for n in count(1) if n not in known))
            lock = self._hold(preview)
        with lock:
            yield preview

    @contextmanager
    def take_production(self) -> Iterator[None]:
        """
        Hold the place of production, of which a machine has one.

        Raises:
            ProductionRunsError: somebody holds it.
        """
        with self._open(self._production_lock) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ProductionRunsError(self._production_lock.read_text() or None) from None
            lock.truncate(0)
            yield

    def say_production(self, url: str) -> None:
        """Write down where production runs, for whoever wants to run it, too."""
        self._production_lock.write_text(url)

    @property
    def _production_lock(self) -> Path:
        return self.state_dir / "production.lock"

    @asynccontextmanager
    async def use_source(
        self, engine: Engine, make: Callable[[Engine], Awaitable[None]]
    ) -> AsyncIterator[Engine]:
        """
        Run the source for as long as anybody on this machine uses it.

        `make` starts it, and makes it first where it is not made yet.
        """
        with self._open(self.state_dir / "source.lock") as users:
            try:
                async with self._mutex():
                    fcntl.flock(users, fcntl.LOCK_SH)
                    await make(engine)
                yield engine
            finally:
                async with self._mutex():
                    fcntl.flock(users, fcntl.LOCK_UN)
                    await self._stop_unused_source(engine)

    async def sweep(self, binaries: Binaries) -> list[int]:
        """
        Clean up after processes that died, and return the previews that they left.

        A preview that was kept on purpose stays.
        """
        swept = []
        async with self._mutex():
            for preview in self.previews():
                if self._is_held(preview):
                    continue
                await preview.engine(binaries).stop()
                if not preview.kept:
                    delete_files(preview)
                    swept.append(preview.number)
            await self._stop_unused_source(self.source(binaries))
        return swept

    async def stop(self, preview: Preview) -> None:
        """
        End the process that holds a preview, if one does, and wait until it has.

        Raises:
            ForeignPreviewError: it belongs to a user whose processes we may not signal.
        """
        for how in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _STOP_SECONDS
            holder = await self._holder(preview)
            if holder is None:
                return
            try:
                os.kill(holder, how)
            except PermissionError:
                raise ForeignPreviewError(preview.number, holder) from None
            except ProcessLookupError:
                return
            while await self._holder(preview) and time.monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)

    async def delete(self, preview: Preview, binaries: Binaries) -> None:
        """Stop what is left of a preview that nobody holds, and delete its files."""
        async with self._mutex():
            if preview.home.exists() and not self._is_held(preview):
                await preview.engine(binaries).stop()
                delete_files(preview)

    async def delete_source(self, binaries: Binaries) -> bool:
        """Delete the source, unless somebody uses it; the next `up` makes a new one."""
        engine = self.source(binaries)
        async with self._mutex():
            await self._stop_unused_source(engine)
            if engine.running:
                return False
            shutil.rmtree(engine.home, ignore_errors=True)
            return True

    async def _stop_unused_source(self, engine: Engine) -> None:
        with self._open(self.state_dir / "source.lock") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            await engine.stop()

    def _running(self) -> list[Preview]:
        return [preview for preview in self.previews() if self._is_held(preview)]

    async def _holder(self, preview: Preview) -> int | None:
        async with self._mutex():
            held = self._is_held(preview)
            return int(preview.lock_file.read_text()) if held else None

    def _hold(self, preview: Preview) -> IO[str]:
        _make(preview.home)
        lock = self._open(preview.lock_file)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _is_held(self, preview: Preview) -> bool:
        """Ask under the mutex only: asking takes the lock for a moment."""
        if not preview.lock_file.exists():
            return False
        with self._open(preview.lock_file) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @asynccontextmanager
    async def _mutex(self) -> AsyncIterator[None]:
        with self._open(self.state_dir / "lock") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    break
            yield

    def _open(self, path: Path) -> IO[str]:
        _make(path.parent)
        # who can open a lock can hold it, so nobody else may
        return open(path, "a+", opener=_private)  # noqa: PTH123  Path.open has no opener


def delete_files(preview: Preview) -> None:
    """Delete everything of a preview that does not run, or that one holds oneself."""
    shutil.rmtree(preview.home)
    preview.lock_file.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _make(directory: Path) -> None:
    """Make a directory that whoever runs Postgres can pass through, and nobody can list."""
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
