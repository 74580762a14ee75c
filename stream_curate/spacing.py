"""How a text is cut into tokens before it is matched: MetaCLIP's spacing (arXiv 2309.16671, `substr_matching.py`)."""

from typing import Final

MARKS: Final = ",.;:?!`"
"""Each of these stands between two spaces in a spaced text, as a token of its own."""

BLANKS: Final = "\t\n\r"
"""Each of these becomes one space in a spaced text."""


def spacing(text: str) -> str:
    """Return `text` as entries are looked for in it.

    A space is put before and after the whole text and around each of `MARKS`; each of `BLANKS` becomes a space. Nothing
    is merged, stripped or normalised. An entry matches the text if and only if `f" {entry} " in spacing(text)`.

    >>> spacing("a cat, asleep")
    ' a cat ,  asleep '
    """
    spaced = f" {text} "
    for mark in MARKS:
        spaced = spaced.replace(mark, f" {mark} ")
    for blank in BLANKS:
        spaced = spaced.replace(blank, " ")
    return spaced


def can_match(entry: str) -> bool:
    """Say whether any text at all matches `entry`.

    In a spaced text every mark brings a space of its own on either side. Take these away from the entry, and what is
    left is the shortest text that could match it: the entry can match if and only if that text does.

    >>> can_match("St . John"), can_match("St. John"), can_match(", ,")
    (True, False, False)
    """
    bounded = f" {entry} "
    text = bounded
    for mark in MARKS:
        text = text.replace(f" {mark} ", mark)
    return bounded in spacing(text)


def n_tokens(text: str) -> int:
    """Count the tokens of `text`: the pieces of `spacing(text)` between spaces that are not empty.

    >>> n_tokens("a cat, asleep")
    4
    """
    return sum(piece != "" for piece in spacing(text).split(" "))
