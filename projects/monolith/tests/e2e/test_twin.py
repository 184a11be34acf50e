import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys

import pytest

from preview.binaries import Binaries
from preview.places import Places
from preview.seed import JOBS
from tests.e2e.twins import COVERAGE, M, N, end, processes, start, up


@pytest.fixture(scope="module")
def twins(state_dir):
    """A state directory for previews, in which the first `up` makes the source."""
    return state_dir / "t"


async def test_a_preview(twins):
    """
    `up` ends in a ready URL: muted, verdict MATCH, own clone; Ctrl-C leaves nothing but the source.
    """
    async with up(twins, N) as (process, events, client):
        attestation = (await client.get("/api/preview")).json()
        log = (await end("logs", N, "--state-dir", twins))[1]
        process.send_signal(signal.SIGINT)
        await process.communicate()

    assert [point["runs"] for point in attestation["startup_points"]] == [False, False]
    facts = {fact["name"]: fact["found"] for fact in attestation["database"]["facts"]}
    assert attestation["database"]["verdict"] == "MATCH"
    assert facts["cluster_name"] == f"monolith-pg-pr-{N}"
    assert facts["host"].startswith(str(twins))
    assert attestation["outbound"]["tripwire"]["allowed"] == [f"{facts['host']}/.s.PGSQL.5432"]
    assert attestation["outbound"]["seal"]["ports"] == []
    assert f"audit: {events[-1]['audit']}" in log
    assert attestation["digest"] in events[-1]["audit"]
    assert process.returncode == 0
    assert processes(twins) == []
    assert not list((twins / "previews").glob(f"{N}*"))


async def test_writes_and_due_jobs(twins):
    """
    What is written through a preview is in its clone only, and jobs left due stay untouched.
    """
    places, rows = Places(twins), "SELECT * FROM scheduler.jobs ORDER BY name"
    source = places.source(Binaries.locate(twins))
    async with up(twins, N, "--no-neutralize") as (_, _, client):
        made = await client.post("/api/notes", json={"title": "only in the clone"})
        async with source.connect("app", "monolith") as production:
            due = "SELECT count(*) FROM scheduler.jobs WHERE next_run_at < now()"
            assert await production.fetchval(due) == len(JOBS)
            before = await production.fetch(rows)
            query = "SELECT count(*) FROM notes.notes WHERE title = 'only in the clone'"
            assert await production.fetchval(query) == 0
        clone = places.preview(N).engine(source.binaries)
        await asyncio.sleep(3)
        async with clone.connect("app", "monolith") as preview:
            assert await preview.fetchval(query) == 1
            assert await preview.fetch(rows) == before

    assert made.status_code == 201


async def test_neutralised(twins):
    """
    Without being told otherwise the clone's jobs are parked, and the attestation says how many.
    """
    async with up(twins, N) as (_, _, client):
        attestation = (await client.get("/api/preview")).json()
        jobs = (await client.get("/api/scheduler/jobs")).json()

    counts = {"jobs_parked": len(JOBS), "leases_ended": 0, "outbox_emptied": 0}
    assert attestation["neutralized"]["counts"] == counts
    assert {job["next_run_at"] for job in jobs} == {None}


async def test_second_up(twins):
    """
    A second `up` neither makes nor seeds the source again, and clones what it says now.
    """
    async with up(twins, N) as (_, events, _):
        names = [event["name"] for event in events if event["event"] == "step"]

    assert not [name for name in names if "first time only" in name]
    assert names[0] == "start monolith-pg, production's database"


async def test_same_number_twice(twins):
    """
    `up` of a preview that runs is refused, and says where it runs; `down` from elsewhere ends it.
    """
    async with up(twins, M) as (process, events, _):
        code, _, err = await end("up", M, "--state-dir", twins)
        listed = (await end("ls", "--json", "--state-dir", twins))[1]
        down = await end("down", M, "--state-dir", twins)
        await process.communicate()

    assert (code, down[0], process.returncode) == (78, 0, 0)
    assert events[-1]["url"] in err
    assert [json.loads(line)["runs"] for line in listed.splitlines()] == [True]
    assert processes(twins) == []


async def test_port_that_is_taken(twins):
    """
    Where another listens on the usual port the preview takes one of its own, and its URL says so.
    """
    taken = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 8000 + M)
    async with taken, up(twins, M) as (_, events, client):
        attestation = (await client.get("/api/preview")).json()

    assert f":{8000 + M}" not in events[-1]["url"]
    assert attestation["pr_number"] == M


@pytest.mark.parametrize("finder", ["ls", "up", "down"])
async def test_crash(twins, finder):
    """
    After kill -9 nothing keeps running, and the next `ls`, `up` or `down` cleans up what is left.
    """
    async with up(twins, N) as (process, _, _):
        process.kill()
        await process.wait()
        while len(processes(twins)) > 1:  # the source, which others might use
            await asyncio.sleep(0.05)
    left = (twins / f"previews/{N}/clone/data").exists()
    if finder == "up":
        async with up(twins, M) as (_, events, _):
            assert events[0]["swept"] == N
    else:
        await end(finder, *(["--all"] if finder == "down" else []), "--state-dir", twins)

    assert left
    assert not (twins / f"previews/{N}").exists()
    assert processes(twins) == []


