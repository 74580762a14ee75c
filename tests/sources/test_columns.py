"""Which columns are taken, and the words for those that cannot be."""

from __future__ import annotations

import pytest

from stream_curate.errors import InputError, UsageError
from stream_curate.sources.columns import ColumnChoice, Columns, resolve


@pytest.mark.parametrize("url", ["url", "URL", "image_url", "Image_URLs"])
@pytest.mark.parametrize("text", ["text", "TEXT", "caption", "Captions", "alt"])
def test_the_usual_names_are_found_in_any_case(url, text):
    assert resolve(["x", text, url], ColumnChoice(), "f") == Columns(2, 1, (None,))


@pytest.mark.parametrize(
    ("found", "choice", "expected"),
    [
        (["url", "text", "caption"], ColumnChoice(text="caption"), Columns(0, 2, (None,))),
        (["URL", "url", "text"], ColumnChoice(url="url"), Columns(1, 2, (None,))),
        (["Link", "text"], ColumnChoice(url="link"), Columns(0, 1, (None,))),
        (["alt", "text"], ColumnChoice(url="alt"), Columns(0, 1, (None,))),
        (["url", "image_url", "text"], ColumnChoice(text="url"), Columns(1, 0, (None,))),
        (["url", "text", "Uid"], ColumnChoice(), Columns(0, 1, (2,))),
        (["url", "text", "Uid", "UID"], ColumnChoice(), Columns(0, 1, (None,))),
        (["url", "text", "w", "h"], ColumnChoice(keep=("h", "W")), Columns(0, 1, (None, 3, 2))),
        (["url", "text", "UID"], ColumnChoice(keep=("uid",)), Columns(0, 1, (2,))),
    ],
)
def test_names_given_decide(found, choice, expected):
    assert resolve(found, choice, "f") == expected


@pytest.mark.parametrize(
    ("found", "choice", "words"),
    [
        (["a", "text"], ColumnChoice(), ["f: no url column", "a, text", "url, image_url, image_urls", "--url-column"]),
        (["url", "b"], ColumnChoice(), ["no text column", "url, b", "text, caption, captions, alt", "--text-column"]),
        (["url", "text", "caption"], ColumnChoice(), ["more than one text column: text, caption", "--text-column"]),
        (["URL", "url", "text"], ColumnChoice(), ["more than one url column: URL, url", "--url-column"]),
        (["url", "url", "text"], ColumnChoice(url="url"), ["more than one url column"]),
        (["Link", "LINK", "text"], ColumnChoice(url="link"), ["more than one url column: Link, LINK"]),
        (["url", "text"], ColumnChoice(url="link"), ["no url column", "looked for: link"]),
        (["url", "text"], ColumnChoice(keep=("w",)), ["no column called w", "--keep-columns", "url, text"]),
        (["url", "text"], ColumnChoice(keep=("uid",)), ["no column called uid", "--keep-columns"]),
        (["url", "text", "W", "w "], ColumnChoice(keep=("w",), text="t"), ["no text column"]),
        (["url", "text", "W", "w", "w"], ColumnChoice(keep=("w",)), ["2 columns called w"]),
        ([], ColumnChoice(), ["columns found: none"]),
        (["\u202ea\n"], ColumnChoice(), [r"\u202ea\x0a"]),
        ([f"c{i}" for i in range(1_000)], ColumnChoice(), ["c99", "and 900 more"]),
    ],
)
def test_a_refusal_names_what_was_found_and_looked_for(found, choice, words):
    with pytest.raises(InputError) as refusal:
        resolve(found, choice, "f")
    assert refusal.value.exit_code == 3
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"keep": ("pair_id",)}, "pair_id"),
        ({"keep": ("Text",)}, "text"),
        ({"keep": ("w", "W")}, "twice"),
        ({"headerless": ()}, "--columns"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused_at_once(choice, words):
    with pytest.raises(UsageError, match=words):
        ColumnChoice(**choice)
