"""What jobs are handed, and fetch from nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from app.git import WorkingTree
from app.github import Feed


@dataclass(frozen=True, slots=True)
class Tools:
    """
    Everything that a job may use.

    Args:
        feed: what the changelog polls and where it speaks, or None without CHANGELOG_REPOSITORIES.
        vault: the vault's working tree, or None without VAULT_GIT_REMOTE.
    """

    pool: asyncpg.Pool
    feed: Feed | None = None
    vault: WorkingTree | None = None

    @property
    def lacking(self) -> Mapping[str, str]:
        """For each job that cannot run, the setting that it lacks."""
        needs = {
            "changelog": (self.feed, "CHANGELOG_REPOSITORIES"),
            "vault": (self.vault, "VAULT_GIT_REMOTE"),
        }
        return {name: setting for name, (tool, setting) in needs.items() if tool is None}
