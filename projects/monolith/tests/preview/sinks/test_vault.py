import os

import pytest

from preview.sinks.vault import Vault
from tests.preview.sinks.pushing import push


@pytest.fixture
def vault(tmp_path):
    """A bare repository for the vault."""
    made = Vault(tmp_path / "vault.git")
    made.make()
    return made


def test_push(vault, tmp_path):
    """
    What is pushed is listed, the last first, with who pushed it; the files are those of the branch.
    """
    push(vault, tmp_path / "tree", "tide", "ebb & flow")
    push(vault, tmp_path / "tree", "höhe")
    history = vault.history()

    assert [commit.subject for commit in history] == ["höhe", "ebb & flow", "tide"]
    assert vault.files() == ["ebb & flow.md", "höhe.md", "tide.md"]
    assert all(os.getpid() in commit.processes for commit in history)
    assert len({commit.processes for commit in history}) == 2
    assert len({commit.tree for commit in history}) == 3
    assert [commit.subject for commit in vault.history(1)] == ["höhe"]


def test_nothing_was_pushed(vault):
    """
    An empty vault has no history and no files, and making it again changes nothing.
    """
    vault.make()

    assert (vault.history(), vault.files()) == ([], [])


def test_it_stays(vault, tmp_path):
    """
    A vault that is there is kept as it is.
    """
    push(vault, tmp_path / "tree", "tide")
    again = Vault(vault.path)
    again.make()

    assert again.history() == vault.history() != []
