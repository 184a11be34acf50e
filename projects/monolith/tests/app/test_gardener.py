import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import notes
from app.jobs import gardener
from app.jobs.tools import Tools
from app.notes import Draft, Edit, backlinks, create, edit, find
from preview.seed import ARCHIVED, NOTES, seed


@pytest.fixture
def tools(pool):
    """What the gardener works with."""
    return Tools(pool)


async def write(pool, title, body="", tags=()):
    return (await create(pool, Draft(title=title, body=body, tags=list(tags)))).id


async def get(pool, number):
    note = await notes.get(pool, number)
    assert note
    return note


async def untended(pool):
    return await pool.fetchval("SELECT count(*) FROM notes.notes WHERE tended_at IS NULL")


async def stubs(pool):
    rows = await pool.fetch("SELECT title FROM notes.notes WHERE tags = '{stub}' ORDER BY title")
    return [row["title"] for row in rows]


@pytest.mark.parametrize(
    ("body", "links", "tags"),
    [
        ("[[Tides]] and [[ Ebb ]], [[Tides]]", ("Tides", "Ebb"), ()),
        ("[[Tides|the sea]] [[]] [[ ]] [[a\nb]] [[[Deep]]]", ("Tides", "Deep"), ()),
        ("#sea #Sea, (#deep-sea) #ÜBER", (), ("sea", "deep-sea", "über")),
        ("# Heading\n## Two\n#1 a#b &#x27; https://x/#part #", (), ()),
        ("`#no [[No]]` ```\n[[No]] #no\n``` #yes [[Yes]]", ("Yes",), ("yes",)),
        ("``` [[No]] #no", (), ()),
        (f"[[{'x' * 200}]] [[{'y' * 201}]]", ("x" * 200,), ()),
    ],
    ids=["links", "odd-links", "tags", "no-tags", "code", "open-code", "long"],
)
def test_read(body, links, tags):
    """
    Links and tags are found outside of code, each once; headings and addresses are no tags.
    """
    assert gardener.read(body) == gardener.Found(links, tags)


@given(st.text(alphabet="[]|#`\n ab"))
def test_any_body(body):
    """
    Whatever a body says, what is found in it can be stored.
    """
    found = gardener.read(body)

    assert all(0 < len(title) <= 200 and title == title.strip() for title in found.links)
    assert all(0 < len(tag) <= 50 for tag in found.tags)
    assert len(set(found.links)) == len(found.links)


async def test_large(pool, tools):
    """
    Thousands of notes are tended in batches: each link gets a note, once, and the marked are gone.
    """
    async with pool.acquire() as connection:
        await seed(connection)
    await gardener.tend(tools)
    made = await stubs(pool)
    await gardener.tend(tools)

    assert len(made) > 100
    assert len(set(made)) == len(made)
    assert await stubs(pool) == made
    assert await untended(pool) == 0
    archived = "SELECT count(*) FROM notes.notes WHERE archived_at IS NOT NULL"
    assert await pool.fetchval(archived) == NOTES // ARCHIVED
    tagged = "SELECT count(*) FROM notes.notes WHERE cardinality(body_tags) >= 2"
    assert await pool.fetchval(tagged) > 1_000


async def test_person_s_notes(pool, tools):
    """
    Tending changes neither text, tags nor the time of a person's last edit.
    """
    number = await write(pool, "Tides", "[[Ebb]] #sea", ["mine"])
    before = await get(pool, number)
    await gardener.tend(tools)
    after = await get(pool, number)

    assert after == before.model_copy(update={"body_tags": ["sea"]})


async def test_backlinks(pool, tools):
    """
    A note knows who links to it, also after it or they were renamed, edited or deleted.
    """
    target = await write(pool, "Tides")
    first = await write(pool, "Boats", "[[Tides]] and [[Tides]]")
    second = await write(pool, "Bread", "not [[Tides|the sea]]")
    await gardener.tend(tools)
    both = [note.id for note in await backlinks(pool, target, 10, 0)]
    await edit(pool, second, Edit(body="no link"))
    await gardener.tend(tools)
    one = [note.id for note in await backlinks(pool, target, 10, 0)]
    await edit(pool, target, Edit(title="Ebb"))
    await gardener.tend(tools)

    assert (both, one) == ([second, first], [first])
    assert await backlinks(pool, target, 10, 0) == []
    assert await stubs(pool) == ["Tides"]  # the renamed note left a link without a target


@pytest.mark.parametrize("where", ["tag", "body"])
async def test_archive(pool, tools, where):
    """
    What is marked leaves list and search, can still be read, and comes back without its mark.
    """
    marked = {"tags": ["archive"]} if where == "tag" else {"body": "old #archive"}
    number = await write(pool, "Tides", **marked)
    kept = await write(pool, "Tides too")
    await gardener.tend(tools)
    archived = await get(pool, number)
    listed = [note.id for note in await find(pool)]
    found = [note.id for note in await find(pool, "tides")]
    await edit(pool, number, Edit(tags=[], body=""))
    await gardener.tend(tools)

    assert (listed, found) == ([kept], [kept])
    assert archived.archived_at is not None
    assert {note.id for note in await find(pool)} == {number, kept}


async def test_incremental(pool, tools):
    """
    Only what was edited since is tended again, whatever the clocks say.
    """
    quiet, edited = await write(pool, "A"), await write(pool, "B")
    await gardener.tend(tools)
    await pool.execute("UPDATE notes.notes SET tended_at = '2100-01-01', updated_at = '2200-01-01'")
    await edit(pool, edited, Edit(body="#new"))
    assert await untended(pool) == 1
    await gardener.tend(tools)

    times = await pool.fetch("SELECT id, tended_at FROM notes.notes ORDER BY id")
    assert {row["id"]: row["tended_at"].year == 2100 for row in times} == {
        quiet: True,
        edited: False,
    }


async def test_edit_meanwhile(pool, tools):
    """
    An edit that comes while a note is tended waits, and the note is tended once more.
    """
    number = await write(pool, "Tides", "#old")
    async with pool.acquire() as connection, connection.transaction():
        await gardener._tend_batch(connection)
        editing = asyncio.create_task(edit(pool, number, Edit(body="#new")))
        await asyncio.sleep(0.2)
        waited = not editing.done()
    await editing
    left = await untended(pool)
    await gardener.tend(tools)

    assert (waited, left) == (True, 1)
    assert (await get(pool, number)).body_tags == ["new"]


async def test_crash(pool, tools, monkeypatch):
    """
    A crash in the middle undoes its own batch alone, and the next run goes on there.
    """
    for i in range(5):
        await write(pool, f"note {i}", f"[[link {i}]] #tag")
    monkeypatch.setattr(gardener, "BATCH", 2)
    tended = 0

    def crash(body):
        nonlocal tended
        tended += 1
        if tended == 4:
            raise KeyError(body)
        return gardener.Found((), ("seen",))

    with monkeypatch.context() as patched:
        patched.setattr(gardener, "read", crash)
        with pytest.raises(KeyError):
            await gardener.tend(tools)
    left = await untended(pool)
    await gardener.tend(tools)

    assert left == 3
    assert await untended(pool) == 0
    assert await stubs(pool) == ["link 2", "link 3", "link 4"]


async def test_two_workers(pool, tools):
    """
    Two gardeners at once share the notes and make no stub twice.
    """
    for i in range(50):
        await write(pool, f"note {i}", f"[[link {i % 10}]]")
    await asyncio.gather(*(gardener.tend(tools) for _ in range(4)))

    assert await stubs(pool) == [f"link {i}" for i in range(10)]
    assert await untended(pool) == 0
