import asyncio
import time

import pytest

from preview.sinks.discord import FakeDiscord
from preview.sinks.github import FakeGitHub
from preview.sinks.payloads import CHANNEL, TOKEN
from tests.app.waiting import until
from tests.environment import read

HOOK = """#!/bin/sh
echo $$ > {asleep}.new
mv {asleep}.new {asleep}
exec sleep 999
"""
TENDED = "SELECT count(*) > 0 FROM notes.notes WHERE title = 'Flood'"


async def test_all_jobs(served, database, vault):
    """
    In production all four jobs run by themselves, and each change is told once.
    """
    async with FakeGitHub().serve() as github, FakeDiscord().serve() as discord:
        github.commit("ada/harbour", "Begin")
        variables = {
            "DATABASE_URL": await database(),
            "CHANGELOG_CHANNEL": CHANNEL,
            "CHANGELOG_REPOSITORIES": "ada/harbour",
            "DISCORD_API_URL": discord.url,
            "DISCORD_BOT_TOKEN": TOKEN,
            "GITHUB_API_URL": github.url,
            "VAULT_GIT_REMOTE": vault.remote,
        }
        async with served(**variables) as (client, process):
            await client.post("/api/notes", json={"title": "Tides", "body": "[[Ebb]]"})
            await until(lambda: github.asked)
            github.commit("ada/harbour", "Mend the quay")
            for job in ("gardener", "changelog", "vault"):
                await client.post(f"/api/scheduler/jobs/{job}/run")
            await until(lambda: discord.posted and len(vault.files()) == 2)
            jobs = (await client.get("/api/scheduler/jobs")).json()
        events = [line["event"] for line in process.log]

    assert {job["name"] for job in jobs} == {"changelog", "gardener", "ships", "vault"}
    assert {job["last_result"] for job in jobs} <= {"ok", None}
    assert ["Mend the quay" in one.content for one in discord.posted] == [True]
    assert "job does not run" not in events


async def test_sigterm_in_a_push(served, database, vault, tmp_path, monkeypatch):
    """
    SIGTERM in the middle of a push ends the process, git and its working tree, and the job is due
    again at once for the next process.
    """
    asleep, trees = tmp_path / "asleep", tmp_path / "tmp"
    trees.mkdir()
    hook = vault.path / "hooks/pre-receive"
    hook.write_text(HOOK.format(asleep=asleep))
    hook.chmod(0o755)
    variables = {"DATABASE_URL": await database(), "VAULT_GIT_REMOTE": vault.remote}
    async with read(variables["DATABASE_URL"]).pool() as pool:
        await pool.execute("INSERT INTO notes.notes (title) VALUES ('Tides')")
        async with served(**variables, PATH="/usr/bin:/bin", TMPDIR=str(trees)) as (_, process):
            await until(asleep.exists)
            there = list(trees.glob("monolith-vault-*"))
            began = time.monotonic()
            process.terminate()
            await process.wait()
            took = time.monotonic() - began
        due = await pool.fetchval(
            "SELECT next_run_at <= now() AND lease_id IS NULL FROM scheduler.jobs"
            " WHERE name = 'vault'"
        )

    assert (process.returncode, due, len(there)) == (0, True, 1)
    assert list(trees.iterdir()) == []
    assert vault.history() == []
    assert took < 60


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "production"])
async def test_nothing_is_armed(served, clone_7, database, monolith, preview):
    """
    In a neutralised preview editing an interval or a note arms nothing, and nothing can be asked
    for; in production a job is due by its new interval.
    """
    dsn = clone_7.dsn().get_secret_value() if preview else await database()
    variables = {"DATABASE_URL": dsn, "PR_ENV": str(preview)}
    async with read(dsn, PR_ENV=str(preview)).pool() as pool:
        await pool.execute(
            "INSERT INTO scheduler.jobs (name, interval, next_run_at)"
            " VALUES ('ships', '1 d', now() + interval '1 d'), ('gardener', '1 d', now())"
        )
        await pool.execute("INSERT INTO outbox.messages (key, channel, text) VALUES ('a', 1, 'x')")
        if preview:
            assert (await monolith("neutralize", **variables)).code == 0
        async with served(**variables) as (client, _):
            edited = await client.patch("/api/scheduler/jobs/ships", json={"interval": 3600})
            note = await client.post("/api/notes", json={"title": "Tides", "body": "[[Ebb]]"})
            await client.patch(f"/api/notes/{note.json()['id']}", json={"body": "[[Flood]]"})
            asked = await client.post("/api/scheduler/jobs/gardener/run")
            while not preview and not await pool.fetchval(TENDED):
                await asyncio.sleep(0.05)
        armed = await pool.fetchval(
            "SELECT count(*) FROM scheduler.jobs WHERE next_run_at < 'infinity'"
        )
        ran = await pool.fetchval("SELECT sum(runs) FROM scheduler.jobs")
        stubs = await pool.fetchval("SELECT count(*) FROM notes.notes")
        waiting = await pool.fetchval("SELECT count(*) FROM outbox.messages")

    assert (edited.status_code, edited.json()["interval"]) == (200, "PT1H")
    assert asked.status_code == (409 if preview else 202)
    assert (armed, ran > 0, stubs > 1, waiting) == (
        (0, False, False, 0) if preview else (2, True, True, 1)
    )
