"""The outside world at one address, and who had a hand in what it received."""

import asyncio
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from preview.sinks import github, payloads
from preview.sinks.discord import FakeDiscord, Posted
from preview.sinks.github import FakeGitHub
from preview.sinks.peer import Asked
from preview.sinks.vault import BRANCH, Commit, Vault

REPOSITORIES = ("ada/tide-table", "ada/harbour")

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)  # the same commits each time: a changelog remembers them


@dataclass(slots=True)
class Outside:
    """
    A Discord, a GitHub and a vault.

    Args:
        names: what processes are called; each has its share shown, also where that is nothing.
    """

    vault: Vault
    discord: FakeDiscord = field(default_factory=FakeDiscord)
    github: FakeGitHub = field(default_factory=FakeGitHub)
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def make(cls, home: Path) -> "Outside":
        """Make one whose vault stays in `home`; the rest is forgotten at the end."""
        outside = cls(Vault(home / "vault.git"))
        outside.vault.make()
        for repository in REPOSITORIES:
            outside.github.commit(repository, "Begin", at=_BEGAN)
        return outside

    def add_to(self, app: web.Application) -> None:
        """Serve the parts below an app."""
        app.add_subapp("/discord", self.discord.app())
        app.add_subapp("/github", self.github.app())

    def found_at(self, where: str) -> None:
        """Learn at which address it is served."""
        self.discord.found_at(f"{where}/discord")
        self.github.found_at(f"{where}/github")

    def environment(self) -> dict[str, str]:
        """Return the settings that lead the monolith here, and nowhere else."""
        return {
            "CHANGELOG_CHANNEL": payloads.CHANNEL,
            "CHANGELOG_REPOSITORIES": ",".join(REPOSITORIES),
            "DISCORD_API_URL": self.discord.url,
            "DISCORD_BOT_TOKEN": payloads.TOKEN,
            "GITHUB_API_URL": self.github.url,
            "GITHUB_TOKEN": github.TOKEN,
            "VAULT_GIT_BRANCH": BRANCH,
            "VAULT_GIT_REMOTE": self.vault.remote,
        }

    async def received(self) -> dict[str, Any]:
        """Return all that was received, the last first, and the share of each named process."""
        pushes = await asyncio.to_thread(self.vault.history)
        messages = sorted(self.discord.said + self.discord.posted, key=lambda one: -int(one.id))
        requests = sorted(self.discord.asked + self.github.asked, key=_at, reverse=True)
        kinds: dict[str, list[Any]] = {"messages": messages, "requests": requests, "pushes": pushes}
        found = {kind: [self._known(one) for one in received] for kind, received in kinds.items()}
        shares = {
            name: {kind: sum(one["by"] == name for one in found[kind]) for kind in kinds}
            for name in self.names.values()
        }
        repositories = {
            name: [asdict(commit) for commit in reversed(commits)]
            for name, commits in self.github.repositories.items()
        }
        return {"shares": shares, "repositories": repositories, "remote": self.vault.remote} | found

    def _known(self, received: Posted | Asked | Commit) -> dict[str, Any]:
        """Return the facts of one thing that was received, and by whom, as far as it is known."""
        facts = asdict(received)
        processes = facts.get("processes") or (facts.get("process"),)
        names = [self.names[process] for process in processes if process in self.names]
        unknown = f"process {processes[0]}" if processes[0] else None
        facts["by"] = names[0] if names else unknown or facts.get("author")
        return facts


def _at(asked: Asked) -> datetime:
    return asked.at
