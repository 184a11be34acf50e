import asyncio
import errno
import fcntl
import itertools
import os
import shutil
import subprocess  # noqa: TID251  mounts a file system to test on
import threading
from collections import namedtuple
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from preview.clone import CLONE_SETTINGS, _segments, clone
from preview.errors import CloneExistsError, SourceError, SpaceError
from preview.postgres import create_database, rotate_passwords
from shared.dsn import parse
from shared.identity import SOURCE, clone_name

NAME = clone_name(7)
TRACES = """
SELECT (SELECT count(*) FROM pg_replication_slots)
     + (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'monolith clone')
"""


@pytest.fixture
def no_reflink(monkeypatch):
    """A file system that cannot share blocks, whatever the machine has."""

    def ioctl(*_args):
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


@pytest.fixture
def xfs(state_dir):
    """An XFS of its own, mounted from a file; its free space is in statvfs."""
    if os.geteuid() or not shutil.which("mkfs.xfs"):
        pytest.skip("needs root and mkfs.xfs (Debian: xfsprogs)")
    image, place = state_dir / "xfs.img", state_dir / "xfs"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    place.mkdir()
    try:
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)  # noqa: S603, S607
        if subprocess.run(["mount", "-o", "loop", image, place], check=False).returncode:  # noqa: S603, S607
            pytest.skip("this machine mounts no file as a disk")
        yield place
        subprocess.run(["umount", place], check=True)  # noqa: S603, S607
    finally:
        image.unlink()
        place.rmdir()


async def traces(source):
    """Count what a clone in the making has on the source."""
    async with source.connect() as connection:
        return await connection.fetchval(TRACES)


async def no_traces(source):
    """Tell whether they go away; a backend ends a moment after its connection."""
    for _ in range(100):
        if not await traces(source):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_under_load(source, engine, database):
    """
    A clone taken while the source is written to has every commit up to its moment, without a gap.
    """
    name = parse(await database()).database
    acknowledged, done = [], asyncio.Event()

    async def write(connection):
        await connection.execute("CREATE TABLE ledger (n int PRIMARY KEY)")
        for n in itertools.count(1):
            await connection.execute("INSERT INTO ledger VALUES ($1)", n)
            acknowledged.append((n, datetime.now(UTC)))
            if done.is_set():
                return

    async def take(target):
        await asyncio.sleep(0.1)
        taken = await clone(source, target)
        done.set()
        return taken

    target = engine(NAME)
    async with source.connect("app", name) as connection:
        _, taken = await asyncio.gather(write(connection), take(target))
    await target.start(CLONE_SETTINGS)
    async with target.connect("app", name) as connection:
        ledger = [row["n"] for row in await connection.fetch("SELECT n FROM ledger ORDER BY n")]
        said = await connection.fetchval("SHOW cluster_name")

    assert ledger == list(range(1, len(ledger) + 1))
    assert len(ledger) >= sum(moment < taken.taken_at for _, moment in acknowledged) > 1
    assert len(ledger) < len(acknowledged)
    assert said == NAME
    assert "completed backup recovery" in target.log.read_text()


async def test_two_databases(source, engine):
    """
    What is written to the clone is not in the source, and no password of one opens the other.
    """
    target = engine(NAME)
    await clone(source, target)
    await target.start(CLONE_SETTINGS)
    await rotate_passwords(target)
    async with target.connect("app", "monolith") as connection:
        await connection.execute("CREATE TABLE only_here (n int)")
    for role, (here, there) in itertools.product(
        ("app", "postgres"), [(source, target), (target, source)]
    ):
        password = there.target(role).password.get_secret_value()
        parameters = here.target(role).parameters(tls=False)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**{**parameters, "password": password})  # noqa: TID251  a test of the door

    async with source.connect("app", "monolith") as connection:
        assert await connection.fetchval("SELECT to_regclass('only_here')") is None
    assert target.data.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("end", ["success", "failure", "cancelled"])
async def test_no_trace(source, engine, end):
    """
    However a clone ends, the source has no slot and no backup; a clone that failed has no file.
    """
    target, copying, go_on = engine(NAME), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def progress(_done, _total):
        loop.call_soon_threadsafe(copying.set)
        go_on.wait()
        if end == "failure":
            raise OSError(errno.EIO, "the disk is broken")

    async def interfere():
        await copying.wait()
        counted = await traces(source)
        if end == "cancelled":
            making.cancel()
        go_on.set()
        return counted

    making = asyncio.gather(clone(source, target, progress))
    outcomes: Any = await asyncio.gather(interfere(), making, return_exceptions=True)

    assert outcomes[0] == 2
    assert await no_traces(source)
    assert target.home.exists() is (end == "success")
    expected = {"success": object, "failure": OSError, "cancelled": asyncio.CancelledError}
    assert isinstance(outcomes[1], expected[end])


