import shutil

import asyncpg
import pytest
import pytest_asyncio

from preview import migrations
from preview.errors import HistoryError, MigrationError, SchemaAheadError, SumError
from shared.dsn import parse

TABLE = "atlas_schema_revisions.atlas_schema_revisions"
FIRST, SECOND, THIRD = "20260101000000_a.sql", "20260102000000_b.sql", "20260103000000_c.sql"


@pytest_asyncio.fixture
async def connection(database):
    """An empty database, as its owner `app`."""
    target = parse(await database(migrated=False))
    connection = await asyncpg.connect(**target.parameters(tls=False))  # noqa: TID251  a test has no pool
    yield connection
    await connection.close()


class Branch:
    """A directory of migrations whose atlas.sum is always valid."""

    def __init__(self, directory):
        self.directory = directory

    def __call__(self, name, content):
        """Write a file, and atlas.sum after it."""
        (self.directory / name).write_text(content)
        migrations.write(self.directory)
        return self.directory


@pytest.fixture
def branch(tmp_path):
    """A branch with two migrations; call it to write more of them."""
    made = Branch(tmp_path)
    made(FIRST, "CREATE TABLE a (n int);\nINSERT INTO a VALUES (1);\n")
    made(SECOND, "CREATE TABLE b (n int);\n")
    return made


async def tables(connection):
    """Name the tables in the schema public."""
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    return [record["tablename"] for record in await connection.fetch(query)]


def test_sum_is_atlas_own(tmp_path):
    """
    atlas.sum is what Atlas 1.0 itself wrote for the same two files.
    """
    (tmp_path / "1_a.sql").write_text("CREATE TABLE a ();\n")
    (tmp_path / "2_b.sql").write_text("-- second\nCREATE TABLE b (t text DEFAULT 'é;');\n")

    assert migrations.sum_text(tmp_path).splitlines() == [
        "h1:hC6koVmrUgsC5r8TCfD5qMgiotoiveaS6kshv6M+lW0=",
        "1_a.sql h1:bwjNgdNqPxlW50Ox2fCuhzHseIXyyT5JOpnioAsFnGE=",
        "2_b.sql h1:zmrFaol2wJUzsGT8Q2nqLeftQisIq90iqn/KzeJk08s=",
    ]


def test_committed_sum():
    """
    The repository's atlas.sum describes the repository's migrations.
    """
    committed = (migrations.DIRECTORY / migrations.SUM_FILE).read_text()

    assert committed == migrations.sum_text(migrations.DIRECTORY)


@pytest.mark.parametrize("what", ["added", "changed", "removed"])
async def test_stale_sum(branch, connection, what):
    """
    A file that was added, changed or removed behind atlas.sum is named, and nothing is applied.
    """
    name = {"added": THIRD, "changed": FIRST, "removed": SECOND}[what]
    path = branch.directory / name
    path.unlink() if what == "removed" else path.write_text("SELECT 1;\n")
    with pytest.raises(SumError, match=f"{name} was {what}.*make migrations-hash"):
        await migrations.apply(connection, branch.directory)

    assert await connection.fetchval("SELECT to_regnamespace('atlas_schema_revisions')") is None
    migrations.write(branch.directory)
    migrations.verify(branch.directory)


async def test_forward_only(branch, connection):
    """
    Only what is new is applied, in the order of names, and the connection's role owns it.
    """
    first = await migrations.apply(connection, branch.directory)
    again = await migrations.apply(connection, branch.directory)
    new = await migrations.apply(connection, branch(THIRD, "ALTER TABLE b RENAME TO c;"))

    assert (first, again, new) == ((FIRST, SECOND), (), (THIRD,))
    assert await tables(connection) == ["a", "c"]
    assert (
        await connection.fetchval("SELECT tableowner FROM pg_tables WHERE tablename='c'") == "app"
    )


async def test_atlas_bookkeeping(branch, connection):
    """
    Atlas's own table says of each file what Atlas would: version, description, hash, all applied.
    """
    await migrations.apply(connection, branch.directory)
    rows = await connection.fetch(
        f"SELECT version, description, type, applied = total AS whole, hash FROM {TABLE}"  # noqa: S608  a constant
    )
    lines = (branch.directory / "atlas.sum").read_text().splitlines()[1:]

    assert [tuple(row) for row in rows] == [
        ("20260101000000", "a", 2, True, lines[0].partition(" h1:")[2]),
        ("20260102000000", "b", 2, True, lines[1].partition(" h1:")[2]),
    ]


