"""Routes of notes."""

from typing import Annotated, TypeVar

from fastapi import APIRouter, HTTPException, Path, Query

from app import notes
from app.resources import Given

router = APIRouter(prefix="/api/notes", tags=["notes"])

T = TypeVar("T")
Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Search = Annotated[str | None, Query(max_length=200, pattern=notes.NO_NUL)]


@router.get("")
async def find(
    given: Given, q: Search = None, limit: Limit = 50, offset: Offset = 0
) -> list[notes.Note]:
    """List notes, the latest first, or search them; what is archived is left out."""
    return await notes.find(given.pool, q, limit, offset)


@router.post("", status_code=201)
async def create(given: Given, draft: notes.Draft) -> notes.Note:
    """Create a note."""
    return await notes.create(given.pool, draft)


@router.get("/{number}")
async def get(given: Given, number: Number) -> notes.Note:
    """Return one note."""
    return _found(await notes.get(given.pool, number), number)


@router.get("/{number}/backlinks")
async def backlinks(
    given: Given, number: Number, limit: Limit = 50, offset: Offset = 0
) -> list[notes.Note]:
    """List the notes that link to one, as the gardener found them."""
    _found(await notes.get(given.pool, number), number)
    return await notes.backlinks(given.pool, number, limit, offset)


@router.patch("/{number}")
async def edit(given: Given, number: Number, changed: notes.Edit) -> notes.Note:
    """Edit a note; what is left out stays."""
    return _found(await notes.edit(given.pool, number, changed), number)


@router.delete("/{number}", status_code=204)
async def delete(given: Given, number: Number) -> None:
    """Delete a note."""
    _found(await notes.delete(given.pool, number) or None, number)


def _found(note: T | None, number: int) -> T:
    if note is None:
        raise HTTPException(404, f"There is no note {number}.")
    return note
