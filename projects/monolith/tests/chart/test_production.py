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


@given(productions())
def test_settings(values):
    """
    Settings of jobs reach the app alone, as they are.
    """
    *others, app = containers(render(values))
    given_to = [
        {v["name"]: v["value"] for v in c["env"] if v["name"] in values["settings"]}
        for c in (*others, app)
    ]

    assert given_to == [{}] * len(others) + [values["settings"]]


@given(productions())
def test_working_tree(values):
    """
    The vault has room for its working tree where it has a remote, and nowhere else.
    """
    *others, app = containers(render(values))
    mounted = [[m["name"] for m in c["volumeMounts"] if m["mountPath"] == "/tmp"] for c in others]

    assert mounted == [[]] * len(others)
    assert ("/tmp" in [m["mountPath"] for m in app["volumeMounts"]]) is (
        "VAULT_GIT_REMOTE" in values["secrets"]
    )


@pytest.mark.parametrize("name", ["CHANGELOG_REPOSITORIES", "CHANGELOG_CHANNEL"])
def test_half_a_changelog(name):
    """
    Half a changelog, with which the app would not start, does not render.
    """
    whole = {"CHANGELOG_REPOSITORIES": "ada/harbour", "CHANGELOG_CHANNEL": "300"}
    with pytest.raises(RefusedError, match=f"the values name {name}. Set both, or neither"):
        render(over({"settings": {name: whole[name]}}, production()))

    assert render(over({"settings": whole}, production()))


def test_defaults():
    """
    Who says nothing gets nothing, and a release that is only muted is no release.
    """
    defaults = read(CHART / "values.yaml")

    assert (defaults["prEnv"], defaults["secrets"], defaults["settings"]) == (True, {}, {})
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
