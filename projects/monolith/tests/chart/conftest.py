"""Fixtures of the chart's tests."""

import pytest

from tests.chart.rendering import MONOLITH

_CRDS = MONOLITH.parents[1].parent / "shared" / "crds"


@pytest.fixture(scope="session")
def crds():
    """The directory with the schemas of the custom resources, which is beside this repository."""
    if not _CRDS.is_dir():
        pytest.skip(f"the schemas of the custom resources are not in {_CRDS}")
    return _CRDS
