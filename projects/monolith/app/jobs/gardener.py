"""The job that tends the notes."""

import asyncpg

BATCH = 500

_STUBS = r"""
INSERT INTO notes.notes (title, tags)
SELECT DISTINCT left(btrim(link[1]), 200), ARRAY['stub']
FROM notes.notes, regexp_matches(body, '\[\[([^\[\]]+)\]\]', 'g') AS link
WHERE btrim(link[1]) <> ''
  AND NOT EXISTS (SELECT FROM notes.notes AS note WHERE note.title = left(btrim(link[1]), 200))
LIMIT $1
"""


async def tend(pool: asyncpg.Pool) -> None:
    """Make a stub for each [[link]] whose note does not exist, a bounded batch a transaction."""
    while await pool.execute(_STUBS, BATCH) != "INSERT 0 0":
        pass
