"""The life of a pull request as data: what each event creates, keeps, changes and deletes."""

from pathlib import Path
from typing import Any

from tests.chart.rendering import Manifest, Values, over, preview, render
from tests.generated import write

PAGE = Path(__file__).parents[4] / "docs" / "lifecycle.md"
NUMBER = 7
LIFE = {"opened": "1", "pushed": "2", "pushed again": "3", "closed": None, "reopened": "3"}
WAVE = "argocd.argoproj.io/sync-wave"

Key = tuple[int, str, str]
State = dict[Key, Manifest]


def state(digit: str | None, wish: Values | None = None) -> State:
    """Return every object of the preview while this commit is its head; none while it is closed."""
    if digit is None:
        return {}
    manifests = render(over(wish or {}, preview(NUMBER, digit * 40)))
    return {key(manifest): manifest for manifest in manifests}


def key(manifest: Manifest) -> Key:
    """Return wave, kind and name, which is also the order of a sync."""
    metadata: dict[str, Any] = manifest["metadata"]
    wave = int(metadata.get("annotations", {}).get(WAVE, 0))
    return wave, manifest["kind"], metadata["name"]


def fate(one: Key, before: State, after: State) -> str:
    """Say what an event does to an object."""
    if one not in before:
        return "created" if one in after else ""
    if one not in after:
        return "deleted"
    return "kept" if before[one] == after[one] else "changed"


def life(wish: Values | None = None) -> dict[Key, dict[str, str]]:
    """Return the fate of every object at every event, in the order of a sync."""
    states = [state(digit, wish) for digit in LIFE.values()]
    steps = list(zip(LIFE, [{}, *states], states, strict=False))
    return {
        one: {event: fate(one, before, after) for event, before, after in steps}
        for one in sorted(set().union(*states))
    }


def table() -> str:
    """Return the table of the default life."""
    lines = [f"| wave | object | {' | '.join(LIFE)} |", "| --- " * (len(LIFE) + 2) + "|"]
    for (wave, kind, name), fates in life().items():
        lines.append(f"| {wave} | {kind} `{name}` | {' | '.join(fates.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write(PAGE, table(), "the life that the chart renders")
