import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from fastapi import FastAPI

from app.main import _server_config, create_app
from preview.process import free_port
from shared.database import Database
from shared.errors import UnguardedError
from shared.guard import StartupPoint
from shared.testing import Sink, as_preview, as_production, assert_muted
from tests.environment import ACCESS, read

COVERAGE = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}
PYTHON = (sys.executable, "-m", "preview")
LOUD = {"DISCORD_BOT_TOKEN": "tok", "GITHUB_TOKEN": "tok", "VAULT_GIT_REMOTE": "https://tok@git/x"}


@pytest.fixture
async def listener():
    """A server that only counts who connects: `dsn(host)` leads to it, `hits` counts."""

    class Listener:
        hits = 0
        dsn = ""

        async def hit(self, _reader, writer):
            self.hits += 1
            writer.close()

    heard = Listener()
    server = await asyncio.start_server(heard.hit, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    heard.dsn = f"postgresql://app:hunter2@127.0.0.1:{port}/monolith"
    async with server:
        yield heard


@pytest.mark.parametrize("verb", ["check", "serve"])
async def test_preview_with_productions_dsn(monolith, listener, verb):
    """
    PR_ENV=true with production's DSN: exit 78, one error line, and no packet to production.
    """
    refused = await monolith(verb, PR_ENV="true", DATABASE_URL=listener.dsn)
    hits = listener.hits
    await monolith("check", DATABASE_URL=listener.dsn, DATABASE_WAIT_SECONDS="0")

    assert (refused.code, hits) == (78, 0)
    assert listener.hits == 1
    error, audit = refused.log
    assert (error["step"], error["level"]) == ("database target", "error")
    assert "Point DATABASE_URL at this preview's own clone" in error["error"]
    assert audit["database"]["verdict"] == "MISMATCH"
    assert "hunter2" not in str(refused)


@pytest.mark.parametrize("verb", ["check", "serve"])
async def test_production_with_a_clones_dsn(monolith, state_dir, verb):
    """
    PR_ENV unset with the clone's DSN: exit 78, one error line, and no packet to the clone.
    """
    hits = []

    async def hit(_reader, writer):
        hits.append(1)
        writer.close()

    directory = state_dir / "l" / "monolith-pg-pr-7"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".s.PGSQL.5432"
    server = await asyncio.start_unix_server(hit, path)
    dsn = f"postgresql://app:hunter2@/monolith?host={quote(str(directory))}"
    async with server:
        refused = await monolith(verb, DATABASE_URL=dsn)
        hits_before = len(hits)
        await monolith("check", DATABASE_URL=dsn, PR_ENV="true", DATABASE_WAIT_SECONDS="0")

    assert (refused.code, hits_before) == (78, 0)
    assert hits
    assert "Set PR_ENV=true for a preview" in refused.log[0]["error"]


@pytest.mark.parametrize(
    "variables",
    [{"PR_ENV": "ture"}, {"PR_ENV": ""}, {"PR-ENV": "true"}, {"PRENV": "true"}, {"PR_NUMBER": "7"}],
    ids=["ture", "empty", "dash", "joined", "number-only"],
)
async def test_misspelt_flag(monolith, source, variables):
    """
    A misspelt PR_ENV, its name or its value: exit 78 before anything else, and no start.
    """
    dsn = source.dsn().get_secret_value()
    refused = await monolith("serve", DATABASE_URL=dsn, **variables)
    control = await monolith("check", DATABASE_URL=dsn)

    assert (refused.code, control.code) == (78, 0)
    assert refused.events == ["refused to start", refused.events[1]]
    assert refused.log[0]["step"] == "settings"
    assert refused.log[1]["mode"] == "unknown"


async def test_check(monolith, source):
    """
    `monolith check` prints the audit record, which says MATCH, and starts nothing.
    """
    checked = await monolith("check", DATABASE_URL=source.dsn().get_secret_value())

    record = json.loads(checked.out)
    assert checked.code == 0
    assert (record["mode"], record["database"]["verdict"]) == ("production", "MATCH")
    assert checked.log == []


async def test_wrong_server_behind_the_right_name(monolith, source):
    """
    A server that calls itself something else behind the clone's name: exit 78, verdict MISMATCH.
    """
    link = source.socket_dir.with_name("monolith-pg-pr-8")
    link.symlink_to(source.socket_dir)
    was, becomes = (quote(str(path), safe="") for path in (source.socket_dir, link))
    dsn = source.dsn().get_secret_value().replace(was, becomes)
    try:
        refused = await monolith("check", PR_ENV="true", DATABASE_URL=dsn)
    finally:
        link.unlink()

    assert (refused.code, refused.log[0]["step"]) == (78, "database identity")
    assert "expected cluster_name to be monolith-pg-pr-8" in refused.log[0]["error"]
    assert refused.log[1]["database"]["verdict"] == "MISMATCH"


async def test_preview_serves(served, clone_7):
    """
    A preview with tokens in its environment serves muted, names what it dropped, and says so.
    """
    dsn = clone_7.dsn().get_secret_value()
    async with served(PR_ENV="true", DATABASE_URL=dsn, HEAD_SHA="a" * 40, **LOUD) as (
        client,
        process,
    ):
        attestation = (await client.get("/api/preview")).json()
        run = await client.post("/api/scheduler/jobs/ships/run")
    ours = [line for line in process.log if "logger" not in line]
    events = [line["event"] for line in ours]

    assert (attestation["mode"], attestation["pr_number"]) == ("preview", 7)
    assert attestation["head_sha"] == "a" * 40
    assert [point["runs"] for point in attestation["startup_points"]] == [False, False]
    assert attestation["dropped_credentials"] == sorted(LOUD)
    assert attestation["database"]["verdict"] == "MATCH"
    assert attestation["outbound"]["tripwire"] == {
        "armed": True,
        "allowed": [f"{clone_7.socket_dir}/.s.PGSQL.5432"],
    }
    assert attestation["counters"]["outbound_refused"] == {}
    assert ", tripwire armed, " in events[2]
    assert (run.status_code, run.json()["reason"]) == (409, "PR_ENV")
    assert events[:2] == ["scheduler loop disabled (PR_ENV)", "discord bot disabled (PR_ENV)"]
    assert events[2].startswith("audit: preview 7, ")
    assert ours[2]["digest"] == attestation["digest"]
    assert "tok" not in str(process.log).replace("TOKEN", "")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "Address already in use"),
        ("192.0.2.1", "Cannot assign"),
        ("x.invalid", "known"),
    ],
    ids=["taken", "not-ours", "no-such-host"],
)
async def test_address_that_cannot_be_had(monolith, database, listener, host, reason):
    """
    An address that cannot be listened on is refused, exit 78, before any startup point has started.
    """
    dsn = await database()
    port = listener.dsn.rpartition(":")[2].removesuffix("/monolith")
    refused = await monolith("serve", DATABASE_URL=dsn, LISTEN_HOST=host, LISTEN_PORT=port)
    async with read(dsn).pool() as pool:
        registered = await pool.fetchval("SELECT count(*) FROM scheduler.jobs")

    assert (refused.code, refused.log[0]["step"], registered) == (78, "listen", 0)
    assert reason in refused.log[0]["error"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
async def test_stop(served, database, how):
    """
    SIGTERM and Ctrl-C end production cleanly, with exit code 0 and no error in the log.
    """
    async with served(DATABASE_URL=await database()) as (_, process):
        process.send_signal(how)
        log = [json.loads(line) async for line in process.stderr]
        code = await process.wait()

    assert code == 0
    assert {line["level"] for line in log} == {"info"}


async def test_stop_while_waiting_for_the_database(monolith, state_dir):
    """
    SIGTERM ends a start that waits for its database.
    """
    from tests.app.conftest import spawn  # noqa: PLC0415  a fixture cannot signal what it waits for

    dsn = f"postgresql://app:x@/monolith?host={state_dir}/monolith-pg-pr-7"
    process = await spawn(["serve"], {"PR_ENV": "true", "DATABASE_URL": dsn})
    assert b"waiting for the database" in await process.stderr.readline()
    process.terminate()
    await process.communicate()

    assert process.returncode == 0


async def test_audit_line_that_cannot_be_written(database, served):
    """
    Where the audit line cannot be written nothing starts, not even in production.
    """
    dsn = await database()
    reader = read(dsn)
    with Path("/dev/full").open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            *PYTHON,
            "serve",
            env={"DATABASE_URL": dsn, "LISTEN_PORT": str(free_port(0))},
            stderr=full,
        )
        code = await process.wait()
    async with reader.pool() as pool:
        registered = "SELECT count(*) FROM scheduler.jobs"
        before = await pool.fetchval(registered)
        async with served(DATABASE_URL=dsn):
            after = await pool.fetchval(registered)

    assert code == 78
    assert (before, after > 0) == (0, True)


