"""
A process that has imported the app, and forks a child for every attempt.

Each child is a process of its own, with an environment of its own, that takes
the app's real way to start. The world outside counts who comes; what is
reported here is only what the child has said.
"""

import asyncio
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from app.main import Startup
from shared import tripwire
from shared.audit import audit_record
from shared.errors import MonolithError
from tests.environment import ACCESS
from tests.escapes.outside import ELSEWHERE, Outside, bell, resolve_at, stand_in_for_dns
from tests.escapes.registry import Act, Attempt, Chapter, Start

CONTROL, PREVIEW, UNSEALED = "control", "preview", "unsealed"
CHAPTERS = ("dsn", "settings", "serving", "sockets", "programs", "past_python")
SECONDS = 20
ASK = "SELECT current_setting('cluster_name')"
HARM = "INSERT INTO harm DEFAULT VALUES"

Told = dict[str, Any]


def attempts() -> dict[str, Attempt]:
    """Return every attempt by name, in the order of the chapters."""
    for chapter in CHAPTERS:
        import_module(f"tests.escapes.{chapter}")
    return Chapter.all


def attempt(told: Told) -> Iterator[Told]:
    """Do what was told; yield the attestation before an act, and what came of it after."""
    one, way = Chapter.all[told["attempt"]], told["way"]
    assert isinstance(one, Start | Act)
    if isinstance(one, Act) and one.resolver:
        resolve_at(told["resolver"], Path(told["home"]))
    else:
        stand_in_for_dns(one.names if isinstance(one, Start) else {})
    os.environ.clear()
    os.environ.update({key: value.format_map(told) for key, value in one.variables.items()})
    os.environ.setdefault("DATABASE_WAIT_SECONDS", "0")
    if isinstance(one, Start):
        yield (_naive if way == CONTROL else _started)(one)
        return
    if way == UNSEALED:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    yield from _acted(one, told)


def _naive(one: Start) -> Told:
    """Connect as an app does that has no guard, and do harm."""

    async def connect() -> None:
        connection = await asyncpg.connect(os.environ.get("DATABASE_URL"), timeout=5)
        if one.asks and await connection.fetchval(ASK) != "monolith-pg-pr-7":
            raise AssertionError(ASK)
        await connection.execute(HARM)

    make_loop = uvloop.new_event_loop if one.uvloop else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return _said(lambda: runner.run(connect()))


def _started(_one: Start) -> Told:
    """Start as `monolith check` does, and do harm to whatever opens."""
    os.environ.update(ACCESS if os.environ.get("PR_ENV") == "true" else {})
    startup = Startup()

    async def harm() -> None:
        assert startup.database
        async with startup.database.pool() as pool:
            await pool.execute(HARM)

    def start() -> None:
        try:
            startup.run()
            asyncio.run(harm())
        except MonolithError as error:
            startup.refuse(error)
            raise

    return _said(start)


def _acted(one: Act, told: Told) -> Iterator[Told]:
    preview = told["way"] != CONTROL
    clone = told["clone_by_tcp" if one.over_tcp else "clone"]
    if one.over_tcp and preview:
        os.environ.update(ACCESS)
    os.environ.setdefault("PR_ENV", str(preview))
    os.environ.setdefault("DATABASE_URL", clone if preview else told["source"])
    where = Outside(
        host=ELSEWHERE,
        port=told["port"],
        path=told["socket"],
        source=told["source"],
        clone=told["clone"],
        preview=preview,
        bell=bell(told["port"]),
    )
    code = one.code(where) if isgeneratorfunction(one.code) else None
    if code:
        next(code)
    startup = Startup()
    where.settings, where.database = startup.run()
    armed = tripwire.armed()
    yield {"attestation": audit_record(where.settings, where.database)["outbound"]}
    said = _said(lambda: next(code, None) if code else one.code(where))
    yield said | {"refused": armed.refused if armed else None}


def _said(work: Any) -> Told:
    """Do it, and say what Python says of it: the class of every error in the chain."""
    try:
        work()
    except BaseException as error:  # noqa: BLE001  whatever it is, it is to be told
        chain, last = [], error
        while last is not None:
            chain.append(type(last).__name__)
            last = last.__cause__ or last.__context__  # type: ignore[assignment]
        return {"errors": chain, "said": str(error)}
    return {"errors": [], "said": "done"}


def born(told: Told) -> Told:
    """Fork a child that does what it is told, and return what it has said until it ended."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        _live(told, writes)
    os.close(writes)
    with open(reads, "rb", buffering=0) as pipe:  # noqa: PTH123  a descriptor
        heard = _heard(pipe)
    _let_end(child)
    result: Told = {}
    for line in heard.splitlines():
        result |= json.loads(line)
    return result


def _let_end(child: int) -> None:
    """Wait for a child, which may be another program by now, and end what it has left."""
    for _ in range(SECONDS * 500):
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _live(told: Told, writes: int) -> None:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.set_inheritable(writes, False)  # noqa: FBT003  the standard library's signature
    try:
        for part in attempt(told):
            os.write(writes, json.dumps(part).encode() + b"\n")
    except BaseException as error:  # noqa: BLE001  it must not become a second nursery
        os.write(writes, json.dumps({"broken": repr(error)}).encode() + b"\n")
    finally:
        os._exit(0)


def _heard(pipe: Any) -> bytes:
    """Read until nobody writes any more, or for SECONDS of silence."""
    heard = b""
    while select.select([pipe], [], [], SECONDS)[0]:
        part = pipe.read(1 << 16)
        if not part:
            return heard
        heard += part
    return heard + b'{"broken": "it came to no end"}\n'


def main() -> None:
    """Fork a child for every line that comes."""
    attempts()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(born(json.loads(line))) + "\n")
        sys.stdout.flush()
