"""The only module that copies a data directory."""

import asyncio
import ctypes
import errno
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, NoReturn

from preview.errors import CloneError, CloneExistsError, SourceError, SpaceError
from preview.postgres import APP, SUPERUSER, Engine

CLONE_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "32MB",
    "max_connections": "20",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
    "wal_recycle": "off",
    "max_logical_replication_workers": "0",
    "max_worker_processes": "4",
    "max_parallel_workers": "2",
    "autovacuum_max_workers": "1",
    "io_method": "sync",
    "huge_pages": "off",
    "jit": "off",
    "primary_conninfo": "",
    "restore_command": "",
    "synchronous_standby_names": "",
    "shared_preload_libraries": "",
}
"""For a clone that may be lost; nothing here lets it reach what the source reaches."""

Progress = Callable[[int, int], None]

_EMPTY = re.compile(r"pg_(wal|replslot|dynshmem|notify|serial|snapshots|stat_tmp|subtrans)")
_SKIPPED = re.compile(
    r"postmaster\.(pid|opts)|pgsql_tmp.*|pg_internal\.init.*|postgresql.*\.conf.*|pg_hba\.conf|log"
    r"|current_logfiles.*|backup_label.*|tablespace_map.*|backup_manifest|(standby|recovery)\.signal"
)
_WAL_NAME = re.compile(r"^START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)$", re.MULTILINE)
_CHUNK = 4 << 20
_SPARE = 1.2
_WAL_SPARE = 128 << 20
_FICLONE = 0x40049409
_NO_REFLINK = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.ENOSYS,
    errno.ENOTTY,
}


@dataclass(frozen=True, slots=True)
class Clone:
    """
    What was cloned, from when, and how.

    Args:
        bytes: size of the source's data directory.
        shared: whether every relation file shares its blocks with the source.
        obstacle: why blocks could not be shared, if they could not.
    """

    source: Path
    target: Path
    bytes: int
    shared: bool
    obstacle: str
    seconds: float
    start_lsn: str
    taken_at: datetime

    def __str__(self) -> str:
        size = human(self.bytes)
        if self.shared:
            return f"Cloned {size} copy-on-write in {self.seconds:.1f} s."
        free = human(shutil.disk_usage(self.target).free)
        return (
            f"{self.target} cannot share blocks with {self.source} ({self.obstacle}). "
            f"Cloned by full copy instead: {size} in {self.seconds:.1f} s, and {size} of disk for "
            f"this preview ({free} free). The clone is a consistent online copy all the same. "
            "For instant clones put the state directory on XFS (reflink=1), btrfs or APFS: "
            "--state-dir PATH."
        )


async def clone(source: Engine, target: Engine, progress: Progress | None = None) -> Clone:
    """
    Copy the data directory of a running engine into that of a new one, consistently.

    The target can be started with CLONE_SETTINGS afterwards; until its
    passwords are rotated, it has the source's. If this does not come to its
    end, nothing of the target stays, and nothing is left on the source.
    `progress` gets bytes done and bytes in all, in another thread.

    Raises:
        CloneExistsError: the target has a data directory.
        SourceError: the source has tablespaces.
        SpaceError: the blocks cannot be shared, and a full copy would not fit.
        CloneError: the WAL that the copy needs is not complete.
    """
    if target.data.exists():
        raise CloneExistsError(target.name, target.home)
    began = time.monotonic()
    try:
        place = target.prepare()
        copier = _Copier(source, target, place, progress or (lambda _done, _total: None))
        copier.look()
        start_lsn, taken_at = await _copy_in_backup_mode(source, copier)
        for role in (SUPERUSER, APP):
            with suppress(FileNotFoundError):
                target.save_password(role, source.target(role).password)
        target.finish(place)
    except BaseException:
        _remove(target)
        raise
    return Clone(
        source=source.data,
        target=target.data,
        bytes=copier.total,
        shared=not copier.obstacle,
        obstacle=copier.obstacle,
        seconds=time.monotonic() - began,
        start_lsn=start_lsn,
        taken_at=taken_at,
    )


