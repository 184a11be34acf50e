import json

import httpx2

from preview.console import Console
from preview.places import Places
from preview.postgres import SOURCE_SETTINGS, create_database
from preview.production import production
from shared.identity import SOURCE


async def test_source_behind_the_branch(engine, state_dir, capsys):
    """
    A source that lacks migrations of the branch gets them before production starts, and says so.
    """
    source = engine(SOURCE)
    source.init()
    await source.start(SOURCE_SETTINGS, die_with_parent=True)
    await create_database(source)
    places = Places(state_dir / "p")
    with places.take_production():
        async with production(places, source, Console(as_json=True)) as run:
            ready = httpx2.get(f"{run.facts['url']}/readyz", trust_env=False)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert ready.is_success
    assert [event["applied"] for event in events if "applied" in event]
    assert events[-1]["name"] == "start production on monolith-pg, with PR_ENV=false"
    assert not run.app.runs
