"""`monolith preview label`, run as a workflow runs it against a GitHub on loopback."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from preview.cli import main
from tests.fake_github import REPOSITORY, TOKEN, FakeGitHub

WILDCARD = "*.pr.jomcgi.dev"


@dataclass
class Labelling:
    """Runs the command; `verdict` is what the report about Access says, None is no report."""

    server: FakeGitHub
    directory: Path
    verdict: str | None = "PROTECTED"
    age: timedelta = timedelta(0)
    wildcard: str = WILDCARD

    def report(self) -> Path:
        """Write the report."""
        at = (self.server.now - self.age).isoformat()
        said: dict[str, Any] = {
            "verdict": self.verdict,
            "checked_at": at,
            "wildcard": self.wildcard,
            "hosts": [],
        }
        path = self.directory / "access.json"
        path.write_text(json.dumps(said))
        return path

    def command(self, *arguments: str) -> list[str]:
        """Return what a workflow would type, with a report of this moment."""
        report = [f"--access-report={self.report()}"] if self.verdict else []
        return ["preview", "label", f"--wildcard={self.wildcard}", *report, *arguments]

    def environment(self) -> dict[str, str]:
        """Return what a workflow has in its environment."""
        return {
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_API_URL": self.server.url,
            "GITHUB_TOKEN": TOKEN,
        }

    def run(self, *arguments: str, code: int | None = 0, **variables: str) -> Result:
        """Run it once; it leaves with `code`, or as it likes where that is None."""
        absent = dict.fromkeys(("CF_ACCESS_CLIENT_ID", "CF_ACCESS_CLIENT_SECRET"))
        given = absent | self.environment() | variables
        result = CliRunner().invoke(
            main, self.command(*arguments), env=given, catch_exceptions=False
        )
        assert code in {result.exit_code, None}, result.output
        return result

    def start(self) -> subprocess.Popen[bytes]:
        """Start it as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "preview", *self.command()],
            env={"PATH": os.environ["PATH"], **self.environment()},
            stdout=subprocess.DEVNULL,
        )

    def reasons(self, *arguments: str, **variables: str) -> dict[int, str]:
        """Run it once; return the last reason for each pull request."""
        rows = rows_of(self.run("--json", *arguments, code=0, **variables))
        return {row["number"]: row["reason"] for row in rows}


def rows_of(result: Result) -> list[dict[str, Any]]:
    """Return the rows of every table that a run with --json has shown."""
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [line for line in lines if line["event"] == "row"]


def ready(server: FakeGitHub, *numbers: int, **how: Any) -> None:
    """Open pull requests whose images exist, a minute apart."""
    for number in numbers:
        server.pass_time(minutes=1)
        server.open(number, **how)
        server.build(number)