async def test_startup_point_that_cannot_start(monolith, database):
    """
    A startup point that cannot start is refused in one line: exit 78, no traceback, nothing runs.
    """
    refused = await monolith("serve", DATABASE_URL=await database(migrated=False))
    ours = [line for line in refused.log if "logger" not in line]

    assert refused.code == 78
    assert ours[-2]["step"] == "startup points"
    assert ours[-2]["error"].startswith("Cannot start the scheduler loop")
    assert 'relation "scheduler.jobs" does not exist' in ours[-2]["error"]
    assert "Traceback" not in str(refused.log)


@pytest.mark.both_worlds
def test_how_it_is_served(world):
    """
    One process with its lifespan on; a preview on asyncio's own loop, which audit hooks can see.
    """
    config = _server_config(FastAPI(), world.settings)

    assert config.loop == ("asyncio" if world.preview else "auto")
    assert (config.lifespan, config.workers) == ("on", 1)


async def test_swallowed_lifespan(database):
    """
    An app whose lifespan somebody swallowed answers 503 to everything, and has started nothing.
    """
    with as_production(DATABASE_URL=await database()) as settings:
        identified = Database.from_settings(settings)
    app = create_app(settings, identified)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(base_url="http://x", transport=transport) as client:
        answers = [await client.get(path) for path in ("/healthz", "/api/preview", "/nothing")]
        async with app.router.lifespan_context(app):
            assert (await client.get("/healthz")).is_success
        answers.append(await client.get("/healthz"))

    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
