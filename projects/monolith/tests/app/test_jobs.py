import asyncio
from datetime import timedelta

import httpx2
import pytest

import app.jobs
from app.git import Remote, WorkingTree
from app.github import Feed, GitHub
from app.jobs import JOBS as ENTRIES
from app.jobs import Entry, table
from app.jobs.tools import Tools
from app.main import create_app
from app.startup import _run_program
from preview.seed import JOBS, seed
from shared.database import Database


async def test_seed(pool):
    """
    The seed has thousands of notes, ships with positions, and due rows for every job of the table.
    """
    async with pool.acquire() as connection:
        await seed(connection)

    assert await pool.fetchval("SELECT count(*) FROM notes.notes") == 5_000
    assert await pool.fetchval("SELECT count(*) FROM ships.positions") == 30_000
    due = await pool.fetch("SELECT name, interval FROM scheduler.jobs WHERE next_run_at < now()")
    assert {row["name"]: row["interval"] for row in due} == JOBS
    assert {entry.name: entry.interval for entry in ENTRIES} == JOBS


async def test_table(pool, tmp_path):
    """
    A job without the setting that it needs is left out, and named with that setting.
    """
    bare = Tools(pool)
    async with httpx2.AsyncClient() as client:
        feed = Feed(GitHub(client, "http://127.0.0.1:9", None), ("o/n",), 300)
        tree = WorkingTree(tmp_path, Remote("/nowhere", "main"), _run_program, {})
        whole = Tools(pool, feed, tree)

        assert [job.name for job in table(whole)] == ["changelog", "gardener", "ships", "vault"]
        assert whole.lacking == {}
    assert [job.name for job in table(bare)] == ["gardener", "ships"]
    assert bare.lacking == {"changelog": "CHANGELOG_REPOSITORIES", "vault": "VAULT_GIT_REMOTE"}
    assert all(job.lease >= timedelta(minutes=1) for job in table(whole))


@pytest.mark.both_worlds
async def test_thoughtless_job(world, dsn, sink, monkeypatch):
    """
    A job that was added without a thought of previews runs in production and in no preview.
    """
    ran = asyncio.Event()

    async def act(_tools):
        ran.set()

    monkeypatch.setattr(app.jobs, "JOBS", (Entry("thoughtless", timedelta(minutes=1), act),))
    with world.enter(DATABASE_URL=dsn) as settings:
        application = create_app(settings, Database.from_settings(settings))
    async with application.router.lifespan_context(application):
        pool = application.state.resources.pool
        if world.preview:
            await pool.execute("INSERT INTO scheduler.jobs VALUES ('thoughtless', '1 min')")
            await asyncio.sleep(2.5)  # twice as long as the loop rests
        else:
            await ran.wait()

    assert ran.is_set() is not world.preview
    assert sink.take() == []