async def _copy_in_backup_mode(source: Engine, copier: "_Copier") -> tuple[str, datetime]:
    """Copy between start and stop of a backup; the session's end ends it and drops the slot."""
    async with source.connect() as connection:
        slot = f"clone_{os.getpid()}_{connection.get_server_pid()}"
        await connection.execute("SET application_name = 'monolith clone'")
        await connection.fetch("SELECT pg_create_physical_replication_slot($1, true, true)", slot)
        start_lsn = await connection.fetchval(
            "SELECT pg_backup_start($1, fast => true)::text", copier.target.name
        )
        await copier.run(copier.copy_data)
        taken_at = await connection.fetchval("SELECT clock_timestamp()")
        (stop,) = await connection.fetch(
            "SELECT labelfile, spcmapfile, pg_walfile_name(lsn - 1) AS last,"
            " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS size"
            " FROM pg_backup_stop(wait_for_archive => false)"
        )
        if stop["spcmapfile"]:
            _refuse_tablespaces(source)
        copier.write("backup_label", stop["labelfile"])
        first = _WAL_NAME.search(stop["labelfile"])
        segments = _segments(first[1] if first else "", stop["last"], stop["size"])
        await copier.run(lambda: copier.copy_wal(segments, stop["size"]))
    return start_lsn, taken_at


class _StoppedError(Exception):
    """Whoever waited for the copy no longer does."""


class _Copier:
    """
    Copy files of one data directory into another, by sharing their blocks where that goes.

    Args:
        place: an empty directory in the target's home.
    """

    def __init__(self, source: Engine, target: Engine, place: Path, progress: Progress) -> None:
        self.source = source
        self.target = target
        self.place = place
        self.progress = progress
        self.total = 0
        self.obstacle = ""
        self._done = 0
        self._reflinks = True
        self._stopped = False

    def look(self) -> None:
        """Refuse what cannot be cloned, before anything is copied."""
        if any((self.source.data / "pg_tblspc").iterdir()):
            _refuse_tablespaces(self.source)
        self.total = sum(_size(path) for path in _walk(self.source.data))
        probe = self.place / "probe"
        try:
            _reflink(self.source.data / "global/pg_control", probe)
        except OSError as error:
            self._record_obstacle(error)
            self._reflinks = False
            needed, free = (
                int(self.total * _SPARE) + _WAL_SPARE,
                shutil.disk_usage(probe.parent).free,
            )
            if free < needed:
                raise SpaceError(self.target.home, needed, free) from None
        finally:
            probe.unlink(missing_ok=True)

    async def run(self, work: Callable[[], None]) -> None:
        """Work in a thread; if this is cancelled, the thread has ended before it returns."""
        working = asyncio.gather(asyncio.to_thread(work))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self._stopped = True
            with suppress(_StoppedError):
                await working
            raise

    def copy_data(self) -> None:
        """Copy everything but WAL and what belongs to the source's process; pg_control last."""
        paths = sorted(_walk(self.source.data), key=lambda path: path.name == "pg_control")
        for path in paths:
            self._copy(path)

    def copy_wal(self, segments: list[str], size: int) -> None:
        """
        Copy exactly these segments.

        Raises:
            CloneError: one of them is not there in full.
        """
        for name in segments:
            self._copy(self.source.data / "pg_wal" / name)
        copied = [path for path in (self.place / "pg_wal").iterdir() if _size(path) == size]
        if not segments or len(copied) != len(segments):
            expected, found = f"{len(segments) or 'some'} WAL segments", f"{len(copied)}"
            raise CloneError(self.target.name, expected, found)

    def write(self, name: str, content: str) -> None:
        """Write a file of our own."""
        path = self.place / name
        path.write_text(content)
        path.chmod(0o600)
        self.target.account.own(path)

    def _copy(self, path: Path) -> None:
        relative = path.relative_to(self.source.data)
        copy = self.place / relative
        try:
            if path.is_dir():
                copy.mkdir(mode=0o700)
            elif not self._shared(path, copy):
                self._copy_bytes(path, copy)
        except FileNotFoundError:
            if path.exists():
                raise
            return  # it vanished; WAL knows
        self.target.account.own(copy)
        self.progress(min(self._done, self.total), self.total)

    def _shared(self, path: Path, copy: Path) -> bool:
        if self._stopped:
            raise _StoppedError
        if not self._reflinks:
            return False
        try:
            _reflink(path, copy)
        except OSError as error:
            self._record_obstacle(error)
            copy.unlink(missing_ok=True)
            return False
        self._done += _size(copy)
        return True

    def _copy_bytes(self, path: Path, copy: Path) -> None:
        with _open(path, "rb") as read, _open(copy, "xb") as write:
            while chunk := read.read(_CHUNK):
                if self._stopped:
                    raise _StoppedError
                write.write(chunk)
                self._done += len(chunk)
                self.progress(min(self._done, self.total), self.total)

    def _record_obstacle(self, error: OSError) -> None:
        if error.errno not in _NO_REFLINK:
            raise error
        self.obstacle = f"{_REFLINK_NAME}: {errno.errorcode[error.errno]}"


