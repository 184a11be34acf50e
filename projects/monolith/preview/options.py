"""Options of commands that talk to other people's systems."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from pydantic import SecretStr

if TYPE_CHECKING:  # `monolith serve` imports none of these
    from preview.console import Console
    from preview.github import GitHub

Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on GitHub, where that is, and with whose token."""

    name: str
    url: str
    token: SecretStr

    def open(self, console: "Console") -> "GitHub":
        """Make the client."""
        from preview.github import GitHub  # noqa: PLC0415

        return GitHub(self.name, self.token, console, url=self.url)


class _Secret(click.ParamType[SecretStr]):
    name = "secret"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> SecretStr:
        """Take what a header can carry; of what it cannot, nothing is shown."""
        if isinstance(value, SecretStr):
            return value
        if not re.fullmatch("[!-~]*", value):
            self.fail("a blank, a line's end or a letter that no secret has is in it", param, ctx)
        return SecretStr(value)


class _Shaped(click.ParamType[str]):
    """A text of one shape."""

    name = "text"

    def __init__(self, shape: str, words: str) -> None:
        self._shape, self._words = shape, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is, or say which shape it lacks."""
        if not re.fullmatch(self._shape, value):
            self.fail(f"{value!r} is not {self._words}", param, ctx)
        return str(value)


REPOSITORY = _Shaped(r"[\w-]+/[\w.-]+", "a repository, as in ada/monolith")
API_URL = _Shaped(
    r"(https://[\w.-]+|http://127\.0\.0\.1)(:[0-9]{1,5})?(/[\w./-]*)?",
    "an address of an API, as in https://api.github.com",
)
"""Where the token is shown: never in the clear, but to this machine itself."""


class _EnvironmentOption(click.Option):
    """An option that no command line can give: everybody sees a command line."""

    param_type_name = "environment variable"

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Name what can be set."""
        del ctx
        return str(self.envvar)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Leave the parser without it."""


def secret(variable: str, *, required: bool = True) -> Callable[[Command], Command]:
    """Take a secret from an environment variable, and from nowhere else."""
    return click.option(
        f"--{variable.lower().replace('_', '-')}",
        cls=_EnvironmentOption,
        envvar=variable,
        hidden=True,
        required=required,
        type=_Secret(),
    )


def repository(command: Command) -> Command:
    """Hand over a Repository, which a workflow's environment names."""

    @click.option(
        "--repository",
        "name",
        envvar="GITHUB_REPOSITORY",
        show_envvar=True,
        required=True,
        type=REPOSITORY,
        metavar="OWNER/NAME",
        help="The repository.",
    )
    @click.option(
        "--github-url",
        envvar="GITHUB_API_URL",
        default="https://api.github.com",
        show_default=True,
        show_envvar=True,
        type=API_URL,
        metavar="URL",
        help="GitHub's API.",
    )
    @secret("GITHUB_TOKEN")
    @wraps(command)
    def given(name: str, github_url: str, github_token: SecretStr, **others: Any) -> None:
        command(repository=Repository(name, github_url, github_token), **others)

    return given


def service_token(command: Command) -> Command:
    """Hand over id and secret of the service token for Cloudflare Access, where there is one."""
    client_id = secret("CF_ACCESS_CLIENT_ID", required=False)
    client_secret = secret("CF_ACCESS_CLIENT_SECRET", required=False)

    @client_id
    @client_secret
    @wraps(command)
    def given(
        cf_access_client_id: SecretStr | None,
        cf_access_client_secret: SecretStr | None,
        **others: Any,
    ) -> None:
        command(service_token=(cf_access_client_id, cf_access_client_secret), **others)

    return given
