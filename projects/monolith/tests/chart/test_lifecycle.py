import pytest

from tests.chart.lifecycle import LIFE, PAGE, WAVE, life, state, table
from tests.generated import page

BACKUP = {"preview": {"snapshotMethod": "backup", "snapshotGeneration": "1"}}
NAMED = {"preview": {"snapshotName": "of-last-night"}}
every_way = pytest.mark.parametrize(
    "wish", [{}, BACKUP, NAMED], ids=["snapshot", "backup", "named"]
)


@every_way
@pytest.mark.parametrize("event", ["pushed", "pushed again"])
def test_push(wish, event):
    """
    A push changes the Deployment and nothing else; it takes no snapshot and makes no clone anew.
    """
    fates = {(kind, name): fate[event] for (_, kind, name), fate in life(wish).items()}
    changed = [name for name, found in fates.items() if found == "changed"]

    assert changed == [("Deployment", "monolith-pr-7")]
    assert set(fates.values()) == {"changed", "kept"}


@every_way
@pytest.mark.parametrize(
    ("event", "expected"),
    [("opened", "created"), ("closed", "deleted"), ("reopened", "created")],
)
def test_whole(wish, event, expected):
    """
    What opening made, closing deletes to the last object, and reopening makes again.
    """
    assert {fate[event] for fate in life(wish).values()} == {expected}


@every_way
def test_waves(wish):
    """
    Walls come first, then the snapshot, then the clone, and all the rest together in the last wave.
    """
    waves: dict[int, set[str]] = {}
    for wave, kind, _ in life(wish):
        waves.setdefault(wave, set()).add(kind)
    snapshot = {-2: {"Backup"} if wish is BACKUP else {"VolumeSnapshot"}}

    assert waves == {
        -3: {"NetworkPolicy"},
        **({} if wish is NAMED else snapshot),
        -1: {"Cluster"},
        0: {"Deployment", "HTTPRoute", "Service"},
    }


@every_way
def test_no_hook(wish):
    """
    Nothing of a preview is a hook, which Argo CD would make anew at every sync.
    """
    found = [manifest["metadata"].get("annotations", {}) for manifest in state("1", wish).values()]

    assert {WAVE} <= set().union(*found)
    assert {name for name in set().union(*found) if "hook" in name} == set()


def test_page():
    """
    The page of the documentation has the table that the chart renders, with every event.
    """
    text = PAGE.read_text()

    assert page(text, table()) == text
    assert f"| {' | '.join(LIFE)} |" in text
