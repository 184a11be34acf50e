import re

import pytest

from shared.guard import StartupPoint
from shared.settings import credential_names
from tests.escapes.nursery import attempts
from tests.escapes.registry import Layer
from tests.escapes.table import PAGE, figure, table
from tests.generated import page

GUARANTEES, THREATS = PAGE, PAGE.with_name("threat-model.md")


def rows_of(path, *head):
    """Return the rows of the one table of a page that has this head, a list of cells each."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in path.read_text().splitlines()
        if line.startswith("|")
    ]
    start = rows.index(list(head))
    ended = next(
        (n for n, found in enumerate(rows) if n > start + 1 and len(found) != len(head)), len(rows)
    )
    return rows[start + 2 : ended]


LAYERS = {name: kind for name, _, kind in rows_of(GUARANTEES, "layer", "is", "holds against")}
PROMISES = rows_of(GUARANTEES, "promise", "shown by", "layer", "holds against", "blind spots")
PROTECTIONS = rows_of(THREATS, "threat", "actor", "protection", "layer", "holds against")


def named_tests(cell):
    """Return each file that a cell names, with the tests that it names there."""
    for part in cell.split("; "):
        (link,) = re.findall(r"\]\(([^)]+\.py)\): ", part)
        yield (GUARANTEES.parent / link).resolve(), re.findall(r"`(test_\w+)`", part)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda cells: cells[0][:40])
def test_promise(promise):
    """
    Each promise names tests that exist in the file that it links to, layers of the list, what
    these hold against, and where it ends.
    """
    _, shown_by, held_by, kind, blind_spots = promise
    tests = list(named_tests(shown_by))

    assert all(names for _, names in tests)
    for path, names in tests:
        defined = re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
        assert set(names) <= set(defined)
    assert {LAYERS[name] for name in held_by.split(", ")} == {kind}
    assert blind_spots


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda cells: cells[0][:40])
def test_protection(protection):
    """
    Each protection is against an actor of the list, by a layer that promises something.
    """
    _, actor, _, layer, kind = protection

    assert actor in {name for name, *_ in rows_of(THREATS, "actor", "has", "wants")}
    assert LAYERS[layer] == kind
    assert any(layer in promise[2].split(", ") for promise in PROMISES)


def test_layers():
    """
    Every layer that stops an attempt is one of the list, and the picture shows all of the list.
    """
    picture = THREATS.read_text().partition("```mermaid")[2].partition("```")[0]

    assert {str(layer) for layer in Layer} - {Layer.NOTHING} <= set(LAYERS)
    assert [name for name in LAYERS if name not in picture] == []
    assert set(LAYERS.values()) == {kind for *_, kind in PROTECTIONS}


@pytest.mark.parametrize("path", [GUARANTEES, THREATS], ids=lambda path: path.stem)
def test_what_is_to_be_guarded(path):
    """
    Both pages speak of every startup point and of every credential.
    """
    text = path.read_text()

    assert [name for name in (*StartupPoint, *credential_names()) if name not in text] == []


def test_attempts():
    """
    The page has a row for every attempt and none beside, and the figure that their registry counts.
    """
    text = GUARANTEES.read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .+$", text, re.MULTILINE)

    assert page(text, table()) == text
    assert rows == list(attempts())
    assert figure() in text


def test_figure():
    """
    The figure adds up: what is blocked and what is not are all that was tried, and whatever is not
    blocked says why, and what holds it.
    """
    through = [one for one in attempts().values() if one.layer is Layer.NOTHING]
    tried, blocked, documented = map(int, re.findall(r"\d+", figure())[:3])

    assert (tried, documented) == (len(attempts()), len(through))
    assert tried == blocked + documented
    assert all(one.why and one.held_by and one.blind_spot for one in through)
    assert not any(one.why or one.held_by for one in attempts().values() if one not in through)
