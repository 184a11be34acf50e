"""Options of commands that talk to other people's systems."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import SecretStr

F = TypeVar("F", bound=Callable[..., Any])


class _Secret(click.ParamType[SecretStr]):
    name = "secret"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> SecretStr:
        del param, ctx
        return value if isinstance(value, SecretStr) else SecretStr(value)


class _EnvironmentOption(click.Option):
    """An option that no command line can give: everybody sees a command line."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Leave the parser without it."""


def secret(variable: str, *, required: bool = True) -> Callable[[F], F]:
    """Take a secret from an environment variable, and from nowhere else."""
    return click.option(
        f"--{variable.lower().replace('_', '-')}",
        cls=_EnvironmentOption,
        envvar=variable,
        hidden=True,
        required=required,
        type=_Secret(),
    )


def github(command: F) -> F:
    """Say which repository, where GitHub is, and with which token: as in a workflow."""
    repository = click.option(
        "--repository",
        envvar="GITHUB_REPOSITORY",
        required=True,
        metavar="OWNER/NAME",
        help="The repository.  [env: GITHUB_REPOSITORY]",
    )
    url = click.option(
        "--github-url",
        envvar="GITHUB_API_URL",
        default="https://api.github.com",
        show_default=True,
        metavar="URL",
        help="GitHub's API.  [env: GITHUB_API_URL]",
    )
    return repository(url(secret("GITHUB_TOKEN")(command)))
