"""
Measure what the tripwire adds to a request, to a connection and to Python itself.

Each round runs in two child processes, one with the tripwire and one without, in
turns that swap their order. What is printed are medians of CPU time, which a busy
machine moves less than the clock's. A request goes through the whole app on a real
Postgres, without a network in between.
"""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from app.main import create_app
from preview import migrations
from preview.binaries import Binaries
from preview.postgres import APP, DATABASE, SOURCE_SETTINGS, Engine, create_database
from shared import log, tripwire
from shared.database import Database
from shared.identity import SOURCE
from shared.seal import Seal
from shared.settings import Settings

CONNECTIONS, REQUESTS, CALLS = 500, 500, 500_000
EVENT = "id(x), an audit event that is none of its business"
SOCKET = "connect() to a Unix socket it knows"
ADDRESS = "connect() to an address it knows"
SPELT = "connect() to that address, spelt otherwise"
IDENTIFIED = "a connection to the database, identified"
ALIVE = "a request: GET /healthz"
NOTES = "a request: GET /api/notes, one query"


def per_call(work: Callable[[], object], calls: int) -> float:
    """Return what one call takes, in microseconds."""
    begun = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - begun) / calls * 1e6


def reach(family: int, address: str | tuple[str, int]) -> None:
    """Connect and close."""
    with socket.socket(family) as sock:
        sock.connect(address)


async def through_the_app(settings: Settings, database: Database) -> dict[str, float]:
    """Return what a request and a connection take, in microseconds."""
    app, found = create_app(settings, database), {}
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(base_url="http://monolith", transport=transport) as client,
    ):
        for name, path in ((ALIVE, "/healthz"), (NOTES, "/api/notes")):
            (await client.get(path)).raise_for_status()
            begun = time.process_time()
            for _ in range(REQUESTS):
                await client.get(path)
            found[name] = (time.process_time() - begun) / REQUESTS * 1e6
    begun = time.process_time()
    for _ in range(CONNECTIONS // 10):
        await (await database.connect()).close()
    return found | {IDENTIFIED: (time.process_time() - begun) / (CONNECTIONS // 10) * 1e6}


def measure(port: int, path: str, *, arm: bool) -> dict[str, float]:
    """Measure once, in this process."""
    log.set_up()
    settings = Settings()
    database = Database.from_settings(settings)
    if arm:
        sockets = (path, database.target.socket_path)
        tripwire.arm(tripwire.Allowed((("127.0.0.1", port),), sockets), Seal())
    known, spelt = ("127.0.0.1", port), ("::ffff:127.0.0.1", port)
    return {
        EVENT: per_call(lambda: id(0), CALLS),
        SOCKET: per_call(lambda: reach(socket.AF_UNIX, path), CONNECTIONS),
        ADDRESS: per_call(lambda: reach(socket.AF_INET, known), CONNECTIONS),
        SPELT: per_call(lambda: reach(socket.AF_INET6, spelt), CONNECTIONS),
    } | asyncio.run(through_the_app(settings, database))


async def child(dsn: str, port: int, path: str, arm: str) -> dict[str, float]:
    """Measure once, in a process of its own: a hook is for ever."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--child", str(port), path, arm,
        env={"DATABASE_URL": dsn}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    said, _ = await process.communicate()
    found: dict[str, float] = json.loads(said)
    return found


async def rounds(count: int, home: Path) -> list[dict[str, dict[str, float]]]:
    """Measure in rounds, each with and without, in turns that swap their order."""
    engine = Engine(SOURCE, home / "e", Binaries.locate(home))
    engine.init()
    await engine.start(SOURCE_SETTINGS, die_with_parent=True)
    try:
        await create_database(engine)
        async with engine.connect(APP, DATABASE) as connection:
            await migrations.apply(connection, migrations.DIRECTORY)
        path, found = str(home / "listener"), []
        async with (
            await asyncio.start_unix_server(lambda _, writer: writer.close(), path),
            await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as tcp,
        ):
            port = tcp.sockets[0].getsockname()[1]
            dsn = engine.dsn().get_secret_value()
            for number in range(count):
                order = ("on", "off") if number % 2 else ("off", "on")
                found.append({arm: await child(dsn, port, path, arm) for arm in order})
        return found
    finally:
        await engine.stop()


def table(found: list[dict[str, dict[str, float]]]) -> str:
    """Put medians and the median of the rounds' ratios into a table."""
    lines = [
        f"{'median of ' + str(len(found)) + ' rounds, CPU time in µs':52} without     with    ratio"
    ]
    for name in found[0]["off"]:
        off, on = (statistics.median(one[arm][name] for one in found) for arm in ("off", "on"))
        ratio = statistics.median(one["on"][name] / one["off"][name] for one in found)
        lines.append(f"{name:52} {off:7.2f}  {on:7.2f}  {ratio:6.2f}x")
    return "\n".join(lines)


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, port, path, arm = sys.argv
        print(json.dumps(measure(int(port), path, arm=arm == "on")))
    else:
        with tempfile.TemporaryDirectory(prefix="b-") as home:
            Path(home).chmod(0o711)  # Postgres may run as another user
            print(table(asyncio.run(rounds(int(sys.argv[1]), Path(home)))))
