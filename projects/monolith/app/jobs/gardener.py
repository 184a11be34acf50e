"""The job that tends the notes: links and stubs, tags, archive."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from app.jobs.tools import Tools

BATCH = 200
ARCHIVE = "archive"
"""The tag that marks a note for the archive, its own or one in its body."""

MOST_LINKS = 500
MOST_TAGS = 50

_LINK = re.compile(r"\[\[([^\[\]|\n]{1,200})(?:\|[^\[\]\n]{0,200})?\]\]")
_TAG = re.compile(r"(?<![\w&/#])#([^\W\d_][\w-]{0,49})(?![\w#-])")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)

# An edit that comes meanwhile waits for the lock, and then makes the note untended again.
_UNTENDED = """
SELECT id, body, tags FROM notes.notes WHERE tended_at IS NULL
ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_UNLINK = "DELETE FROM notes.links WHERE note_id = ANY ($1)"
_TEND = """
UPDATE notes.notes SET body_tags = $2, tended_at = now(),
  archived_at = CASE WHEN $3 THEN coalesce(archived_at, now()) END
WHERE id = $1
"""
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('gardener makes stubs'))"
_STUBS = """
INSERT INTO notes.notes (title, tags, tended_at)
SELECT DISTINCT link.title, ARRAY['stub'], now() FROM notes.links AS link
WHERE NOT EXISTS (SELECT FROM notes.notes AS target WHERE target.title = link.title)
LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in the body of a note."""

    links: tuple[str, ...]
    tags: tuple[str, ...]


async def tend(tools: Tools) -> None:
    """
    Tend every note that was edited since it was last tended, then make the stubs that are missing.

    A bounded batch a transaction: whatever stops it, the next run goes on there.
    """
    async with tools.pool.acquire() as connection:
        while await _tend_batch(connection):
            pass
        while await _make_stubs(connection):
            pass


def read(body: str) -> Found:
    """Find [[links]] and #tags outside of code, each once, in the order in which they stand."""
    text = _CODE.sub(" ", body)
    titles = (title.strip() for title in _LINK.findall(text))
    tags = (tag.lower() for tag in _TAG.findall(text))
    return Found(_first(filter(None, titles), MOST_LINKS), _first(tags, MOST_TAGS))


def _first(found: Iterable[str], most: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))[:most]


async def _tend_batch(connection: PoolConnectionProxy) -> int:
    async with connection.transaction():
        notes = await connection.fetch(_UNTENDED, BATCH)
        found = {note["id"]: read(note["body"]) for note in notes}
        await connection.execute(_UNLINK, list(found))
        links = [(number, title) for number, what in found.items() for title in what.links]
        await connection.copy_records_to_table("links", schema_name="notes", records=links)
        await connection.executemany(_TEND, [_tended(note, found[note["id"]]) for note in notes])
    return len(notes)


def _tended(note: asyncpg.Record, found: Found) -> tuple[int, tuple[str, ...], bool]:
    marked = ARCHIVE in found.tags or ARCHIVE in note["tags"]
    return note["id"], found.tags, marked


async def _make_stubs(connection: PoolConnectionProxy) -> bool:
    async with connection.transaction():
        await connection.execute(_ONE_AT_A_TIME)
        return await connection.execute(_STUBS, BATCH) != "INSERT 0 0"
