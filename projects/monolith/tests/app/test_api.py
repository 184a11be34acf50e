import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.jobs import table
from app.jobs.tools import Tools
from shared.scheduler import Scheduler


async def create(client, **fields):
    answer = await client.post(
        "/api/notes", json={"title": "Tides", "body": "High at noon."} | fields
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


class TestNotes:  # noqa: D101  its tests say it
    async def test_life_of_a_note(self, client):
        """
        A note is created, found, edited and deleted; what an edit leaves out stays.
        """
        note = await create(client, tags=["sea"])
        path = f"/api/notes/{note['id']}"
        edited = (await client.patch(path, json={"title": "Ebb"})).json()
        deleted = await client.delete(path)

        assert edited == note | {"title": "Ebb", "updated_at": edited["updated_at"]}
        assert edited["updated_at"] > note["updated_at"]
        assert (deleted.status_code, deleted.content) == (204, b"")
        for gone in (
            await client.get(path),
            await client.delete(path),
            await client.patch(path, json={}),
        ):
            assert (gone.status_code, gone.json()["detail"]) == (
                404,
                f"There is no note {note['id']}.",
            )

    async def test_search(self, client):
        """
        A search finds words in any form, the title before the body, and nothing else.
        """
        await create(client, title="Boats", body="One sails.")
        await create(client, title="Sailing", body="")
        await create(client, title="Bread", body="")
        found = (await client.get("/api/notes", params={"q": "sail"})).json()

        assert [note["title"] for note in found] == ["Sailing", "Boats"]
        assert (await client.get("/api/notes", params={"q": "\"' :* & !"})).json() == []

    async def test_pages(self, client):
        """
        The list is the latest first, in pages.
        """
        for i in range(5):
            await create(client, title=f"note {i}")
        page = (await client.get("/api/notes", params={"limit": 2, "offset": 1})).json()

        assert [note["title"] for note in page] == ["note 3", "note 2"]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"title": ""}, {"title": "  "}, {"title": "x" * 201}, {"title": "a\0b"}, {"title": 7},
            {"body": "\0"}, {"body": "x" * 100_001}, {"tags": [""]}, {"tags": ["x"] * 21},
            {"colour": "red"},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )  # fmt: skip
    async def test_bad_note(self, client, wrong):
        """
        A note that cannot be stored is refused with a pointer to what is wrong, and not stored.
        """
        answer = await client.post("/api/notes", json={"title": "x"} | wrong)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith(f"/body/{next(iter(wrong))}")
        assert (await client.get("/api/notes")).json() == []

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(title=st.text(max_size=210), body=st.text(max_size=50), query=st.text(max_size=210))
    async def test_any_text(self, client, title, body, query):
        """
        Any text is stored as it is or refused with 422; no text is a server error.
        """
        answer = await client.post("/api/notes", json={"title": title, "body": body})
        found = await client.get("/api/notes", params={"q": query})

        assert answer.status_code in (201, 422)
        assert found.status_code in (200, 422)
        if answer.status_code == 201:
            assert answer.json()["title"] in title
            assert answer.json()["body"] == body


