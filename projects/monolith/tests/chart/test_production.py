import pytest
from hypothesis import given

from tests.chart.rendering import (
    CHART,
    RefusedError,
    containers,
    kinds,
    over,
    production,
    read,
    render,
    texts,
)
from tests.chart.strategies import preview_defaults, productions

SHA = "1" * 40


@given(preview_defaults)
def test_unmoved(defaults):
    """
    Production's manifests do not change by one byte when previews change their defaults.
    """
    assert texts(over({"preview": defaults}, production())) == texts(production())


def test_moved():
    """
    They do change with a value of production's own.
    """
    assert texts(over({"cluster": {"storageClass": "fast"}}, production())) != texts(production())


@given(productions())
def test_no_preview(values):
    """
    Nothing of a release that is no preview is a preview's: no route, no snapshot, no clone.
    """
    database = ["Cluster", "NetworkPolicy"] * values["cluster"]["enabled"]

    assert kinds(render(values)) == sorted(["Deployment", "Service", *database])
    assert "-pr-" not in "".join(texts(values).values())


@given(productions())
def test_credentials(values):
    """
    Credentials reach the app alone, no init container, and each under its own name.
    """
    *others, app = containers(render(values))
    given_to = [
        {v["name"] for v in c["env"] if v["name"] in values.get("secrets", {})}
        for c in (*others, app)
    ]

    assert given_to == [set()] * len(others) + [set(values.get("secrets", {}))]


def test_defaults():
    """
    Who says nothing gets nothing, and a release that is only muted is no release.
    """
    defaults = read(CHART / "values.yaml")

    assert (defaults["prEnv"], defaults["secrets"]) == (True, {})
    assert (defaults["cluster"]["enabled"], defaults["preview"]["enabled"]) == (False, False)
    for values in ({}, {"image": {"tag": f"sha-{SHA}"}}):
        with pytest.raises(RefusedError, match=r"Refused to render production"):
            render(values)


def test_common_values():
    """
    Neither production nor a preview says otherwise about what both databases must share.
    """
    assert "postgres" not in production()
    assert "postgres" not in read(CHART / "values-preview.yaml")
    assert set(read(CHART / "values.yaml")["postgres"]) == {
        "extensions",
        "image",
        "size",
        "snapshotClass",
    }