async def test_muted_code_is_not_imported(database, clone_7, preview):
    """
    A preview has imported neither discord nor bot, outbox, jobs, git and scheduler; production has.
    """
    script = (
        "import asyncio, sys\n"
        "from app.main import Startup, create_app\n"
        "app = create_app(*Startup().run())\n"
        "async def main():\n"
        "    async with app.router.lifespan_context(app): pass\n"
        "asyncio.run(main())\n"
        "muted = {'discord', 'app.bot', 'app.outbox', 'app.jobs', 'app.git', 'shared.scheduler'}\n"
        "print(*sorted(muted & set(sys.modules)))"
    )
    dsn = clone_7.dsn().get_secret_value() if preview else await database()
    variables = {"DATABASE_URL": dsn, "PR_ENV": str(preview)}
    muted = {"DISCORD_BOT_TOKEN": "x", "DISCORD_API_URL": "http://127.0.0.1:9"}
    process = await asyncio.create_subprocess_exec(
        PYTHON[0], "-c", script, env=variables | muted,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()

    assert process.returncode == 0
    assert out.decode().split() == (
        []
        if preview
        else ["app.bot", "app.git", "app.jobs", "app.outbox", "discord", "shared.scheduler"]
    )


async def scripted(script, **variables):
    """Run a script on the app's own modules: its exit code and what it said, line by line."""
    process = await asyncio.create_subprocess_exec(
        PYTHON[0], "-c", script, env=COVERAGE | variables,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


def test_app_whose_tripwire_is_not_armed():
    """
    Who makes a preview's app past `monolith serve` is refused; production's needs no tripwire.
    """
    with as_preview(**ACCESS) as preview, as_production() as production:
        pass

    assert create_app(production, Database.from_settings(production)).title == "monolith"
    with pytest.raises(UnguardedError, match="nobody has armed it"):
        create_app(preview, Database.from_settings(preview))


SERVED_BY_HAND = """
import asyncio, sys, uvloop
from app.main import Startup, create_app
from shared.errors import UnguardedError
before = [name for name in sys.modules if name.startswith("app.api")]
app = create_app(*Startup().run())
print(before, "app.api.notes" in sys.modules)

async def serve():
    async with app.router.lifespan_context(app): print("serves")

for loop in (uvloop.new_event_loop, asyncio.new_event_loop):
    try:
        with asyncio.Runner(loop_factory=loop) as runner: runner.run(serve())
    except UnguardedError as error: print(error)
"""


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
async def test_loop_that_is_not_seen(database, clone_7, preview):
    """
    A preview does not start on uvloop, which connects past the tripwire; production may.
    """
    dsn = clone_7.dsn().get_secret_value() if preview else await database()
    _, uvloop, asyncio_ = await scripted(SERVED_BY_HAND, DATABASE_URL=dsn, PR_ENV=str(preview))

    assert asyncio_ == "serves"
    assert ("the process says the loop is uvloop's" in uvloop) is preview
    assert (uvloop == "serves") is not preview


async def test_routes_are_imported_armed(clone_7):
    """
    The tripwire sees what a module of routes does while it is imported.
    """
    dsn = clone_7.dsn().get_secret_value()
    imported, *_ = await scripted(SERVED_BY_HAND, DATABASE_URL=dsn, PR_ENV="true")

    assert imported == "[] True"


OUTWARD_ROUTE = """
import asyncio, json, socket, httpx2
from app.main import Startup, create_app
app = create_app(*Startup().run())
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]

@app.get("/directly")
async def directly(): await asyncio.open_connection("127.0.0.1", port)

@app.get("/through-a-library")
async def library():
    async with httpx2.AsyncClient(trust_env=False) as client:
        return (await client.get("http://127.0.0.1:1/")).status_code

async def ask():
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(base_url="http://monolith", transport=transport) as client,
    ):
        for path in ("/directly", "/through-a-library", "/through-a-library", "/api/preview"):
            answer = await client.get(path)
            print(answer.status_code, answer.text)
    print(port)

asyncio.run(ask())
"""


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
async def test_outward_route(database, clone_7, preview):
    """
    A preview's route that reaches out ends in a 409 that says where and what to do, also through
    a library, and the attestation counts it; production's reaches whom it wants.
    """
    dsn = clone_7.dsn().get_secret_value() if preview else await database()
    said = await scripted(OUTWARD_ROUTE, DATABASE_URL=dsn, PR_ENV=str(preview))
    codes, bodies = zip(*(line.split(" ", 1) for line in said[:-1]), strict=True)
    directly, library, _, attestation = map(json.loads, bodies)
    port = int(said[-1])

    if not preview:
        assert codes == ("200", "500", "500", "200")
        assert attestation["outbound"] is None
        assert attestation["counters"]["outbound_refused"] == {}
        return
    assert codes == ("409", "409", "409", "200")
    assert directly["act"] == f"reach 127.0.0.1:{port}"
    assert "Name it in EGRESS_ALLOW" in directly["detail"]
    assert library["act"] == "reach 127.0.0.1:1"
    assert attestation["counters"]["outbound_refused"] == {
        f"reach 127.0.0.1:{port}": 1,
        "reach 127.0.0.1:1": 2,
    }


REQUIRED = """
import sys, threading
from app.main import Startup
from shared.errors import MonolithError
wait = threading.Event()
threading.Thread(target=wait.wait, daemon=True).start()
startup = Startup()
try: startup.run(); print("runs")
except MonolithError as error: print(startup.step, error.exit_code, error, sep=": ")
"""


@pytest.mark.parametrize("seal", ["required", "optional"])
async def test_required_seal(clone_7, seal):
    """
    With PR_ENV_SEAL=required a preview that cannot be sealed does not start: exit 78.
    """
    dsn = clone_7.dsn().get_secret_value()
    (said,) = await scripted(REQUIRED, DATABASE_URL=dsn, PR_ENV="true", PR_ENV_SEAL=seal)

    assert said.startswith("tripwire: 78: Refused to start unsealed") is (seal == "required")
    assert (said == "runs") is (seal == "optional")


async def test_misspelt_seal(monolith, clone_7):
    """
    A value of PR_ENV_SEAL that is not known does not start, nor does a misspelt name.
    """
    dsn = clone_7.dsn().get_secret_value()
    for variables in ({"PR_ENV_SEAL": "require"}, {"PR_ENV_SAEL": "required"}):
        refused = await monolith("check", PR_ENV="true", DATABASE_URL=dsn, **variables)
        assert (refused.code, refused.log[0]["step"]) == (78, "settings")
    control = await monolith("check", PR_ENV="true", DATABASE_URL=dsn, PR_ENV_SEAL="optional")

    assert control.code == 0


async def test_muted_from_start_to_stop(clone_7, database, sink):
    """
    A preview's app starts and stops without a startup point and without its modules, though the
    process has them; production's would run one, and is not started.
    """
    with as_preview(DATABASE_URL=clone_7.dsn().get_secret_value(), **LOUD) as settings:
        await assert_muted(
            create_app(settings, Database.from_settings(settings)),
            modules=["app.bot", "app.jobs", "discord", "shared.scheduler"],
        )
    with as_production(DATABASE_URL=await database(), DISCORD_BOT_TOKEN="tok") as settings:
        production = Database.from_settings(settings)
        with pytest.raises(AssertionError) as caught:
            await assert_muted(create_app(settings, production))

    assert str(caught.value).count(" would run (production)") == len(StartupPoint)
    async with production.pool() as pool:
        assert await pool.fetchval("SELECT count(*) FROM scheduler.jobs") == 0


async def test_preview_that_nothing_watches(clone_7):
    """
    A preview's app is made in a test only while a sink stands in for its tripwire.
    """
    with as_preview(DATABASE_URL=clone_7.dsn().get_secret_value()) as settings:
        database = Database.from_settings(settings)
        with pytest.raises(UnguardedError):
            create_app(settings, database)
        with Sink():
            assert create_app(settings, database).state.guard.preview
        with pytest.raises(UnguardedError):
            create_app(settings, database)