async def test_stop_in_the_middle(twins):
    """
    SIGTERM or Ctrl-C before a preview is ready leaves nothing either.
    """
    for how, after in ((signal.SIGTERM, 1), (signal.SIGINT, 2)):
        process = await start("up", N, "--json", "--state-dir", twins)
        for _ in range(after):
            await process.stdout.readline()
        process.send_signal(how)
        await process.communicate()

        assert process.returncode == 0
        assert processes(twins) == []
        assert not (twins / f"previews/{N}").exists()


async def test_keep(twins):
    """
    With --keep, clone and notes outlive Ctrl-C; the next `up` goes on, `down` deletes them.
    """
    async with up(twins, N, "--keep") as (_, first, client):
        assert (await client.post("/api/notes", json={"title": "kept"})).is_success
    kept = (await end("ls", "--state-dir", twins))[1]
    async with up(twins, N, "--keep") as (_, second, client):
        found = (await client.get("/api/notes", params={"q": "kept"})).json()
    await end("down", N, "--state-dir", twins)

    assert kept.startswith(f"{N}  kept")
    assert [note["title"] for note in found] == ["kept"]
    assert first[-1]["data"] == second[-1]["data"]
    assert (await end("ls", "--state-dir", twins))[1].startswith("no previews")


async def test_refused_up_keeps_what_was_kept(twins):
    """
    An `up` that is refused leaves a kept clone alone, and so does a file of facts that was damaged.
    """
    async with up(twins, N, "--keep") as (_, _, client):
        assert (await client.post("/api/notes", json={"title": "kept"})).is_success
    places = Places(twins)
    password = places.preview(N).home / "clone/app.password"
    right = password.read_text()
    password.write_text("wrong")
    code, _, err = await end("up", N, "--state-dir", twins)
    password.write_text(right)
    (twins / "previews/stray").mkdir()
    listed = (await end("ls", "--state-dir", twins))[1]
    async with up(twins, N) as (_, _, client):
        found = (await client.get("/api/notes", params={"q": "kept"})).json()

    assert (code, "Traceback" in err, listed.startswith(f"{N}  kept")) == (78, False, True)
    assert [note["title"] for note in found] == ["kept"]
    assert not (twins / f"previews/{N}").exists()


async def test_app_that_ends(twins):
    """
    When the app ends by itself, `up` ends with the app's exit code, says so, and leaves nothing.
    """
    async with up(twins, N) as (process, _, _):
        for pid, said in processes(twins):
            if "\0serve\0" in said:
                os.kill(pid, signal.SIGKILL)
        _, err = await process.communicate()

    assert process.returncode == 78
    assert b"it ended with exit code -9" in err
    assert processes(twins) == []


async def test_what_a_person_sees(twins):
    """
    In a pipe each step is a line; on a terminal too, and the end says URL, data, muted, audit.
    """
    process = await start("up", N, "--state-dir", twins)
    lines: list[str] = []
    while not lines or not lines[-1].startswith("  audit"):
        lines.append((await process.stdout.readline()).decode())
    code, listed, _ = await end("ls", "--state-dir", twins)
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    steps = [line for line in lines if re.fullmatch(r"- .+ \(\d+\.\d s\)\n", line)]
    assert [line.split()[1] for line in steps] == [
        "start",
        "clone",
        "start",
        "apply",
        "neutralise",
        "start",
    ]
    names = [re.split(r"\s{2,}", line.strip())[0] for line in lines if line.startswith("  ")]
    assert names == ["URL", "data", "muted", "tear down", "audit"]
    assert "muted      scheduler loop, discord bot" in "".join(lines)
    assert (code, listed.startswith(f"{N}  runs  http://127.0.0.1:")) == (0, True)


async def test_terminal(twins):
    """
    A terminal sees the same lines, with a spinner in between, and Ctrl-C ends it with code 0.
    """
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "preview", "preview", "up", str(N), "--state-dir", str(twins)),
        env=COVERAGE | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"sha256:" not in seen:
        seen += await asyncio.to_thread(os.read, ours, 4096)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the terminal closes with the process
        while True:
            await asyncio.to_thread(os.read, ours, 4096)
    os.close(ours)

    assert await process.wait() == 0
    assert b"\x1b[" in seen
    assert f"- clone monolith-pg, online, to monolith-pg-pr-{N} (".encode() in seen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["down", "7"], "Cannot find preview 7"),
        (["logs", "7"], "Cannot find preview 7"),
        (["down"], "Name a preview, or say --all"),
        (["down", "--all", "7"], "Name a preview, or say --all"),
        (["up", "0"], "0 is not in the range"),
        (["up", "x"], "'x' is not a valid integer"),
        (["up", "7", "--pg-bin", "/"], "Cannot run Postgres"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
async def test_wrong_command(twins, arguments, said):
    """
    A command that cannot be done says why, in a sentence, and leaves nothing.
    """
    code, out, err = await end(*arguments, "--state-dir", twins)

    assert code in (2, 78)
    assert said in err
    assert "Traceback" not in out + err
    assert processes(twins) == []


async def test_source_is_deleted_on_request(twins):
    """
    `down --all --source` deletes the source too; without previews `ls` says how to begin.
    """
    code, out, _ = await end("down", "--all", "--source", "--state-dir", twins)

    assert (code, out) == (0, "deleted the source\n")
    assert not (twins / "source").exists()
    assert "monolith preview up" in (await end("ls", "--state-dir", twins))[1]