async def test_failing_statement(branch, connection):
    """
    Nothing of a file that fails stays, the files before it do, and the error has Postgres's words.
    """
    branch(SECOND, "CREATE TABLE b (n int);\nINSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(MigrationError, match=f'{SECOND}.*relation "nowhere" does not exist'):
        await migrations.apply(connection, branch.directory)
    left = await tables(connection)
    branch(SECOND, "CREATE TABLE b (n int);\n")

    assert left == ["a"]
    assert await migrations.apply(connection, branch.directory) == (SECOND,)


async def test_own_transaction(branch, connection):
    """
    A file that ends the transaction it runs in is refused and not recorded.
    """
    branch(THIRD, "CREATE TABLE c (n int);\nCOMMIT;\n")
    with pytest.raises(MigrationError, match=f"{THIRD}.*ended the transaction"):
        await migrations.apply(connection, branch.directory)

    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 2  # noqa: S608  a constant


async def test_changed_file(branch, connection):
    """
    A file that changed after it was applied is named, the first of them, and nothing is applied.
    """
    await migrations.apply(connection, branch.directory)
    branch(FIRST, "CREATE TABLE a (n bigint);\n")
    branch(THIRD, "CREATE TABLE c (n int);\n")
    with pytest.raises(HistoryError, match=f"{FIRST}.*changed after it was applied"):
        await migrations.apply(connection, branch.directory)

    assert await tables(connection) == ["a", "b"]


async def test_schema_ahead(branch, connection):
    """
    A database that has what the branch lacks is not touched, also by what the branch has.
    """
    await migrations.apply(connection, branch.directory)
    (branch.directory / SECOND).unlink()
    branch(THIRD, "CREATE TABLE c (n int);\n")
    with pytest.raises(SchemaAheadError, match=r"20260102000000\. Rebase the branch onto main"):
        await migrations.apply(connection, branch.directory)

    assert await tables(connection) == ["a", "b"]


async def test_older_file(branch, connection):
    """
    A new file that sorts before the last one applied is refused, as Atlas's linear order does.
    """
    await migrations.apply(connection, branch.directory)
    older = "20260101120000_late.sql"
    with pytest.raises(MigrationError, match=f"{older}.*Rename it with a newer timestamp"):
        await migrations.apply(connection, branch(older, "CREATE TABLE c (n int);\n"))

    assert await tables(connection) == ["a", "b"]


@pytest.mark.parametrize("directive", ["txmode none", "sum ignore", "checkpoint", "delimiter //"])
async def test_directive(branch, connection, directive):
    """
    A file that asks Atlas for what the twin cannot do is refused before any file is applied.
    """
    (branch.directory / THIRD).write_text(f"-- atlas:{directive}\n\nSELECT 1;\n")
    with pytest.raises(MigrationError, match=f"{THIRD}.*atlas:{directive.partition(' ')[0]}"):
        await migrations.apply(connection, branch.directory)

    assert await tables(connection) == []
    assert await migrations.apply(connection, branch(THIRD, "-- atlas:nolint\nSELECT 1;\n"))


async def test_where_atlas_stopped(branch, connection):
    """
    A file that Atlas failed as a whole is applied; one that it applied by half is refused.
    """
    await migrations.apply(connection, branch.directory)
    await connection.execute(f"UPDATE {TABLE} SET applied = 0, total = 2; DROP TABLE a, b")  # noqa: S608  a constant
    row = "'.atlas_cloud_identifier', '', 2, 0, 0, now(), 0, '', '', '', null, ''"
    await connection.execute(f"INSERT INTO {TABLE} VALUES ({row})")  # noqa: S608  Atlas's own row
    retried = await migrations.apply(connection, branch.directory)
    half = f"UPDATE {TABLE} SET applied = 1, total = 2 WHERE version > '20260102'"  # noqa: S608  a constant
    await connection.execute(half)
    with pytest.raises(HistoryError, match=f"{SECOND}.*1 of 2 statements"):
        await migrations.apply(connection, branch.directory)

    assert retried == (FIRST, SECOND)


def test_same_version(tmp_path):
    """
    Two files of one version have no order, so they are refused.
    """
    for name in ("20260101_a.sql", "20260101_b.sql"):
        shutil.copy(migrations.DIRECTORY / "atlas.sum", tmp_path / name)
    with pytest.raises(MigrationError, match=r"20260101_b\.sql.*20260101_a\.sql has it too"):
        migrations.read(tmp_path)
