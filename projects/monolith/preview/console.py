"""The only module that shows progress: to a person, to a pipe, or to a program."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console as Terminal
from rich.status import Status
from rich.table import Table

_COLOURS = ("green", "cyan")
_APART = ("timestamp", "level", "event", "exception", "logger")


class Console:
    """
    Shows steps as they happen.

    A terminal gets a spinner and one line a step, anything else plain lines,
    and with `as_json` each line is an object. With `aside` it all goes to
    standard error, where standard output is for a program alone.
    """

    def __init__(self, *, as_json: bool = False, aside: bool = False) -> None:
        self._json = as_json
        self._aside = aside
        self._terminal = Terminal(highlight=False, stderr=aside)
        self._status: Status | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show that something takes place, and how long it took."""
        began = time.monotonic()
        if not self._json and self._terminal.is_terminal:
            self._status = self._terminal.status(name)
        try:
            if self._status is None:
                yield
            else:
                with self._status:
                    yield
        finally:
            self._status = None
        seconds = time.monotonic() - began
        self._line(f"{name} ({seconds:.1f} s)", "step", name=name, seconds=round(seconds, 3))

    def progress(self, done: int, total: int) -> None:
        """Show how far a step has come, in bytes; only a terminal does."""
        if self._status is not None and total:
            self._status.update(f"copying, {100 * done // total} % of {total / 2**20:.0f} MiB")

    def counted(self, done: int, total: int) -> None:
        """Show how much of a step is done; only a terminal does."""
        if self._status is not None:
            self._status.update(f"{done} of {total}")

    def say(self, text: str, **facts: Any) -> None:
        """Show one line, or its facts."""
        self._line(text, "said", text=text, **facts)

    def table(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """Show a table, or the facts of each row."""
        if not self._json:
            self._terminal.print(table)
            return
        for facts in rows:
            self._line("", "row", **facts)

    def ready(self, lines: dict[str, str], facts: dict[str, Any]) -> None:
        """Show the few lines that the run was for."""
        if self._json:
            self._line("", "ready", **facts)
            return
        width = max(map(len, lines))
        text = "\n".join(f"  {name:<{width}}  {value}" for name, value in lines.items())
        self._out(f"\n{text}\n")

    def said(self, news: dict[str, list[str]]) -> None:
        """Show new lines of several logs side by side, each with the name of who said it."""
        lines = [(_facts(line), name) for name, said in news.items() for line in said]
        width = max(map(len, news))
        for facts, name in sorted(lines, key=lambda pair: str(pair[0].get("timestamp", ""))):
            if self._json:
                self._out(json.dumps({"event": "log", "process": name, "line": facts}))
                continue
            colour = _COLOURS[list(news).index(name) % len(_COLOURS)]
            for text in _readable(facts):
                self._out(f"{click.style(f'{name:<{width}} |', fg=colour)} {text}")

    def _line(self, line: str, event: str, /, **facts: Any) -> None:
        self._out(json.dumps({"event": event, **facts}) if self._json else f"- {line}")

    def _out(self, text: str) -> None:
        click.echo(text, err=self._aside)
        sys.stdout.flush()


def _facts(line: str) -> dict[str, Any]:
    """Return what a log line says; what is no JSON object is an event in its own words."""
    try:
        facts = json.loads(line)
    except ValueError:
        facts = None
    return facts if isinstance(facts, dict) and "event" in facts else {"event": line}


def _readable(facts: dict[str, Any]) -> list[str]:
    """
    Return a log line for people: when, how bad, what, and the rest where it is short.

    Never anything that steers a terminal.
    """
    when, level = str(facts.get("timestamp", ""))[11:19], str(facts.get("level", "info"))
    more = {key: value for key, value in facts.items() if key not in _APART}
    if any(isinstance(value, dict | list) for value in more.values()):
        more = {}  # the audit record, whose line says it all
    first = [when, level.upper() if level != "info" else "", str(facts.get("event", ""))]
    first += [f"{key}={value}" for key, value in more.items()]
    lines = [" ".join(filter(None, first)), *str(facts.get("exception", "")).splitlines()]
    return ["".join(map(_printable, line)) for line in lines]


def _printable(character: str) -> str:
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
