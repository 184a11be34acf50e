import pytest

from tests.fake_github import FakeGitHub
from tests.labelling import Labelling


@pytest.fixture
def server():
    """A GitHub with one repository, on loopback."""
    with FakeGitHub().running() as fake:
        yield fake


@pytest.fixture
def label(server, tmp_path):
    """The command, against that GitHub; Access is proven."""
    return Labelling(server, tmp_path)
