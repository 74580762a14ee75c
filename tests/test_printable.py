"""Nothing from the crawl reaches a terminal, a log line or a preview unescaped."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.printable import printable, without_credentials

ANY_TEXT = st.text(st.characters(exclude_categories=[]))
WHOLE_PIECES = re.compile(r"([^\\]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*", re.DOTALL)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog, é 犬 🐕", "a dog, é 犬 🐕"),
        ("\x00\x07\x1b[31m\x7f", "\\x00\\x07\\x1b[31m\\x7f"),
        ("a\tb\r\nc", "a\\x09b\\x0d\\x0ac"),
        ("\x80\x9b31m\x85", "\\x80\\x9b31m\\x85"),
        ("\u202a\u202e\u2066\u2069\u200e", "\\u202a\\u202e\\u2066\\u2069\\u200e"),
        ("\u200b\u200d\u2060\ufeff\u00ad", "\\u200b\\u200d\\u2060\\ufeff\\xad"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_is_not_printable_is_written_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_bytes_that_are_no_text_are_shown_one_by_one() -> None:
    assert printable(b"caf\xc3\xa9 \xff\xc3(\xed\xa0\x80") == "café \\xff\\xc3(\\xed\\xa0\\x80"


@given(ANY_TEXT)
def test_the_result_is_printable_and_printable_text_is_left_alone(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.one_of(ANY_TEXT, st.binary()), st.integers(0, 30))
def test_a_limit_is_kept_and_only_shortens(text: str | bytes, max_bytes: int) -> None:
    shown = printable(text, max_bytes)

    assert len(shown.encode()) <= max_bytes
    assert printable(text).startswith(shown)


@given(st.text(st.characters(exclude_characters="\\", exclude_categories=[])), st.integers(0, 30))
def test_a_shortened_text_does_not_end_inside_an_escape(text: str, max_bytes: int) -> None:
    assert WHOLE_PIECES.fullmatch(printable(text, max_bytes))


@given(st.binary().map(lambda data: data.replace(b"\\", b"")), st.integers(0, 30))
def test_shortened_bytes_do_not_end_inside_an_escape(data: bytes, max_bytes: int) -> None:
    assert WHOLE_PIECES.fullmatch(printable(data, max_bytes))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 30))
def test_a_limit_uses_the_room_there_is(text: str, max_bytes: int) -> None:
    """What does not fit is one more piece: a character of at most 4 bytes or an escape of at most 10."""
    shown = printable(text, max_bytes)

    assert shown == printable(text) or len(shown.encode()) > max_bytes - 10
    assert printable(text.encode(), max_bytes) == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:password@x.org/a?b", "https://***@x.org/a?b"),
        ("s3://key@bucket/pairs", "s3://***@bucket/pairs"),
        ("see http://a:b@x.org and ftp://c:d@y.org", "see http://***@x.org and ftp://***@y.org"),
        ("https://x.org/@user/1.jpg", "https://x.org/@user/1.jpg"),
        ("https://x.org/?to=a@b.c", "https://x.org/?to=a@b.c"),
        ("https://x.org/#a@b", "https://x.org/#a@b"),
        ("file:///data/a@b.tsv", "file:///data/a@b.tsv"),
    ],
)
def test_user_names_and_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_a_password_with_an_at_sign_is_not_shown_in_part() -> None:
    """Browsers and fsspec take the last @ before the path as the end of the user's part."""
    assert without_credentials("https://user:p@ss@x.org/") == "https://***@x.org/"
