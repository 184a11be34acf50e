"""What `check-access` takes: options, and secrets from the environment alone."""

from collections.abc import Callable
from typing import Any

import click

from preview.options import API_URL, REPOSITORY, Command, secret

EX_USAGE = 64


class _WrongUsageError(click.UsageError):
    exit_code = EX_USAGE


class Verdicts(click.Command):
    """A command whose exit code is a verdict: click's own 2, for wrong usage, would be one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and leave with EX_USAGE where that cannot be done."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _WrongUsageError(error.format_message(), ctx) from error


def access(command: Command) -> Command:
    """Say whose Access has to be in front of which names, and what may be shown at the door."""
    for option in reversed(_ACCESS):
        command = option(command)
    return command


def _text(name: str, variable: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(name, envvar=variable, show_envvar=True, **more)


_ACCESS: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--wildcard",
        default="*.pr.jomcgi.dev",
        show_default=True,
        metavar="NAME",
        help="Where previews are, with * for the number; also pr-*.example.com or *.example.dev.",
    ),
    _text("--team-domain", "ACCESS_TEAM_DOMAIN", required=True, metavar="URL", help="The team."),
    _text("--aud", "ACCESS_AUD", required=True, metavar="HEX", help="The application's audience."),
    click.option(
        "--application",
        metavar="NAME",
        help="The application's hostname, as Access signs it.  [default: the wildcard]",
    ),
    _text("--emails", "ACCESS_EMAILS", default="", metavar="LIST", help="The people who may."),
    _text(
        "--service-clients",
        "ACCESS_SERVICE_CLIENTS",
        default="",
        metavar="LIST",
        help="The machines that may: client ids of service tokens.",
    ),
    _text("--account", "CLOUDFLARE_ACCOUNT_ID", default="", metavar="ID", help="The account."),
    _text("--zone", "CLOUDFLARE_ZONE_ID", default="", metavar="ID", help="The DNS zone."),
    secret("CF_ACCESS_CLIENT_ID", required=False),
    secret("CF_ACCESS_CLIENT_SECRET", required=False),
    secret("CF_ACCESS_OTHER_TOKEN", required=False),
    secret("CLOUDFLARE_API_TOKEN", required=False),
    click.option(
        "--shut",
        is_flag=True,
        help="When EXPOSED, take the label off every open pull request; needs GITHUB_TOKEN.",
    ),
    _text(
        "--repository",
        "GITHUB_REPOSITORY",
        type=REPOSITORY,
        metavar="OWNER/NAME",
        help="For --shut.",
    ),
    _text("--github-url", "GITHUB_API_URL", type=API_URL, metavar="URL", help="For --shut."),
    secret("GITHUB_TOKEN", required=False),
)
