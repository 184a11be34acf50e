"""The only module that hands an image's migrations to Atlas, after judging them."""

import asyncio
import shutil
import sys
from pathlib import Path

from preview import migrations
from shared.database import Database
from shared.errors import MonolithError
from shared.settings import Settings


async def stage(source: Path, into: Path) -> None:
    """
    Copy the migrations, which Atlas then applies; in a preview, only if they fit the clone.

    Atlas passes over an applied file that the image lacks or has changed. So
    does production, where an older image must be able to come back.

    Raises:
        MonolithError: settings, database or history were refused; nothing was copied.
    """
    settings = Settings()
    migrations.verify(source)
    if settings.pr_env:
        connection = await Database.from_settings(settings).connect()
        try:
            await migrations.pending(connection, source)
        finally:
            await connection.close()
    for name in (migrations.SUM_FILE, *(found.name for found in migrations.read(source))):
        shutil.copyfile(source / name, into / name)


if __name__ == "__main__":
    try:
        asyncio.run(stage(*map(Path, sys.argv[1:])))
    except MonolithError as error:
        sys.stderr.write(f"monolith: {error}\n")
        sys.exit(error.exit_code)
