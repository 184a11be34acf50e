"""Render the chart with the real Helm engine, as production and as previews get it."""

from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

MONOLITH = Path(__file__).parents[2]
CHART = MONOLITH / "chart"
PRODUCTION_VALUES = MONOLITH / "deploy" / "values.yaml"
PREVIEW_VALUES = CHART / "values-preview.yaml"
NOTES = "monolith/templates/NOTES.txt"

Values = dict[str, Any]
Manifest = dict[str, Any]


class RefusedError(Exception):
    """Helm refused to render; says why."""


@cache
def chart() -> helm_python.Chart:
    """Load the chart once."""
    return helm_python.Chart.load(CHART)


def texts(values: Values) -> dict[str, str]:
    """Render `values` over the chart's defaults: template to text."""
    try:
        return chart().render(values, name="release", namespace="monolith")
    except helm_python.HelmError as error:
        raise RefusedError(str(error)) from None


def render(values: Values) -> list[Manifest]:
    """Render `values` over the chart's defaults: every object."""
    return [
        manifest
        for name, text in texts(values).items()
        if name != NOTES
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def read(path: Path) -> Values:
    """Read a file of values."""
    values: Values = yaml.safe_load(path.read_text())
    return values


def over(above: Any, below: Any) -> Any:
    """Lay values over values, as Helm does: mappings merge, all else is replaced."""
    if not isinstance(above, dict) or not isinstance(below, dict):
        return above
    return {key: over(above.get(key, below.get(key)), below.get(key)) for key in below | above}


def production() -> Values:
    """What production is rendered with."""
    return read(PRODUCTION_VALUES)


def preview(number: int, sha: str) -> Values:
    """What the ApplicationSet renders a pull request's preview with."""
    known = {
        "image": {"tag": f"sha-{sha}"},
        "preview": {
            "enabled": True,
            "id": str(number),
            "headSha": sha,
            "host": f"{number}.pr.jomcgi.dev",
        },
    }
    values: Values = over(known, read(PREVIEW_VALUES))
    return values


def kinds(manifests: list[Manifest]) -> list[str]:
    """Name the kinds, in order."""
    return sorted(manifest["kind"] for manifest in manifests)


def only(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the one object of a kind, or of a kind and a name."""
    found = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])
    ]
    assert len(found) == 1, found
    return found[0]


def pod(manifests: list[Manifest]) -> Manifest:
    """Return the Deployment's pod template."""
    template: Manifest = only(manifests, "Deployment")["spec"]["template"]
    return template


def containers(manifests: list[Manifest]) -> list[Manifest]:
    """Return every container of the Deployment, init containers first."""
    spec = pod(manifests)["spec"]
    return [*spec["initContainers"], *spec["containers"]]


def secrets(value: Any) -> set[str]:
    """Name every secret that is referred to anywhere in `value`."""
    if isinstance(value, list):
        return set().union(*map(secrets, value))
    if not isinstance(value, dict):
        return set()
    own = {value["secretName"]} if "secretName" in value else set()
    for key in ("secretKeyRef", "secretRef", "secret", "superuserSecret"):
        if isinstance(value.get(key), dict) and "name" in value[key]:
            own.add(value[key]["name"])
    return own.union(*map(secrets, value.values()))
