"""The only module that reads and writes notes for people."""

from datetime import datetime
from typing import Annotated

import asyncpg
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NO_NUL = r"\A[^\x00]*\z"
"""Postgres stores every character of a text but this one."""

Title = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL)
]
Body = Annotated[str, StringConstraints(max_length=100_000, pattern=NO_NUL)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=NO_NUL)]
Tags = Annotated[list[Tag], Field(max_length=20)]

_COLUMNS = "id, title, body, tags, body_tags, created_at, updated_at, archived_at"
_LIST = f"""
SELECT {_COLUMNS} FROM notes.notes WHERE archived_at IS NULL
ORDER BY updated_at DESC, id DESC LIMIT $1 OFFSET $2
"""
_SEARCH = f"""
SELECT {_COLUMNS} FROM notes.notes, websearch_to_tsquery('english', $3) AS query
WHERE search @@ query AND archived_at IS NULL
ORDER BY ts_rank(search, query) DESC, id DESC LIMIT $1 OFFSET $2
"""
_GET = f"SELECT {_COLUMNS} FROM notes.notes WHERE id = $1"
_CREATE = f"INSERT INTO notes.notes (title, body, tags) VALUES ($1, $2, $3) RETURNING {_COLUMNS}"
_EDIT = f"""
UPDATE notes.notes SET title = coalesce($2, title), body = coalesce($3, body),
  tags = coalesce($4, tags), updated_at = now(), tended_at = NULL
WHERE id = $1 RETURNING {_COLUMNS}
"""
_BACKLINKS = f"""
SELECT {_COLUMNS} FROM notes.notes WHERE id IN (
  SELECT link.note_id FROM notes.links AS link JOIN notes.notes AS target USING (title)
  WHERE target.id = $1
) ORDER BY updated_at DESC, id DESC LIMIT $2 OFFSET $3
"""
_DELETE = "DELETE FROM notes.notes WHERE id = $1 RETURNING id"


class Draft(BaseModel):
    """A note that is to be made."""

    model_config = ConfigDict(extra="forbid")

    title: Title
    body: Body = ""
    tags: Tags = []


class Edit(BaseModel):
    """What is to change about a note; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    title: Title | None = None
    body: Body | None = None
    tags: Tags | None = None


class Note(BaseModel):
    """A note as it is stored; its tags are its author's, the body's are the gardener's finds."""

    id: int
    title: str
    body: str
    tags: list[str]
    body_tags: list[str]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


async def find(
    pool: asyncpg.Pool, query: str | None = None, limit: int = 50, offset: int = 0
) -> list[Note]:
    """
    List notes, the latest first, or those that match `query`, the best first.

    What is archived is left out.
    """
    if query:
        rows = await pool.fetch(_SEARCH, limit, offset, query)
    else:
        rows = await pool.fetch(_LIST, limit, offset)
    return [Note(**row) for row in rows]


async def get(pool: asyncpg.Pool, number: int) -> Note | None:
    """Return one note, or None where there is none."""
    return _note(await pool.fetchrow(_GET, number))


async def backlinks(pool: asyncpg.Pool, number: int, limit: int, offset: int) -> list[Note]:
    """List the notes that link to one, archived ones too, the latest first."""
    return [Note(**row) for row in await pool.fetch(_BACKLINKS, number, limit, offset)]


async def create(pool: asyncpg.Pool, draft: Draft) -> Note:
    """Store a new note."""
    [row] = await pool.fetch(_CREATE, draft.title, draft.body, draft.tags)
    return Note(**row)


async def edit(pool: asyncpg.Pool, number: int, changed: Edit) -> Note | None:
    """Change a note, or return None where there is none."""
    row = await pool.fetchrow(_EDIT, number, changed.title, changed.body, changed.tags)
    return _note(row)


async def delete(pool: asyncpg.Pool, number: int) -> bool:
    """Delete a note; False where there was none."""
    return await pool.fetchval(_DELETE, number) is not None


def _note(row: asyncpg.Record | None) -> Note | None:
    return None if row is None else Note(**row)
