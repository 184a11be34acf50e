"""Pushes to a vault with real git, as a process of the test's."""

import os
import subprocess


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
