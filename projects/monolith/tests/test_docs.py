import pickle
import re
from pathlib import Path
from typing import cast

import click
import pytest

from preview import errors as preview_errors
from preview.cli import main
from shared import errors
from shared.guard import StartupPoint
from shared.settings import Settings

ROOT = Path(__file__).parents[3]
HERE = Path("PATH")
SECTIONS = ("The monolith", "Previews on one machine", "The cluster", "GitHub")
EXAMPLES = [
    errors.SettingsError(["PR_ENV is wrong."]),
    errors.TargetError("has another form", "Take it from the secret."),
    errors.WrongDatabaseError("host", "the host of a clone", "h", "Point it elsewhere."),
    errors.UnidentifiedDatabaseError("h:1/d", "it was silent"),
    errors.NoAccessError("0.0.0.0", "LISTEN_HOST"),
    errors.ListenError("127.0.0.1", 8000, "Address already in use"),
    errors.StartupPointError(StartupPoint.SCHEDULER, "there is no table"),
    errors.WorkingTreeError("No space left on device"),
    errors.NeutralizeError("a preview", "PR_ENV says production"),
    errors.MutedError(StartupPoint.DISCORD, "PR_ENV"),
    errors.PollError((("owner/name", "it answers 404"),)),
    errors.VaultError("push", "permission denied"),
    errors.OutboundRefusedError("run git", "h:1", "Do it in production."),
    errors.UnguardedError("nobody has armed it"),
    errors.SealError("Operation not permitted"),
    errors.AuditError("No space left on device"),
    preview_errors.BinariesError("here", "they are not there", "Install them."),
    preview_errors.UnreachableError(HERE, "nobody"),
    preview_errors.SocketPathError(HERE, 107),
    *(preview_errors.EngineError("ENGINE", v, "no", HERE) for v in ("initialise", "start", "stop")),
    preview_errors.ForeignEngineError("ENGINE", 1),
    preview_errors.SourceError("ENGINE", "one directory", "it has two", "Move it."),
    preview_errors.CloneExistsError("CLONE", HERE),
    preview_errors.SpaceError(HERE, 2, 1),
    preview_errors.CloneError("CLONE", "2 segments", "1"),
    preview_errors.SumError(HERE, "a.sql is new"),
    preview_errors.MigrationError("FILE", "one transaction", "it ended it", "Correct it."),
    preview_errors.SchemaAheadError(("1",)),
    preview_errors.HistoryError("a.sql", "it was changed"),
    preview_errors.PreviewRunsError(7, None),
    preview_errors.TooManyPreviewsError((1, 2, 3), 3),
    preview_errors.NoPreviewError(7, ()),
    preview_errors.ForeignPreviewError(7, 1),
    preview_errors.MissingModuleError("kubernetes"),
    preview_errors.AccessCheckError("'x'", "--wildcard", "one * in the first of several labels"),
    preview_errors.SweepError("production's Application", "it is not there", "Grant it."),
    preview_errors.GitHubError("GET /user", "it says 401", "Give a token."),
    preview_errors.RateLimitError("GET /user", 300, "12:00:00 UTC"),
    preview_errors.NotTheWriterError("github-actions[bot]", "ada"),
    preview_errors.SystemSaysNoError("OSError: no"),
    preview_errors.ProductionError("it ended", "Its log ends: x."),
    preview_errors.ProductionRunsError(None),
    preview_errors.AppError("it ended", "Its log ends: x."),
]


def headings(name):
    return re.findall(r"^#+ (.+)$", (ROOT / "docs" / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_error(error):
    """
    Every error says what was refused, has its heading in the runbook, and survives pickling.
    """
    heading = str(error).partition(":")[0].replace("preview 7", "preview N")
    again = pickle.loads(pickle.dumps(error))

    assert re.match(r"(Refused to|Cannot) \S", heading)
    assert heading in headings("runbook.md")
    assert str(error).endswith(".")
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_every_error_has_an_example():
    """
    No error class is left out of the runbook, and no heading of the runbook is left over.
    """
    classes = set(errors.MonolithError.__subclasses__())
    said = {str(error).partition(":")[0].replace("preview 7", "preview N") for error in EXAMPLES}

    assert {type(error) for error in EXAMPLES} == classes
    assert set(headings("runbook.md")) - said == {"Runbook", *SECTIONS}


def test_settings_page():
    """
    The page of settings has a row for each variable, with what is expected of it.
    """
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| .+? \| (.+) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE
    )
    fields = Settings.model_fields.values()

    assert dict(rows) == {str(field.validation_alias): field.description for field in fields}


def test_links():
    """
    Every link of the documentation to a file of this repository leads to one.
    """
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text())
    ]

    assert len(links) > 10
    assert [str(page) + link for page, link in links if not (page.parent / link).exists()] == []


def test_named_tests():
    """
    Every test that the README names exists in the file beside it.
    """
    named = []
    for group in re.findall(r"\(\[.*\)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        files = [ROOT / path for path in re.findall(r"\]\(([^)]+\.py)\)", group)]
        named += [(files, name) for name in re.findall(r"`(test_\w+)`", group)]

    assert len(named) >= 3
    for files, name in named:
        assert any(f"def {name}(" in path.read_text() for path in files), name


def test_commands():
    """
    Every `monolith …` command and every make verb in the documentation exists.
    """
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    preview = cast("click.Group", main.commands["preview"]).commands
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"monolith preview ([a-z-]+)", text)) <= set(preview)
    assert set(re.findall(r"`monolith ([a-z]+)", text)) <= set(main.commands)
    assert set(re.findall(r"(?:^|[`$:] ?)make ([a-z-]+)", text, re.MULTILINE)) <= verbs
