"""The only module that reads, hashes and applies the versioned SQL files."""

import re
import time
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import asyncpg

from preview.errors import HistoryError, MigrationError, SchemaAheadError, SumError

DIRECTORY = Path(__file__).parents[1] / "migrations"
"""This branch's files, in a checkout."""

SUM_FILE = "atlas.sum"

_DIRECTIVE = re.compile(
    rb"^[ \t]*--[ \t]*atlas:(txmode[ \t]+none|sum|checkpoint|delimiter|txtar)\b", re.MULTILINE
)
_TABLE = "atlas_schema_revisions.atlas_schema_revisions"
_CREATE_TABLE = """
CREATE SCHEMA IF NOT EXISTS atlas_schema_revisions;
CREATE TABLE IF NOT EXISTS atlas_schema_revisions.atlas_schema_revisions (
  version character varying NOT NULL PRIMARY KEY,
  description character varying NOT NULL,
  type bigint NOT NULL DEFAULT 2,
  applied bigint NOT NULL DEFAULT 0,
  total bigint NOT NULL DEFAULT 0,
  executed_at timestamptz NOT NULL,
  execution_time bigint NOT NULL,
  error text,
  error_stmt text,
  hash character varying NOT NULL,
  partial_hashes jsonb,
  operator_version character varying NOT NULL
);
"""
_READ = """
SELECT version, applied, total, hash FROM atlas_schema_revisions.atlas_schema_revisions
WHERE version NOT LIKE '.%' ORDER BY version COLLATE "C"
"""
# Atlas asks only whether `applied` equals `total`: a whole file in one transaction is 1 of 1.
_RECORD = """
INSERT INTO atlas_schema_revisions.atlas_schema_revisions AS r
  (version, description, applied, total, executed_at, execution_time, hash, operator_version)
VALUES ($1, $2, 1, 1, clock_timestamp(), $3, $4, 'monolith')
ON CONFLICT (version) DO UPDATE SET
  applied = 1, total = 1, executed_at = excluded.executed_at, error = NULL, error_stmt = NULL,
  execution_time = excluded.execution_time, hash = excluded.hash, partial_hashes = NULL
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """
    One versioned SQL file.

    Args:
        hash: Atlas's running digest: over this file and all files before it.
    """

    name: str
    content: bytes
    hash: str

    @property
    def version(self) -> str:
        """What comes before the first underscore."""
        return self.name.removesuffix(".sql").partition("_")[0]

    @property
    def description(self) -> str:
        """What comes after the first underscore."""
        return self.name.removesuffix(".sql").partition("_")[2]


def read(directory: Path) -> tuple[Migration, ...]:
    """
    Read every migration, in the order of their names.

    Raises:
        MigrationError: one asks Atlas for something that is not supported here,
            or two have the same version.
    """
    digest = sha256()
    found: list[Migration] = []
    for path in sorted(directory.glob("*.sql"), key=bytes):
        content = path.read_bytes()
        digest.update(path.name.encode() + content)
        migration = Migration(path.name, content, b64encode(digest.digest()).decode())
        _refuse_directives(migration)
        if found and found[-1].version == migration.version:
            what, remedy = "a version of its own", "Rename it with a newer timestamp."
            raise MigrationError(path.name, what, f"{found[-1].name} has it too", remedy)
        found.append(migration)
    return tuple(found)


def sum_text(directory: Path) -> str:
    """Return what atlas.sum must say."""
    migrations = read(directory)
    total = sha256("".join(m.name + m.hash for m in migrations).encode()).digest()
    lines = [f"{m.name} h1:{m.hash}" for m in migrations]
    return "\n".join([f"h1:{b64encode(total).decode()}", *lines, ""])


def write(directory: Path) -> Path:
    """Write atlas.sum, and return where it is."""
    path = directory / SUM_FILE
    path.write_text(sum_text(directory), encoding="utf-8", newline="\n")
    return path


def verify(directory: Path) -> None:
    """
    Compare atlas.sum with the files.

    Raises:
        SumError: a file was added, changed or removed since atlas.sum was written.
    """
    expected = sum_text(directory)
    try:
        found = (directory / SUM_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise SumError(directory, "it cannot be read") from None
    if found != expected:
        raise SumError(directory, _difference(_entries(expected), _entries(found)))


async def apply(connection: asyncpg.Connection, directory: Path) -> tuple[str, ...]:
    """
    Apply what is new, forward only, and return the names of the files applied.

    Each file is one transaction together with its line in Atlas's own table,
    so that Atlas can carry on here, and this where Atlas stopped. The role of
    the connection owns what the files create.

    Raises:
        SumError: atlas.sum does not describe the files.
        SchemaAheadError: the database has migrations that the directory lacks.
        HistoryError: an applied file has changed, or was applied by half.
        MigrationError: a file is older than the last one applied, or it failed;
            nothing of a file that failed stays.
    """
    found = await pending(connection, directory)
    await connection.execute(_CREATE_TABLE)
    for migration in found:
        await _apply(connection, migration)
    return tuple(migration.name for migration in found)


async def pending(connection: asyncpg.Connection, directory: Path) -> tuple[Migration, ...]:
    """
    Return what `apply` would apply; change nothing.

    Raises:
        SumError, SchemaAheadError, HistoryError, MigrationError: as `apply`.
    """
    verify(directory)
    known = await connection.fetchval("SELECT to_regclass($1)", _TABLE)
    return _pending(read(directory), await connection.fetch(_READ) if known else [])


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    began = time.monotonic_ns()
    remedy = "Correct the file, then run: make migrations-hash."
    try:
        async with connection.transaction():
            await connection.execute(migration.content.decode())
            if not connection.is_in_transaction():
                found = "it ended the transaction and is applied without a record"
                remedy = "Remove its COMMIT or ROLLBACK, then reset the clone."
                raise MigrationError(migration.name, "one transaction", found, remedy)
            took = time.monotonic_ns() - began
            await connection.execute(
                _RECORD, migration.version, migration.description, took, migration.hash
            )
    except (asyncpg.PostgresError, UnicodeDecodeError) as error:
        what = "every statement to succeed"
        raise MigrationError(migration.name, what, f"Postgres says {error}", remedy) from error


def _pending(
    migrations: tuple[Migration, ...], records: list[asyncpg.Record]
) -> tuple[Migration, ...]:
    # Atlas keeps a record of a file that failed as a whole: 0 applied, which is not applied.
    applied = {record["version"]: record for record in records if record["applied"]}
    missing = applied.keys() - {migration.version for migration in migrations}
    if missing:
        raise SchemaAheadError(tuple(sorted(missing)))
    pending = tuple(m for m in migrations if m.version not in applied)
    for migration in pending:
        if applied and migration.version < max(applied):
            what = f"a version after {max(applied)}, the last one applied"
            remedy = "Rename it with a newer timestamp, then run: make migrations-hash."
            raise MigrationError(migration.name, what, f"it has {migration.version}", remedy)
    for migration in migrations:
        if migration.version in applied:
            _refuse_changed(migration, applied[migration.version])
    return pending


def _refuse_changed(migration: Migration, record: asyncpg.Record) -> None:
    if record["applied"] != record["total"]:
        found = f"{record['applied']} of {record['total']} statements were applied"
        raise HistoryError(migration.name, found)
    if record["hash"] != migration.hash:
        raise HistoryError(migration.name, "it was changed after it was applied")


def _refuse_directives(migration: Migration) -> None:
    directive = _DIRECTIVE.search(migration.content)
    if directive:
        found = f"it says atlas:{directive[1].decode()}, which the twin does not support"
        remedy = "Write it without the directive."
        raise MigrationError(migration.name, "a file that runs in one transaction", found, remedy)


def _entries(text: str) -> dict[str, str]:
    return {name: hash_ for name, _, hash_ in (line.partition(" ") for line in text.splitlines())}


def _difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """Name what differs; of changed files the first, because each hash covers all before it."""
    added = [name for name in expected if name not in found and name.endswith(".sql")]
    removed = [name for name in found if name not in expected and name.endswith(".sql")]
    changed = [
        name for name in expected if name.endswith(".sql") and found.get(name) != expected[name]
    ]
    if added:
        return f"{', '.join(added)} was added"
    if removed:
        return f"{', '.join(removed)} was removed"
    if changed:
        return f"{changed[0]} was changed"
    return "it was edited by hand"
