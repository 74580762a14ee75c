"""A dead letter holds the original, and reads as it did."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pyarrow as pa
from hostile_messages import GOOD, URL, Message, arrow

from consumers.clients import MAX_MESSAGE_BYTES
from consumers.dead_letters import DeadLetter, dead_letters, read_dead_letter
from consumers.messages import ARROW_HEADERS, ARROW_TYPE, CONTENT_TYPE, FORMAT_VERSION, MessageReader

READER = MessageReader("pairs", 3)


@dataclass
class Record:
    """As it would come back."""

    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    partition: int = 3


def letters_of(*messages: Message) -> list[DeadLetter]:
    (batch,) = READER.read(messages)
    return dead_letters(batch, batch.validate()[1], 3)


def again(letter: DeadLetter) -> DeadLetter | None:
    return read_dead_letter(Record(letter.value, letter.headers))


def reason_of(letter: DeadLetter) -> str:
    """Why the original is rejected when it is read once more."""
    (rejection,) = READER.decode(letter.value, letter.original_headers).validate()[1]
    return str(rejection.reason)


def test_every_rejection_has_a_letter_that_comes_back_as_it_was() -> None:
    many = arrow(url=[URL, "ftp://x", URL, ""], text=["a", "b", "c", "d"])
    found = letters_of(
        Message(10, GOOD), Message(11, None), Message(13, many, ARROW_HEADERS), Message(15, b"{"), Message(16, GOOD)
    )

    assert [(letter.offset, letter.row, letter.reason) for letter in found] == [
        (11, 0, "null_value"),
        (13, 1, "url_scheme"),
        (13, 3, "url_missing"),
        (15, 0, "bad_json"),
    ]
    for letter in found:
        assert letter.source == "kafka:pairs/3"
        assert letter.partition == 3
        assert letter.sha256 == hashlib.sha256(letter.value or b"").hexdigest()
        assert again(letter) == letter
        assert reason_of(letter) == letter.reason
        assert all(value.decode().isprintable() for _, value in letter.headers)
    assert [letter.value for letter in found][::3] == [None, b"{"]
    row = pa.ipc.open_stream(found[1].value).read_all().select(["url", "text"])
    assert row.to_pylist() == [{"url": b"ftp://x", "text": b"b"}]


def test_a_letter_has_the_headers_that_made_the_original_what_it_is() -> None:
    for headers in (
        [(FORMAT_VERSION, b"2")],
        [(FORMAT_VERSION, None)],
        [(FORMAT_VERSION, b"1" * 100_000)],
        [(CONTENT_TYPE, ARROW_TYPE + b" ;" + b"x" * 100_000), ("other", b"x" * 100_000)],
        [(CONTENT_TYPE, ARROW_TYPE), (CONTENT_TYPE, b"text/plain"), (CONTENT_TYPE, None)],
        [(FORMAT_VERSION, b"1"), (FORMAT_VERSION, b"3")] * 1_000,
    ):
        (letter,) = letters_of(Message(5, GOOD, headers))
        assert letter.value == GOOD
        assert reason_of(letter) == letter.reason
        assert sum(len(name) + len(value) for name, value in letter.headers) < 2_000


def test_a_letter_that_is_too_large_for_a_message_is_cut() -> None:
    value = b"x" * (MAX_MESSAGE_BYTES + 10)
    (letter,) = letters_of(Message(5, value))

    assert letter.reason == "too_large"
    assert letter.value == value[:MAX_MESSAGE_BYTES]
    assert letter.truncated_from == len(value)
    assert letter.sha256 == hashlib.sha256(value).hexdigest()
    assert again(letter) == letter
    (whole,) = letters_of(Message(5, value[:MAX_MESSAGE_BYTES]))
    assert whole.truncated_from is None


def test_previews_are_escaped() -> None:
    (letter,) = letters_of(Message(5, b"\x1b[2J\xff\xe2\x80\xae" + b"x" * 1_000))
    preview = dict(letter.headers)["preview"]
    assert preview.startswith(rb"\x1b[2J\xff\u202e")
    assert len(preview) <= 256


def test_only_what_was_rejected_is_touched() -> None:
    (batch,) = READER.read([Message(offset, b"{" if offset == 900 else GOOD) for offset in range(1_000)])
    _, rejections = batch.part(100, 950).validate()
    (letter,) = dead_letters(batch.part(100, 950), rejections, 3)
    assert (letter.offset, letter.value) == (900, b"{")


def test_what_is_no_letter_is_told() -> None:
    (letter,) = letters_of(Message(5, b"{"))
    for name in ("dead-letter-format", "reason", "offset", "row", "preview"):
        without = [(key, value) for key, value in letter.headers if key != name]
        assert read_dead_letter(Record(b"{", without)) is None
        assert read_dead_letter(Record(b"{", [*without, (name, None)])) is None
        assert read_dead_letter(Record(b"{", [*without, (name, b"\xff")])) is None
    assert read_dead_letter(SimpleNamespace(value=b"{", headers=[], partition=0)) is None
    assert again(replace(letter, reason="a_later_word")) is not None
