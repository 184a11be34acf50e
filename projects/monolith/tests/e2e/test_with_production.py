import asyncio
import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.e2e.twins import M, N, end, processes, start, up

PREVIEW = f"preview {N}"

pytestmark = pytest.mark.timeout(300)  # five processes and two databases on a busy machine


@pytest.fixture(scope="module")
def twins(state_dir):
    """A state directory in which production runs beside previews."""
    return state_dir / "w"


async def said(process, *wanted):
    """Read until each process has said its text: `("production", "job ran")`; return all lines."""
    lines, missing = [], set(wanted)
    while missing:
        event = json.loads(await process.stdout.readline())
        if event["event"] == "log":
            lines.append((event["process"], event["line"]["event"]))
            missing -= {
                (name, text)
                for name, text in missing
                if lines[-1][0] == name and text in lines[-1][1]
            }
    return lines


def serving(twins):
    """Return the processes that serve production on this state directory; there is at most one."""
    found = []
    for pid, said in processes(twins):
        with suppress(OSError):  # it has ended meanwhile
            environment = Path(f"/proc/{pid}/environ").read_text()
            if "\0serve\0" in said and "PR_ENV=false\0" in environment:
                found.append(pid)
    return found


async def killed(twins):
    """Kill production as soon as it is there, as the system does where memory runs out."""
    while not (found := serving(twins)):
        await asyncio.sleep(0.01)
    os.kill(found[0], signal.SIGKILL)


async def test_one_acts_the_other_is_silent(twins):
    """
    Side by side, production ticks and answers; the preview does neither, and the page says so too.
    """
    async with up(twins, N, "--with-production") as (process, events, client):
        beside = events[-1]["production"]
        async with (
            httpx2.AsyncClient(base_url=beside["url"], trust_env=False) as production,
            httpx2.AsyncClient(base_url=beside["sinks"], trust_env=False) as sinks,
        ):
            asked = [
                await one.post("/api/scheduler/jobs/ships/run") for one in (client, production)
            ]
            ticks = await said(
                process, ("production", "job ran"), (PREVIEW, "scheduler loop disabled (PR_ENV)")
            )
            await sinks.post("/say", data={"text": "tide"})
            spoke = await said(process, ("production", "message sent"))
            received = (await sinks.get("/received")).json()
            page = (await sinks.get("/")).text
            modes = [(await one.get("/api/preview")).json() for one in (client, production)]

    assert [response.status_code for response in asked] == [409, 202]
    assert [mode["mode"] for mode in modes] == ["preview", "production"]
    assert [mode["database"]["verdict"] for mode in modes] == ["MATCH", "MATCH"]
    assert modes[0]["dropped_credentials"] == []  # it was handed none
    assert "database 'monolith-pg' MATCH" in beside["audit"]
    assert not {(PREVIEW, "job ran"), (PREVIEW, "message sent")} & {*ticks, *spoke}
    assert sum(one["author"] == "monolith" for one in received["messages"]) == 1
    assert {one["by"] for one in received["messages"]} == {"production", "ada"}
    assert received["shares"][PREVIEW] == {"messages": 0, "requests": 0, "pushes": 0}
    assert f"<th>{PREVIEW}</th>" in page
    assert process.returncode == 0
    assert processes(twins) == []


async def test_twice(twins):
    """
    Production runs once: who asks for it again is told where it runs, and a preview runs beside it.
    """
    async with up(twins, N, "--with-production") as (_, events, _):
        code, out, err = await end("up", M, "--with-production", "--state-dir", twins)
        left = (twins / f"previews/{M}").exists()
        async with up(twins, M) as (_, more, _):
            both = [event["url"] for event in (events[-1], more[-1])]
        down = (await end("down", N, "--state-dir", twins))[0]

    assert (code, out, left) == (78, "", False)
    assert f"({events[-1]['production']['url']})" in err
    assert len(set(both)) == 2
    assert (down, processes(twins)) == (0, [])


async def test_production_that_ends(twins):
    """
    When production ends by itself, `up` says so with its last words, and tears the preview down.
    """
    async with up(twins, N, "--with-production") as (process, _, _):
        await killed(twins)
        _, err = await process.communicate()

    assert process.returncode == 78
    assert b"Cannot run production beside the preview: expected it to run, it ended with" in err
    assert b"exit code -9" in err
    assert processes(twins) == []
    assert not (twins / f"previews/{N}").exists()


async def test_production_that_does_not_start(twins):
    """
    Where production cannot start, no preview does; the same without git, whose vault it needs.
    """
    process = await start("up", N, "--with-production", "--json", "--state-dir", twins)
    await killed(twins)
    out, err = await process.communicate()
    code, _, no_git = await end("up", N, "--with-production", "--state-dir", twins, PATH="/none")

    assert (process.returncode, code) == (78, 78)
    assert b"Cannot run production beside the preview: expected it to run, it ended with" in err
    assert b'"ready"' not in out
    assert "the system has no git for its vault. Install git." in no_git
    assert processes(twins) == []


async def test_kill_of_both(twins):
    """
    After kill -9 of `up` nothing keeps running but the source, and the next one runs production.
    """
    async with up(twins, N, "--with-production") as (process, _, _):
        process.kill()
        await process.wait()
        while len(processes(twins)) > 1:  # the source, which others might use
            await asyncio.sleep(0.05)
    async with up(twins, M, "--with-production") as (_, events, _):
        assert events[0]["swept"] == N
        assert events[-1]["production"]["url"]

    assert processes(twins) == []


async def test_what_a_person_sees(twins):
    """
    Without --json the summary says where production and the sinks are, and each log line whose.
    """
    process = await start("up", N, "--with-production", "--state-dir", twins)
    lines = [""]
    while not lines[-1].startswith(f"{PREVIEW} ") or "discord bot disabled" not in lines[-1]:
        lines.append((await process.stdout.readline()).decode())
    process.send_signal(signal.SIGINT)
    await process.communicate()
    text = "".join(lines)

    assert re.search(r"^  production  http://127\.0\.0\.1:\d+$", text, re.MULTILINE)
    assert re.search(r"^  sinks       http://127\.0\.0\.1:\d+ ", text, re.MULTILINE)
    assert re.search(r"^production +\| [\d:]{8} discord bot enabled", text, re.MULTILINE)
    assert process.returncode == 0
