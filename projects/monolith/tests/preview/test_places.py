import os
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest

from preview.errors import PreviewRunsError, TooManyPreviewsError
from preview.places import Places


@pytest.fixture
def places(tmp_path):
    """A machine without previews."""
    return Places(tmp_path / "new")


async def test_three_at_most(places):
    """
    Three previews run at once; the fourth is refused and told which, and runs when one has ended.
    """
    async with AsyncExitStack() as held:
        async with places.take(9):
            await held.enter_async_context(places.take(7))
            await held.enter_async_context(places.take(8))
            with pytest.raises(TooManyPreviewsError, match="this machine runs 7, 8, 9"):
                await held.enter_async_context(places.take(10))
            assert [preview.number for preview in await places.running()] == [7, 8, 9]
        await held.enter_async_context(places.take(10))

        assert [preview.number for preview in await places.running()] == [7, 8, 10]


async def test_number_is_taken(places):
    """
    A preview that runs is not started again, and without a number the lowest free one is taken.
    """
    async with places.take(1) as first:
        first.add_facts({"url": "http://here"})
        with pytest.raises(PreviewRunsError, match="http://here"):
            async with places.take(1):
                pass
        async with places.take(None) as second:
            assert (first.number, second.number) == (1, 2)
    async with places.take(1) as again:
        assert again.number == 1


async def test_lock_ends_with_its_process(places):
    """
    A preview whose process was killed does not run, whatever it has left on the disk.
    """
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom preview.places import Places\n"
        "async def main():\n    async with Places(Path(sys.argv[1])).take(7):\n"
        "        print('held', flush=True)\n        await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", script, str(places.state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = await places.running()
        process.kill()

    assert [preview.number for preview in before] == [7]
    assert await places.running() == []
    assert [preview.number for preview in places.previews()] == [7]


async def test_locks_are_private(places):
    """
    Nobody else can open a lock, for who can open it can hold it, and stop every command.
    """
    (places.state_dir / "previews").mkdir(parents=True)
    (places.state_dir / "lock").touch(mode=0o644)
    async with places.take(7) as preview:
        await places.running()
        locks = [preview.lock_file, places.state_dir / "lock"]

        assert [path.stat().st_mode & 0o777 for path in locks] == [0o600, 0o600]


async def test_facts_survive_damage(places):
    """
    A file of facts that was cut off counts as none; the preview can still be listed and deleted.
    """
    async with places.take(7) as preview:
        preview.add_facts({"url": "http://here"})
        (preview.home / "preview.json").write_text('{"url": "http')

        assert preview.facts() == {}


def test_default_place():
    """
    Root's previews lie where the user who runs Postgres can reach them, everybody else's at home.
    """
    place = str(Places.default().state_dir)

    assert place == "/var/lib/monolith" if os.geteuid() == 0 else place.endswith("/monolith")
