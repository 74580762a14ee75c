"""The user relies on a text being spaced exactly as MetaCLIP does, and on being told which entries can never match."""

from hypothesis import given
from hypothesis import strategies as st

from stream_curate.spacing import BLANKS, MARKS, can_match, n_tokens, spacing

ODD_TEXT = st.text(st.sampled_from("ab ,.;:?!`\t\n\r\0é\u0301\u2028\xa0🐈"), max_size=20)


def spacing_as_published(text: str) -> str:
    """The function of MetaCLIP's `substr_matching.py`, with its two lists."""
    puncts_to_wrap = [",", ".", ";", ":", "?", "!", "`"]
    chars_to_space = ["\t", "\n", "\r"]
    spaced_text = f" {text} "
    for punct_to_wrap in puncts_to_wrap:
        spaced_text = spaced_text.replace(punct_to_wrap, f" {punct_to_wrap} ")
    for char_to_space in chars_to_space:
        spaced_text = spaced_text.replace(char_to_space, " ")
    return spaced_text


@given(ODD_TEXT | st.text())
def test_spacing_is_the_published_one(text: str) -> None:
    assert spacing(text) == spacing_as_published(text)


def test_each_mark_stands_alone_and_each_blank_is_one_space() -> None:
    assert spacing("") == "  "
    for mark in MARKS:
        assert spacing(f"a{mark}b") == f" a {mark} b "
    for blank in BLANKS:
        assert spacing(f"a{blank}{blank}b") == " a  b "


def test_other_whitespace_and_case_stay() -> None:
    assert spacing("A\xa0B\u2028c\x0bd") == " A\xa0B\u2028c\x0bd "


@given(ODD_TEXT, ODD_TEXT)
def test_whatever_matches_could_match(entry: str, text: str) -> None:
    if f" {entry} " in spacing(text):
        assert can_match(entry)


@given(ODD_TEXT, st.data())
def test_every_piece_of_a_spaced_text_can_match(text: str, data: st.DataObject) -> None:
    pieces = spacing(text)[1:-1].split(" ")
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first, len(pieces) - 1))
    assert can_match(" ".join(pieces[first : last + 1]))


@given(ODD_TEXT)
def test_what_can_match_is_matched_by_a_text(entry: str) -> None:
    """The text is found in another way than by `can_match`: space by space beside each mark."""
    spaced = f" {entry} "
    is_own = [False] * len(spaced)
    for at, char in enumerate(spaced):
        if char in MARKS:
            for side in (at - 1, at + 1):
                if spaced[side] != " " or is_own[side]:
                    assert not can_match(entry)
                    return
                is_own[side] = True
    text = "".join(char for char, own in zip(spaced, is_own, strict=True) if not own)
    assert can_match(entry) == (spaced in spacing(text)) == (not set(entry) & set(BLANKS))


def test_what_can_and_cannot_match() -> None:
    assert all(can_match(entry) for entry in ("cat", "a  b", " ", "a , b", ",", ", ", ",  ,", "St . John", "a\0"))
    assert not any(can_match(entry) for entry in ("a,b", "St. John", ", ,", "a\tb", "a ,b", ",,"))


def test_tokens_are_the_pieces_that_are_not_empty() -> None:
    assert [n_tokens(text) for text in ("", "   ", "a", "a, b", ",,", "a\n\nb", "a\xa0b")] == [0, 0, 1, 3, 2, 2, 1]


@given(ODD_TEXT)
def test_tokens_are_counted_in_the_spaced_text(text: str) -> None:
    assert n_tokens(text) == len([piece for piece in spacing_as_published(text).split(" ") if piece])
