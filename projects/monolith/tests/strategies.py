"""What hypothesis may try."""

from hypothesis import strategies as st

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