def _walk(data: Path) -> Iterator[Path]:
    """Yield what belongs into a copy: every directory before what is in it."""
    for directory, directories, files in os.walk(data):
        here = Path(directory)
        directories[:] = [name for name in directories if not _SKIPPED.fullmatch(name)]
        yield from (here / name for name in directories)
        yield from (here / name for name in files if not _SKIPPED.fullmatch(name))
        if any((here / name).is_symlink() for name in directories + files):
            expected, remedy = "a data directory without links", "Put what they lead to there."
            raise SourceError(str(data), expected, f"there are links in {here}", remedy)
        if here == data:
            directories[:] = [name for name in directories if not _EMPTY.fullmatch(name)]


def _open(path: Path, mode: str) -> IO[bytes]:
    """Open a file that whoever owns the directory cannot turn into another one."""
    return open(  # noqa: PTH123, SIM115  Path.open has no opener; the caller closes it
        path,
        mode,
        buffering=0,
        opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600),
    )


def _segments(first: str, last: str, size: int) -> list[str]:
    """Name every WAL segment from the first to the last; none where they are of two timelines."""
    if first[:8] != last[:8]:
        return []
    per_file = (1 << 32) // size
    numbers = [int(name[8:16], 16) * per_file + int(name[16:], 16) for name in (first, last)]
    return [
        f"{last[:8]}{number // per_file:08X}{number % per_file:08X}"
        for number in range(numbers[0], numbers[1] + 1)
    ]


def _refuse_tablespaces(source: Engine) -> NoReturn:
    remedy = "Move what is in them to pg_default and drop them."
    raise SourceError(source.name, "one data directory", "it has tablespaces outside", remedy)


def _remove(target: Engine) -> None:
    for path in target.home.glob("data.*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in target.home.glob("*.password"):
        path.unlink()
    with suppress(OSError):
        target.home.rmdir()


def _size(path: Path) -> int:
    try:
        return 0 if path.is_dir() else path.stat().st_size
    except FileNotFoundError:
        return 0


def human(size: float) -> str:
    """Write a number of bytes as a person would."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004  SI units
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


if sys.platform == "darwin":
    _REFLINK_NAME = "clonefile"

    def _reflink(source: Path, copy: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.clonefile(bytes(source), bytes(copy), 0):
            raise OSError(ctypes.get_errno(), "clonefile", str(source))

else:
    _REFLINK_NAME = "FICLONE"

    def _reflink(source: Path, copy: Path) -> None:
        with _open(source, "rb") as read, _open(copy, "xb") as write:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
