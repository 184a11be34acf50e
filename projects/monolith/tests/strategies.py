"""What hypothesis may try."""

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
