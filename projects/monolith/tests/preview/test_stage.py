import sys
from subprocess import run

import asyncpg
import pytest
import pytest_asyncio

from preview import migrations
from preview.errors import HistoryError, SchemaAheadError, SumError
from preview.stage import stage
from shared.dsn import parse
from shared.testing import as_preview, as_production


@pytest.fixture
def branch(tmp_path):
    """The migrations of a branch, as they lie in its image."""
    directory = tmp_path / "image"
    directory.mkdir()
    for path in migrations.DIRECTORY.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


@pytest.fixture
def volume(tmp_path):
    """The directory that Atlas reads."""
    directory = tmp_path / "volume"
    directory.mkdir()
    return directory


@pytest_asyncio.fixture
async def preview(clone_7):
    """The environment of preview 7."""
    dsn = clone_7.dsn().get_secret_value()
    with as_preview(PR_NUMBER="7", DATABASE_URL=dsn):
        yield dsn


@pytest_asyncio.fixture
async def production(database):
    """The environment of production."""
    dsn = await database()
    with as_production(DATABASE_URL=dsn):
        yield dsn


def names(directory):
    """Name the files of a directory."""
    return sorted(path.name for path in directory.iterdir())


def drop_last(directory):
    """Make the branch older than the clone; its atlas.sum is right."""
    max(directory.glob("*.sql")).unlink()
    migrations.write(directory)


def change_first(directory):
    """Change a file that was applied; the branch's atlas.sum is right."""
    with min(directory.glob("*.sql")).open("a") as file:
        file.write("-- changed\n")
    migrations.write(directory)


async def test_new_migration(preview, branch, volume):
    """
    What fits the clone is copied whole, and nothing of it is applied.
    """
    (branch / "29990101000000_new.sql").write_text("CREATE TABLE new ();\n")
    migrations.write(branch)
    await stage(branch, volume)
    connection = await asyncpg.connect(**parse(preview).parameters(tls=False))
    made = await connection.fetchval("SELECT to_regclass('new')")
    await connection.close()

    assert names(volume) == names(branch)
    assert made is None


@pytest.mark.parametrize(
    ("edit", "error", "word"),
    [(drop_last, SchemaAheadError, "Rebase"), (change_first, HistoryError, "reset the clone")],
    ids=["older", "changed"],
)
async def test_history_refused(preview, branch, volume, edit, error, word):
    """
    A branch that is older than the clone is told to rebase, one that changed what was applied
    to reset the clone; nothing is copied.
    """
    edit(branch)
    with pytest.raises(error, match=word):
        await stage(branch, volume)

    assert names(volume) == []


@pytest.mark.parametrize("edit", [drop_last, change_first], ids=["older", "changed"])
async def test_production_goes_back(production, branch, volume, edit):
    """
    In production an older image is not held up by its migrations.
    """
    edit(branch)
    await stage(branch, volume)

    assert names(volume) == names(branch)


async def test_sum_refused(production, branch, volume):
    """
    Migrations that atlas.sum does not describe are refused in production too.
    """
    (branch / "29990101000000_new.sql").write_text("CREATE TABLE new ();\n")
    with pytest.raises(SumError, match=r"29990101000000_new\.sql was added"):
        await stage(branch, volume)

    assert names(volume) == []


@pytest.mark.parametrize(
    ("pr_env", "code", "said"),
    [("false", 0, ""), ("perhaps", 78, "monolith: Refused to read the settings: ")],
    ids=["production", "misspelt"],
)
def test_command(branch, volume, pr_env, code, said):
    """
    What the chart runs copies everything and is silent, or says why it refused and exits 78.
    """
    environ = {"PR_ENV": pr_env, "DATABASE_URL": "postgresql://app:x@monolith-pg-rw/monolith"}
    command = [sys.executable, "-m", "preview.stage", branch, volume]
    found = run(command, env=environ, capture_output=True, text=True, check=False)

    assert (found.returncode, found.stderr[: len(said)]) == (code, said)
    assert found.stderr.count("\n") == bool(said)
    assert names(volume) == ([] if code else names(branch))
