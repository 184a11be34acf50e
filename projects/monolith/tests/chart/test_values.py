import json
import re

import helm_python
import pytest

from shared.settings import Settings, credential_names
from tests.chart.rendering import CHART, over, preview, production, read, render, texts

DEFAULTS = read(CHART / "values.yaml")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = "\n".join(path.read_text() for path in (CHART / "templates").iterdir())
CI = sorted((CHART / "ci").glob("*.yaml"))
READ_WHOLE = {("resources",), ("cluster", "resources"), ("secrets",), ("settings",)}


def leaves(values, path=()):
    """Name every value that is no mapping with something in it."""
    if isinstance(values, dict) and values:
        return [leaf for key, inner in values.items() for leaf in leaves(inner, (*path, key))]
    return [path]


def covers(paths, leaf):
    """Say whether a leaf is one of the paths, or below one."""
    return any(leaf[: len(path)] == path for path in paths)


def read_by_templates():
    """Name every value that a template reads."""
    return {tuple(found.split(".")) for found in re.findall(r"\.Values\.([\w.]+)", TEMPLATES)}


def objects(schema):
    """Return every part of the schema that describes a mapping."""
    if isinstance(schema, list):
        return [found for inner in schema for found in objects(inner)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" else []
    return own + [found for inner in schema.values() for found in objects(inner)]


def test_no_dead_value():
    """
    Every value that is declared is read by a template, itself or as a part of what is read whole.
    """
    declared, used = leaves(DEFAULTS), read_by_templates()
    live = {path for path in used if path in declared or path in READ_WHOLE}

    assert used >= READ_WHOLE
    assert [leaf for leaf in declared if not covers(live, leaf)] == []


def test_no_undeclared_value():
    """
    Every value that a template reads is declared, with a default.
    """
    declared, used = leaves(DEFAULTS), read_by_templates()

    assert used != set()
    assert [path for path in used if not any(covers({path}, leaf) for leaf in declared)] == []


def test_strict_schema():
    """
    No mapping of the schema takes a key that it does not name.
    """
    found = objects(SCHEMA)

    assert len(found) > 10
    assert [part for part in found if part.get("additionalProperties") is not False] == []


def test_settings_in_step():
    """
    The chart's settings of jobs are settings of the app, and no credentials.
    """
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()}
    names = set(SCHEMA["properties"]["settings"]["properties"])

    assert len(names) == 3
    assert names <= ours - set(credential_names())


def test_credentials_in_step():
    """
    The chart's credentials are the ones that the app drops in a preview, and no others.
    """
    assert set(SCHEMA["properties"]["secrets"]["properties"]) == set(credential_names())


@pytest.mark.parametrize("path", CI, ids=lambda path: path.stem)
def test_ci_values(path):
    """
    Every file of ci/ renders over the chart's defaults alone, and lints without a warning.
    """
    report = helm_python.lint(CHART, read(path), strict=True)

    assert path.name.endswith("-values.yaml")
    assert len(render(read(path))) > 0
    assert [found for found in report["messages"] if found["severity"] > 1] == []


def test_one_object_a_file():
    """
    Every template makes at most one object.
    """
    rendered = [texts(production()), texts(preview(7, "2" * 40))]
    found = {name: text.count("\nkind: ") for made in rendered for name, text in made.items()}

    assert set(found.values()) == {0, 1}


@pytest.mark.parametrize(
    ("values", "where", "down"),
    [
        (lambda: preview(7, "2" * 40), "https://7.pr.jomcgi.dev", "close pull request 7"),
        (production, "service monolith, port 8000", "helm uninstall"),
    ],
    ids=["preview", "production"],
)
def test_notes(values, where, down):
    """
    The notes answer four questions in four lines.
    """
    lines = texts(values())["monolith/templates/NOTES.txt"].strip().splitlines()

    assert [line.partition(":")[0] for line in lines] == [
        "Where",
        "Whose data",
        "Muted",
        "Tear down",
    ]
    assert where in lines[0]
    assert down in lines[3]


def test_overlay():
    """
    Values lie over values as Helm lays them.
    """
    above, below = {"a": {"b": 1}, "c": [1]}, {"a": {"b": 0, "d": 2}, "c": [2, 3]}

    assert over(above, below) == {"a": {"b": 1, "d": 2}, "c": [1]}
