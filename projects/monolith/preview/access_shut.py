"""The only module that acts on a check: where the door is open, previews lose their label."""

from dataclasses import dataclass, replace
from typing import Any, Self

import click
from pydantic import SecretStr

from preview.access_report import Report
from preview.access_verdict import Verdict
from preview.console import Console
from preview.errors import AccessCheckError
from preview.github import API
from preview.label import shut
from preview.options import Repository
from shared.errors import MonolithError


@dataclass(frozen=True, slots=True)
class Shutter:
    """
    Takes the label off every open pull request where a check says EXPOSED, if it was asked to.

    Raises:
        AccessCheckError: it was asked to, and may not.
    """

    asked: bool
    repository: Repository
    console: Console

    def __post_init__(self) -> None:
        token = self.repository.token.get_secret_value()
        lacking = {"GITHUB_REPOSITORY": self.repository.name, "GITHUB_TOKEN": token}
        names = " and ".join(name for name, value in lacking.items() if not value)
        if self.asked and names:
            found = "nothing"
            raise AccessCheckError(found, names, "set beside --shut")

    @classmethod
    def of(cls, given: dict[str, Any], console: Console) -> Self:
        """Read it from what the command was given."""
        token = given["github_token"] or SecretStr("")
        where = Repository(given["repository"] or "", given["github_url"] or API, token)
        return cls(given["shut"], where, console)

    def closed(self, report: Report) -> Report:
        """Act on a report, and return it with what was done; the verdict stays what it was."""
        if not self.asked or report.verdict is not Verdict.EXPOSED:
            return report
        try:
            with self.repository.open(self.console) as github:
                return replace(report, shut=tuple(shut(github, "the previews are exposed")))
        except MonolithError as error:
            click.echo(f"monolith: {error}", err=True)
            return report
