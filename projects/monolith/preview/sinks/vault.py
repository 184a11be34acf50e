"""The vault's remote: a bare repository, made with real git."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import run

BRANCH = "main"

_ENVIRONMENT = {"PATH": os.defpath, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
_FORMAT = "--format=%H%x1f%T%x1f%aI%x1f%s%x1e"
_PUSHES = "pushes"
_HOOK = f"""#!/bin/sh
# Write down what was pushed, and the processes that this one descends from.
pid=$PPID line=
while [ "${{pid:-0}}" -gt 1 ]; do
  line="$line $pid"
  pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
done
while read -r _ new _; do
  echo "$new$line" >>{_PUSHES}
done
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """
    One commit that was pushed.

    Args:
        tree: the same tree in two commits would be the same notes twice.
        processes: who pushed it, and the processes that started that one; empty where the
            system does not say.
    """

    sha: str
    tree: str
    at: datetime
    subject: str
    processes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Vault:
    """A bare repository to push to, which remembers who did."""

    path: Path

    @property
    def remote(self) -> str:
        """What VAULT_GIT_REMOTE says."""
        return f"file://{self.path}"

    def make(self) -> None:
        """Make it, unless it is there."""
        if self.path.exists():
            return
        _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(self.path))
        hook = self.path / "hooks/post-receive"
        hook.write_text(_HOOK)
        hook.chmod(0o755)

    def history(self, most: int | None = None) -> list[Commit]:
        """Return the commits of its branch, the last one first."""
        if not _git("-C", str(self.path), "branch", "--list", BRANCH):
            return []
        limit = [] if most is None else [f"--max-count={most}"]
        said = _git("-C", str(self.path), "log", *limit, _FORMAT, BRANCH)
        pushed, history = self._pushed(), []
        processes: tuple[int, ...] = ()
        for line in said.split("\x1e")[:-1]:
            sha, tree, at, subject = line.strip("\n").split("\x1f")
            processes = pushed.get(sha, processes)  # a push may bring older ones with it
            history.append(Commit(sha, tree, datetime.fromisoformat(at), subject, processes))
        return history

    def files(self) -> list[str]:
        """Return the path of each file that its branch holds."""
        if not _git("-C", str(self.path), "branch", "--list", BRANCH):
            return []
        said = _git("-C", str(self.path), "ls-tree", "-r", "-z", "--name-only", BRANCH)
        return said.split("\0")[:-1]

    def _pushed(self) -> dict[str, tuple[int, ...]]:
        pushes = self.path / _PUSHES
        lines = pushes.read_text().splitlines() if pushes.exists() else []
        return {
            sha: tuple(map(int, processes)) for sha, *processes in (line.split() for line in lines)
        }


def _git(*arguments: str) -> str:
    return run(  # noqa: S603  the arguments are ours
        ["git", *arguments],  # noqa: S607  whichever git there is
        capture_output=True,
        check=True,
        env=_ENVIRONMENT,
        text=True,
    ).stdout