class TestScheduler:  # noqa: D101
    async def test_run_on_demand(self, client):
        """
        In production a job that is asked for becomes due, and runs; one that is not there is a 404.
        """
        pool = client.resources.pool
        while await pool.fetchval("SELECT min(runs) FROM scheduler.jobs") != 1:
            pass
        asked = await client.post("/api/scheduler/jobs/ships/run")
        unknown = await client.post("/api/scheduler/jobs/nothing/run")

        assert (asked.status_code, unknown.status_code) == (202, 404)
        while await pool.fetchval("SELECT runs FROM scheduler.jobs WHERE name = 'ships'") != 2:
            pass
        listed = (await client.get("/api/scheduler/jobs")).json()
        assert {job["name"]: job["last_result"] for job in listed} == {
            "gardener": "ok",
            "ships": "ok",
        }

    async def test_edit_interval(self, client):
        """
        A person's interval holds at once and survives the next start; null gives it back.
        """
        pool, path = client.resources.pool, "/api/scheduler/jobs/gardener"
        while await pool.fetchval("SELECT min(runs) FROM scheduler.jobs") != 1:
            pass
        edited = (await client.patch(path, json={"interval": "PT2M"})).json()
        await Scheduler(pool, table(Tools(pool))).register()
        listed = (await client.get("/api/scheduler/jobs")).json()
        back = (await client.patch(path, json={"interval": None})).json()

        assert (edited["interval"], edited["interval_edited"]) == ("PT2M", True)
        assert edited["next_run_at"] < str(datetime.now(UTC) + timedelta(minutes=3)).replace(
            " ", "T"
        )
        assert edited in listed
        assert (back["interval"], back["interval_edited"]) == ("PT15M", False)

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"interval": 59},
            {"interval": "P32D"},
            {"interval": "often"},
            {"interval": 90, "x": 1},
        ],
        ids=["nothing", "too-often", "too-seldom", "text", "more"],
    )
    async def test_bad_interval(self, client, wrong):
        """
        An interval out of bounds is refused and changes nothing; a job that is not there is a 404.
        """
        intervals = "SELECT name, own_interval FROM scheduler.jobs ORDER BY name"
        before = await client.resources.pool.fetch(intervals)
        refused = await client.patch("/api/scheduler/jobs/ships", json=wrong)
        unknown = await client.patch("/api/scheduler/jobs/nothing", json={"interval": 90})

        assert (refused.status_code, unknown.status_code) == (422, 404)
        assert before == await client.resources.pool.fetch(intervals)

    async def test_backlinks(self, client):
        """
        The notes that link to one are listed once the gardener has found them; none is a 404.
        """
        target, source = await create(client), await create(client, title="B", body="[[Tides]]")
        await client.post("/api/scheduler/jobs/gardener/run")
        while not (found := (await client.get(f"/api/notes/{target['id']}/backlinks")).json()):
            await asyncio.sleep(0.02)

        assert [note["id"] for note in found] == [source["id"]]
        assert (await client.get("/api/notes/999999/backlinks")).status_code == 404


class TestProblems:  # noqa: D101
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404), ("PUT", "/api/notes", 405), ("GET", "/api/notes/0", 422),
            ("GET", "/api/notes/x", 422), ("GET", f"/api/notes/{2**63}", 422),
            ("GET", "/api/notes?limit=0", 422), ("GET", "/api/notes?q=%00", 422),
        ],
        ids=["unknown", "method", "zero", "text", "too-large", "limit", "nul"],
    )  # fmt: skip
    async def test_every_error_is_a_problem_document(self, client, method, path, status):
        """
        An error is an RFC 9457 problem document with its status, title and detail.
        """
        answer = await client.request(method, path)

        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert {"type", "title", "detail"} <= answer.json().keys()

    async def test_bug(self, client):
        """
        What nobody foresaw is a 500 that tells a stranger nothing.
        """
        pool = client.resources.pool
        await pool.execute("ALTER TABLE notes.notes RENAME TO secret")
        answer = await client.get("/api/notes")

        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "notes.notes" not in answer.text

    async def test_database_that_is_gone(self, client):
        """
        While the database is away its routes and /readyz say 503, and /healthz says alive.
        """
        database = client.resources.database
        target, database.target = database.target, replace(database.target, host="/nowhere")
        await client.resources.pool.expire_connections()
        away = [await client.get(path) for path in ("/readyz", "/api/notes")]
        alive = await client.get("/healthz")
        database.target = target

        assert [answer.status_code for answer in away] == [503, 503]
        assert {answer.headers["retry-after"] for answer in away} == {"1"}
        assert alive.is_success
        assert (await client.get("/readyz")).json() == {
            "status": "ready",
            "database": "monolith-pg",
        }


async def test_attestation_is_live(client):
    """
    The attestation says what the audit line said, with the same digest, and counts on.
    """
    first = (await client.get("/api/preview")).json()
    await client.resources.pool.expire_connections()
    second = (await client.get("/api/preview")).json()
    await client.get("/readyz")
    third = (await client.get("/api/preview")).json()

    assert first["digest"] == second["digest"]
    assert (first["mode"], first["database"]["verdict"]) == ("production", "MATCH")
    reasons = {point["point"]: point["reason"] for point in first["startup_points"]}
    assert reasons == {"scheduler loop": "production", "discord bot": "no DISCORD_BOT_TOKEN"}
    counted = [said["counters"]["connections_identified"] for said in (first, third)]
    assert counted[0] < counted[1]
    assert third["uptime_seconds"] > first["uptime_seconds"]


async def test_first_page(client):
    """
    The bare URL leads to the attestation.
    """
    answer = await client.get("/")

    assert (answer.status_code, answer.headers["location"]) == (307, "/api/preview")
