import pytest
from hypothesis import HealthCheck, given, settings

from tests.chart.rendering import only, preview, production, render
from tests.chart.schemas import InvalidError, custom, unwritten, validate
from tests.chart.strategies import previews, productions

SHA = "2" * 40
METADATA = {"name", "labels", "annotations"}
quickly = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@quickly
@given(values=previews())
def test_preview(crds, values):
    """
    Every object of every preview is valid to the last field.
    """
    for manifest in render(values):
        validate(manifest, crds)

        assert manifest["metadata"].keys() <= METADATA


@quickly
@given(values=productions())
def test_production(crds, values):
    """
    Every object of every other release is valid to the last field.
    """
    for manifest in render(values):
        validate(manifest, crds)

        assert manifest["metadata"].keys() <= METADATA


@pytest.mark.parametrize("kind", ["Cluster", "HTTPRoute", "VolumeSnapshot"])
def test_unknown_field(crds, kind):
    """
    One unknown field in a custom resource is an error.
    """
    manifest = only(render(preview(7, SHA)), kind)
    manifest["spec"]["unknown"] = 1
    with pytest.raises(InvalidError, match="unknown"):
        validate(manifest, crds)

    assert (manifest["apiVersion"], kind) in custom(crds)


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_unknown_core_field(crds, kind):
    """
    One unknown field in a core kind is an error.
    """
    manifest = only(render(production()), kind)
    manifest["spec"]["unknown"] = 1
    with pytest.raises(InvalidError, match="unknown"):
        validate(manifest, crds)


@quickly
@given(values=previews())
def test_lists_in_sync(crds, values):
    """
    No list of a custom resource leaves a default to the API server, which Argo CD calls a drift.
    """
    for manifest in render(values):
        schema = custom(crds).get((manifest["apiVersion"], manifest["kind"]), {})

        assert unwritten(manifest, schema) == []


def test_lists_out_of_sync(crds):
    """
    A default left out of a list is found.
    """
    route = only(render(preview(7, SHA)), "HTTPRoute")
    del route["spec"]["rules"][0]["backendRefs"][0]["weight"]
    schema = custom(crds)[route["apiVersion"], "HTTPRoute"]

    assert unwritten(route, schema) == [".spec.rules[].backendRefs[].weight"]
