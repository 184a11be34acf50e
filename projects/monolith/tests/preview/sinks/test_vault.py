import os
import subprocess

import pytest

from preview.sinks.vault import Vault


@pytest.fixture
def vault(tmp_path):
    """A bare repository for the vault."""
    made = Vault(tmp_path / "vault.git")
    made.make()
    return made


def git(*arguments, **more):
    """Run git as somebody who has no configuration."""
    names = {"GIT_AUTHOR_NAME": "ada", "GIT_AUTHOR_EMAIL": "ada@example.com"}
    names |= {"GIT_COMMITTER_NAME": "ada", "GIT_COMMITTER_EMAIL": "ada@example.com"}
    environment = {"PATH": os.defpath, "GIT_CONFIG_GLOBAL": os.devnull} | names
    subprocess.run(["git", *map(str, arguments)], check=True, env=environment, **more)


def push(vault, tree, *titles):
    """Clone where there is no clone yet, and push a commit for each title."""
    if not tree.exists():
        git("clone", "--quiet", vault.remote, tree, stderr=subprocess.DEVNULL)
    for title in titles:
        (tree / f"{title}.md").write_text(title)
        git("-C", tree, "add", ".")
        git("-C", tree, "commit", "--quiet", "--message", title)
    git("-C", tree, "push", "--quiet", "origin", "HEAD:main")


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