async def test_tablespace(source, engine, state_dir, binaries):
    """
    A source with a tablespace is refused: its clone would write into the source's files.
    """
    place, target, copied = state_dir / "space", engine(NAME), []
    place.mkdir()
    binaries.account.own(place)
    async with source.connect() as connection:
        await connection.execute(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
        with pytest.raises(SourceError, match="tablespaces"):
            await clone(source, target, lambda done, _: copied.append(done))
        await connection.execute("DROP TABLESPACE elsewhere")
    left = target.home.exists()
    await clone(source, target)

    assert not copied
    assert not left
    assert target.data.exists()


@pytest.mark.usefixtures("no_reflink")
async def test_full_disk(source, engine, monkeypatch):
    """
    A full copy that would not fit with a fifth to spare is refused before the first byte.
    """
    target, copied = engine(NAME), []
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  shutil's own has no public name
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 30_000_000))
    with pytest.raises(SpaceError, match="30,000,000") as caught:
        await clone(source, target, lambda done, _: copied.append(done))
    left = target.home.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, caught.value.needed))
    taken = await clone(source, target)

    assert not copied
    assert not left
    assert caught.value.needed == int(taken.bytes * 1.2) + (128 << 20)


@pytest.mark.usefixtures("no_reflink")
async def test_full_copy(source, engine):
    """
    Where blocks cannot be shared the clone is a copy, and says so with its size.
    """
    seen = []
    taken = await clone(source, engine(NAME), lambda done, total: seen.append((done, total)))

    assert not taken.shared
    assert seen[-1] == (taken.bytes, taken.bytes)
    assert seen == sorted(seen)
    assert "Cloned by full copy instead: 3" in str(taken)
    assert "EOPNOTSUPP" in str(taken) or "ENOTSUP" in str(taken)
    assert "copy-on-write" not in str(taken)


async def test_shared_blocks(xfs, engine, monkeypatch):
    """
    On a file system with reflinks a clone takes next to no space; a copy there takes its size.
    """
    source = engine(SOURCE, xfs)
    source.init()
    await source.start({"fsync": "off"})
    await create_database(source)
    async with source.connect("app", "monolith") as connection:
        await connection.execute(
            "CREATE TABLE t AS SELECT repeat('x', 900) FROM generate_series(1, 40000)"
        )

    async def used(target):
        before = shutil.disk_usage(xfs).free
        taken = await clone(source, target)
        os.sync()
        return taken, before - shutil.disk_usage(xfs).free

    shared, little = await used(engine(NAME, xfs))
    monkeypatch.setattr(
        fcntl, "ioctl", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "no"))
    )
    copied, much = await used(engine(clone_name(8), xfs))
    await source.stop()

    assert (shared.shared, copied.shared) == (True, False)
    assert "copy-on-write" in str(shared)
    assert shared.bytes > 60_000_000
    assert little < 24_000_000  # the source's next WAL segment, and metadata
    assert much > 60_000_000


def test_segments():
    """
    The WAL that a clone needs is every segment from the first to the last, across log files.
    """
    first, last = "0000000100000000000000FE", "000000010000000100000001"

    assert _segments(first, last, 16 << 20) == [
        first,
        "0000000100000000000000FF",
        "000000010000000100000000",
        last,
    ]
    assert _segments(first, first, 16 << 20) == [first]
    assert _segments("00000002" + first[8:], last, 16 << 20) == []


async def test_existing_clone(source, engine):
    """
    A clone is never made over another.
    """
    target = engine(NAME)
    await clone(source, target)
    before = target.data.stat().st_ino
    with pytest.raises(CloneExistsError):
        await clone(source, target)

    assert target.data.stat().st_ino == before


async def test_links_are_not_followed(source, engine, tmp_path):
    """
    A link in the source's data directory, which root would follow, is refused; nothing is copied.
    """
    secret, link = tmp_path / "secret", source.data / "base" / "link"
    secret.write_text("root only")
    target = engine("monolith-pg-pr-7")
    link.symlink_to(secret)
    try:
        with pytest.raises(SourceError, match="there are links in"):
            await clone(source, target)
    finally:
        link.unlink()
    await clone(source, target)

    assert not (target.data / "base" / "link").exists()
