"""The table of attempts in docs/guarantees.md, made from the registry."""

from collections import Counter
from itertools import groupby
from pathlib import Path

from tests.escapes.nursery import attempts
from tests.escapes.registry import Attempt, Layer
from tests.generated import write

PAGE = Path(__file__).parents[4] / "docs" / "guarantees.md"


def figure() -> str:
    """Count what was tried, what is blocked by which layer, and what is held elsewhere."""
    layers = Counter(one.layer for one in attempts().values())
    held = Counter(one.held_by for one in attempts().values() if one.held_by)
    tried, blocked = layers.total(), layers.total() - layers[Layer.NOTHING]
    by_layer = ", ".join(f"{layer} {layers[layer]}" for layer in Layer if layer != Layer.NOTHING)
    by = "; ".join(f"{outer} ({count})" for outer, count in held.most_common())
    return (
        f"**{tried} tried, {blocked} blocked, {layers[Layer.NOTHING]} documented as not blockable "
        f"in-process and held by** {by}.\nBlocked by: {by_layer}."
    )


def row(one: Attempt) -> str:
    """Return the row of an attempt."""
    stopped = one.layer if one.layer != Layer.NOTHING else _not_stopped(one)
    return f"| `{one.name}` | {one.what} | {stopped} |"


def _not_stopped(one: Attempt) -> str:
    return f"**not blocked**: {one.why}. Held by {one.held_by}"


def table() -> str:
    """Return the figure, then a table for each chapter."""
    parts = [figure()]
    for chapter, some in groupby(attempts().values(), lambda one: one.chapter):
        head = f"### {chapter}\n\n| attempt | what it tries | stopped by |\n| --- | --- | --- |"
        parts.append("\n".join([head, *map(row, some)]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    write(PAGE, table(), "the attempts of tests/escapes")
