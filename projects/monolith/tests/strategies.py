"""What hypothesis may try."""

import string

from hypothesis import strategies as st
from pydantic import SecretStr

from shared.dsn import Target
from tests.dsns import generate

LEGAL_TRUE = ("true", "1", "yes", "y", "on", "t")
LEGAL_FALSE = ("false", "0", "no", "n", "off", "f")

environment_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
)
"""Any value that an environment variable can hold."""


@st.composite
def typos(draw: st.DrawFn) -> str:
    """Spell PR_ENV with other cases, dashes and underscores, and at most one typo."""
    letters = list("PRENV")
    letter = st.sampled_from("ABCEPRNVXZ0")
    place = draw(st.integers(0, 4))
    match draw(st.sampled_from(["keep", "drop", "change", "add", "swap"])):
        case "drop":
            del letters[place]
        case "change":
            letters[place] = draw(letter)
        case "add":
            letters.insert(place, draw(letter))
        case "swap":
            letters[place : place + 2] = reversed(letters[place : place + 2])
    cased = [draw(st.sampled_from([letter, letter.lower()])) for letter in letters]
    return "".join(draw(st.sampled_from(["", "_", "-"])) + letter for letter in cased)


dsns = st.randoms(use_true_random=False).map(generate)
"""DSNs by grammar, most of them wrong in a place or two."""

_printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
_labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
_names = st.lists(_labels, min_size=1, max_size=5).map(".".join)
_parts = _printable.filter(lambda part: not set("/,") & set(part) and part not in (".", ".."))
_directories = st.lists(_parts, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))

targets = st.builds(
    Target,
    host=_names.filter(lambda name: not set(name) <= set("0123456789abcdefx."))
    | st.ip_addresses().map(str)
    | _directories.filter(lambda path: ".s.PGSQL." not in path),
    port=st.integers(1, 65535),
    user=_printable,
    password=(_printable | st.just("")).map(SecretStr),
    database=_printable,
)
"""Everything that a DSN of ours can say."""


def one_typo_away(word: str) -> set[str]:
    """List what a word becomes by no typo or one: a letter dropped, put in, changed or swapped."""
    letters = string.ascii_uppercase + string.digits
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    found = {word} | {left + right[1:] for left, right in cuts}
    found |= {left + letter + right for left, right in cuts for letter in letters}
    found |= {left + letter + right[1:] for left, right in cuts if right for letter in letters}
    return found | {left + right[1::-1] + right[2:] for left, right in cuts if len(right) > 1}


numberish = (
    st.integers().map(str)
    | st.floats().map(repr)
    | st.text("0123456789+-_. eE\n\u0667", min_size=1, max_size=8)
)
"""What looks like a number, and often is one."""

NUMBERS = st.integers(1, 10**9 - 1)
"""Numbers of pull requests."""

_OF_A_CLONE = (
    *("monolith-pg-pr-{}-rw", "monolith-pg-pr-{}-rw.monolith", "monolith-pg-pr-{}-rw.x.svc"),
    *("monolith-pg-pr-{}-rw.x.svc.cluster.local", "MONOLITH-PG-PR-{}-RW", "/run/monolith-pg-pr-{}"),
)
_OF_NOBODY = (
    *("monolith-pg-pr-{}-ro", "monolith-pg-pr-{}", "monolith-pg-pr-0{}-rw", "x.monolith-pg-pr-{}"),
    *("monolith-pg-pr-{}-rw.x.svc.evil", "/run/monolith-pg-pr-{}-rw", "/run/monolith-pg-pr-{}/x"),
)
_OF_PRODUCTION = ("monolith-pg-rw", "monolith-pg-rw.x", "10.0.0.{}", "localhost", "/run/pg")


@st.composite
def hosts(draw: st.DrawFn) -> tuple[str, str, int]:
    """Draw a host, whose it is ("clone", "production", "nobody"), and a number that is in it."""
    owners = {"clone": _OF_A_CLONE, "nobody": _OF_NOBODY, "production": _OF_PRODUCTION}
    owner = draw(st.sampled_from(list(owners)))
    number = draw(st.integers(1, 255))
    return draw(st.sampled_from(owners[owner])).format(number), owner, number
