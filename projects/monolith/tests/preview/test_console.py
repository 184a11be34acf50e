import json

import click
import pytest

from preview.console import Console


@pytest.fixture
def shown(capsys):
    """Show logs side by side, and return the lines."""

    def show(news, **options):
        Console(**options).said(news)
        return capsys.readouterr().out.splitlines()

    return show


def line(second, event, **more):
    """Return a line as the app logs it."""
    return json.dumps(
        {"timestamp": f"2026-11-24T13:00:0{second}.5Z", "level": "info", "event": event, **more}
    )


def test_side_by_side(shown):
    """
    Lines of several logs come in the order of their times, each with the name of who said it.
    """
    news = {
        "production": [line(1, "job ran", job="ships"), line(3, "c")],
        "preview 7": [line(2, "b")],
    }

    assert shown(news) == [
        "production | 13:00:01 job ran job=ships",
        "preview 7  | 13:00:02 b",
        "production | 13:00:03 c",
    ]


def test_as_json(shown):
    """
    For a program each line is an object, with what was said as it was said.
    """
    (event,) = map(json.loads, shown({"production": [line(1, "a", n=1)]}, as_json=True))

    assert (event["event"], event["process"]) == ("log", "production")
    assert event["line"] == json.loads(line(1, "a", n=1))


def test_what_is_no_object(shown):
    """
    A line that is no log line is shown as it is.
    """
    assert shown({"production": ["Killed", "[1]", '{"n": 1}']}) == [
        "production | Killed",
        "production | [1]",
        'production | {"n": 1}',
    ]


def test_error(shown):
    """
    An error says how bad it is, and its traceback comes with it.
    """
    lines = shown(
        {"production": [line(1, "job failed", level="error", exception="Traceback\n  x")]}
    )

    assert lines == [
        "production | 13:00:01 ERROR job failed",
        "production | Traceback",
        "production |   x",
    ]


def test_audit_line(shown):
    """
    The audit line is shown without the record that it sums up.
    """
    assert shown(
        {"preview 7": [line(1, "audit: preview 7", facts=[{"a": 1}], mode="preview")]}
    ) == ["preview 7 | 13:00:01 audit: preview 7"]


def test_nothing_steers_the_terminal(shown):
    """
    Whatever a log says, no control character of it reaches the terminal.
    """
    (shown_line,) = shown({"production": [line(1, "\x1b[2J\x07", note="\x9b1m")]})

    assert click.unstyle(shown_line).isprintable()
    assert "\x1b" not in shown_line


def test_colours(shown):
    """
    Where colours are shown, each process has its own; the text is the same.
    """
    news = {"production": [line(1, "a")], "preview 7": [line(2, "b")]}
    with click.Context(click.Command("up"), color=True):
        coloured = shown(news)

    assert [click.unstyle(one) for one in coloured] == shown(news)
    assert len({one.partition("p")[0] for one in coloured}) == 2
