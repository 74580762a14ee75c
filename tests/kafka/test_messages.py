"""Messages read as what they are, and nothing in one is ever an error."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hostile_messages import (
    GOOD,
    HOSTILE,
    LARGE,
    ODD,
    URL,
    HostileMessage,
    Message,
    arrow,
    hostile_messages,
    odd_messages,
    stream,
)
from hypothesis import example, given

from consumers import messages
from consumers.messages import (
    ARROW_HEADERS,
    ARROW_TYPE,
    CONTENT_TYPE,
    FORMAT_VERSION,
    FORWARDED_FROM,
    JSON_TYPE,
    MAX_ARROW_BYTES,
    MAX_ARROW_ROWS,
    MessageReader,
    ReadBatch,
    encode_arrow,
    encode_json,
    home,
    message_columns,
    n_records,
    offset_and_row,
    position,
)
from stream_curate.errors import UsageError
from stream_curate.pairs import MAX_RECORD_BYTES, make_pairs, validate
from stream_curate.reasons import REJECTED, Reason
from stream_curate.settings import Settings
from stream_curate.sources import ColumnChoice

READER = MessageReader("pairs", 3)


def reasons(value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = (), **choice: Any) -> list[str | None]:
    """The reason of each record of a message, None for a valid pair."""
    batch = MessageReader("pairs", 3, ColumnChoice(**choice)).decode(value, headers)
    _, rejections = batch.validate()
    found: list[str | None] = [None] * len(batch)
    for rejection in rejections:
        found[offset_and_row(rejection.source_row)[1]] = str(rejection.reason)
    return found


# --- the same pairs as in files


def test_messages_of_both_kinds_give_the_pairs_of_the_files(
    golden_records: Callable[[str], list[Any]],
) -> None:
    for records in golden_records("both, then the first 100 rows of gcc-validation.tsv again"):
        pairs, _ = validate(records)
        as_json = [Message(i, value) for i, value in enumerate(encode_json(pairs))]
        as_arrow = [Message(i, encode_arrow(pairs.slice(i * 4_096, 4_096))) for i in range(-(-pairs.num_rows // 4_096))]
        for sent in (as_json, as_arrow):
            read = [batch.validate() for batch in READER.read(sent, 5_000)]
            assert not any(rejections for _, rejections in read)
            table = pa.Table.from_batches([found for found, _ in read])
            for name in ("pair_id", "url", "text"):
                assert table.column(name).to_pylist() == pairs.column(name).to_pylist()


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_ROW = st.tuples(_TEXT, st.none() | _TEXT, st.none() | _TEXT)


@given(st.lists(_ROW, min_size=1, max_size=20), st.sampled_from(["json", "arrow"]))
def test_what_is_encoded_is_decoded(rows: list[tuple[str, str | None, str | None]], kind: str) -> None:
    urls = [f"http://x.org/{''.join(c for c in name if c.isprintable())}" for name, _, _ in rows]
    pairs = make_pairs(urls, [text for _, text, _ in rows])
    pairs = pairs.append_column("uid", pa.array([uid for _, _, uid in rows], pa.string()))
    values = encode_json(pairs) if kind == "json" else [encode_arrow(pairs)]

    (batch,) = READER.read([Message(i, value) for i, value in enumerate(values)])
    found, rejections = batch.validate()

    assert not rejections
    for name in ("pair_id", "url", "text", "uid"):
        assert found.column(name).to_pylist() == pairs.column(name).to_pylist()


def test_the_url_and_text_of_messages_have_the_same_names_as_in_files() -> None:
    for url in ("url", "URL", "image_url", "image_urls"):
        for text in ("text", "caption", "Captions", "alt"):
            assert reasons(json.dumps({url: URL, text: "a"}).encode()) == [None]
            assert reasons(arrow(**{url: [URL], text: ["a"]})) == [None]
    twice = {"url": URL, "text": "a", "caption": "b"}
    assert reasons(json.dumps(twice).encode()) == ["bad_schema"]
    assert reasons(arrow(**{name: [value] for name, value in twice.items()})) == ["bad_schema"]


def test_other_fields_are_kept_on_demand() -> None:
    reader = MessageReader("pairs", 0, ColumnChoice(keep=("n", "lang")))
    in_json = b'{"url": "http://x.org/1", "text": "a", "N": 1.50, "uid": 7, "other": {"a": [1]}}'
    in_arrow = arrow(url=[URL], text=["a"], N=[7], lang=pa.array([b"\xff"]), more=[{"a": 1}], uid=[1])

    (batch,) = reader.read([Message(0, in_json), Message(1, in_arrow)])

    pairs, _ = batch.validate()
    assert pairs.select(["uid", "n", "lang"]).to_pylist() == [
        {"uid": "7", "n": "1.50", "lang": None},
        {"uid": "1", "n": "7", "lang": "\ufffd"},
    ]


def test_kept_names_that_stand_for_url_or_text_are_refused() -> None:
    assert message_columns(Settings(url_column="link", keep_columns=("lang",))) == ColumnChoice(keep=("lang",))
    with pytest.raises(UsageError, match="Alt: in a message this is the name"):
        message_columns(Settings(keep_columns=("lang", "Alt")))


# --- positions, homes, originals


def test_home_is_the_first_8_bytes_mod_p() -> None:
    ids = [bytes(range(i, i + 16)) for i in range(50)] + [b"\xff" * 16, bytes(16)]
    column = pa.array(ids, pa.binary(16))
    for n_partitions in (1, 3, 8, 1_000):
        expected = [int.from_bytes(each[:8], "big") % n_partitions for each in ids]
        assert home(column, n_partitions).tolist() == expected
        assert home(column[7:31], n_partitions).tolist() == expected[7:31]
    assert home(column[:0], 3).tolist() == []


def test_every_record_has_its_position_and_its_original_bytes() -> None:
    many = arrow(url=[URL, "ftp://x", URL], text=["a", "b", None])
    one = arrow(url=["ftp://y"], text=["c"])
    sent = [
        Message(10, GOOD),
        Message(11, None),
        Message(13, many, ARROW_HEADERS),  # offsets have holes
        Message(14, arrow(url=pa.array([], pa.string()), text=pa.array([], pa.string()))),
        Message(15, b"{"),
        Message(20, one),
    ]
    (batch,) = READER.read(sent)
    pairs, rejections = batch.validate()

    assert [offset_and_row(place) for place in batch.positions.tolist()] == [
        (10, 0),
        (11, 0),
        (13, 0),
        (13, 1),
        (13, 2),
        (15, 0),
        (20, 0),
    ]
    assert pairs.column("source_row").to_pylist() == [position(10), position(13, 0), position(13, 2)]
    assert set(pairs.column("source").to_pylist()) == {"kafka:pairs/3"}
    assert [(each.source_row, str(each.reason)) for each in rejections] == [
        (position(11), "null_value"),
        (position(13, 1), "url_scheme"),
        (position(15), "bad_json"),
        (position(20), "url_scheme"),
    ]
    raw = batch.records.raw
    assert [raw[i] for i in (0, 1, 5, 6)] == [GOOD, b"", b"{", one]
    again = READER.decode(raw[3])
    assert (again.records.urls.to_pylist(), again.records.texts.to_pylist()) == ([b"ftp://x"], [b"b"])


def test_a_row_that_is_no_utf8_has_an_original_that_says_the_same() -> None:
    value = arrow(url=pa.array([URL.encode()] * 3), text=pa.array([b"a", b"\xff", None]))
    batch = READER.decode(value)

    assert reasons(value) == [None, "invalid_utf8", None]
    assert reasons(batch.records.raw[1]) == ["invalid_utf8"]


def test_the_original_of_a_row_does_not_tell_of_the_batch_it_was_read_in() -> None:
    many = arrow(url=["ftp://x"] * 9, text=["a", None] * 4 + ["b"], uid=[None, *["1"] * 7, None])
    sent = [Message(0, GOOD), Message(1, many), Message(2, GOOD)]
    (alone,), (among,) = READER.read(sent[1:2]), READER.read(sent)

    assert [alone.records.raw[i] for i in range(9)] == [among.records.raw[i + 1] for i in range(9)]


@given(st.data())
def test_a_part_is_what_was_read_there(data: st.DataObject) -> None:
    kinds = st.sampled_from([GOOD, b"{", None, arrow(url=[URL, ""], text=["a", "b"])])
    values = data.draw(st.lists(kinds, min_size=1, max_size=6))
    (whole,) = READER.read([Message(i, value) for i, value in enumerate(values)])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))

    part = whole.part(start, stop)

    places = set(whole.positions[start:stop].tolist())
    assert set(part.positions.tolist()) == places
    assert _outcome(part) == [each for each in _outcome(whole) if each[0] in places]
    assert dict(part.records.raw) == {i - start: raw for i, raw in whole.records.raw.items() if start <= i < stop}


@pytest.mark.parametrize("n_records", [1, 2, 3, 100])
def test_batches_are_of_about_the_size_asked_for(n_records: int) -> None:
    sent = [Message(i, GOOD if i % 3 else arrow(url=[URL] * 5, text=["a"] * 5)) for i in range(10)]
    batches = list(READER.read(sent, n_records))

    assert all(n_records <= len(batch) < n_records + 5 for batch in batches[:-1])
    (whole,) = READER.read(sent)
    assert np.concatenate([batch.positions for batch in batches]).tolist() == whole.positions.tolist()


def _outcome(batch: ReadBatch) -> list[tuple[int, str]]:
    pairs, rejections = batch.validate()
    found = [(row, "pair") for row in pairs.column("source_row").to_pylist()]
    return sorted(found + [(each.source_row, str(each.reason)) for each in rejections])


def test_what_was_forwarded_is_known_of_every_record() -> None:
    many = arrow(url=[URL] * 3, text=["a", "b", "c"])
    sent = [
        Message(0, GOOD),
        Message(1, many, [*ARROW_HEADERS, (FORWARDED_FROM, b"2")]),
        Message(2, many, ARROW_HEADERS),
        Message(3, arrow(url=[], text=[]), [(FORWARDED_FROM, b"2")]),
        Message(4, None, [("x", None), (FORWARDED_FROM, None)]),
    ]
    (batch,) = READER.read(sent)
    assert batch.was_forwarded.tolist() == [False, True, True, True, False, False, False, True]
    assert batch.part(2, 8).was_forwarded.tolist() == batch.was_forwarded[2:].tolist()
    assert batch.was_forwarded.dtype == np.bool_


# --- which kind a message is


def test_a_header_or_the_first_bytes_tell_the_kind() -> None:
    many = arrow(url=[URL] * 2, text=["a"] * 2)
    for value in (b"application/json; charset=utf-8", b" APPLICATION/JSON ", None, b"text/plain", b""):
        assert reasons(GOOD, [(CONTENT_TYPE, value)]) == [None]
    for header in (ARROW_TYPE, b"application/octet-stream", None):
        assert reasons(many, [("x", None), (CONTENT_TYPE, header)]) == [None, None]
    assert reasons(GOOD, [(CONTENT_TYPE, ARROW_TYPE)]) == ["bad_arrow"]
    assert reasons(many, [(CONTENT_TYPE, JSON_TYPE)]) == ["bad_json"]
    assert reasons(many, [(CONTENT_TYPE, JSON_TYPE), (CONTENT_TYPE, ARROW_TYPE)]) == [None, None]


def test_another_version_is_refused() -> None:
    assert reasons(GOOD, [(FORMAT_VERSION, b"1")]) == [None]
    for version in (b"2", b"", None, b"1.0"):
        assert reasons(GOOD, [(FORMAT_VERSION, version)]) == ["bad_schema"]
        assert reasons(arrow(url=[URL], text=["a"]), [(FORMAT_VERSION, version)]) == ["bad_schema"]


# --- what is rejected


def test_a_null_value_is_a_rejection() -> None:
    assert reasons(None) == ["null_value"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xef\xbb\xbf" + GOOD, "bad_json"),
        (b"[]", "json_not_object"),
        (b"null", "json_not_object"),
        (b'{"url": "http://x.org/1", "n": NaN}', "json_nan"),
        (b'{"url": "http://x.org/1", "url": "http://x.org/1"}', "json_duplicate_key"),
        (b'{"url": "http://x.org/1", "text": "\\ud800"}', "json_surrogate"),
        (b'{"url": "http://x.org/1", "n": ' + b"1" * 5_000 + b"}", "json_number"),
        (b'{"url": "http://x.org/1", "n": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "json_depth"),
        (b'{"url": "http://x.org/\xff"}', "invalid_utf8"),
        (b'{"text": "a"}', "url_missing"),
        (b'{"url": "", "text": "a"}', "url_missing"),
        (b'{"url": 5}', "bad_schema"),
        (b'{"url": "javascript:x"}', "url_scheme"),
        (b'{"url": "http://x.org/\\u0000"}', "url_malformed"),
        (b'{"url": "http://x.org/1"}', None),
        (b'{"url": "http://x.org/1", "text": null}', None),
        (b'{"url": "http://x.org/1", "text": "' + b"a" * 65_537 + b'"}', "text_too_long"),
        (GOOD + b" " * (MAX_RECORD_BYTES - len(GOOD)), None),
        (GOOD + b" " * (MAX_RECORD_BYTES - len(GOOD) + 1), "too_large"),
        (b"[" * (MAX_RECORD_BYTES + 1), "too_large"),
    ],
)
def test_json_outcomes(value: bytes, reason: str | None) -> None:
    assert reasons(value) == [reason]


def _extension() -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array([URL]))


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"text": ["a"]}, id="no url"),
        pytest.param({"url": [URL]}, id="no text"),
        pytest.param({"url": [URL], "text": ["a"], "alt": ["b"]}, id="two texts"),
        pytest.param({"url": pa.array([URL]).dictionary_encode(), "text": ["a"]}, id="dictionary"),
        pytest.param({"url": [[URL]], "text": ["a"]}, id="list"),
        pytest.param({"url": [{"url": URL}], "text": ["a"]}, id="struct"),
        pytest.param({"url": [5], "text": ["a"]}, id="number"),
        pytest.param({"url": pa.array([b"x" * 9], pa.binary(9)), "text": ["a"]}, id="fixed size"),
        pytest.param({"url": _extension(), "text": ["a"]}, id="extension"),
        pytest.param({"url": pa.RunEndEncodedArray.from_arrays([1], [URL]), "text": ["a"]}, id="run ends"),
    ],
)
def test_columns_that_are_no_text_are_a_bad_schema(columns: dict[str, Any]) -> None:
    assert reasons(arrow(**columns)) == ["bad_schema"]


def test_an_extension_that_nobody_knows_is_a_bad_schema() -> None:
    field = pa.field("url", pa.string(), metadata={"ARROW:extension:name": "who.knows"})
    assert reasons(stream(pa.table([[URL], ["a"]], pa.schema([field, pa.field("text", pa.string())])))) == [
        "bad_schema"
    ]


def test_a_kept_column_must_be_plain_where_it_was_asked_for() -> None:
    nested = arrow(url=[URL], text=["a"], uid=[{"a": 1}], tags=pa.array(["x"]).dictionary_encode())
    assert reasons(nested) == [None]
    assert reasons(nested, keep=("tags",)) == ["bad_schema"]
    assert reasons(nested, keep=("uid",)) == ["bad_schema"]
    assert reasons(nested, keep=("none",)) == [None]


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
)
def test_every_type_of_text_is_read(type_: pa.DataType) -> None:
    urls = pa.array([URL.encode(), None, b"http://x.org/\xff"], pa.binary())
    texts = pa.array([b"a" * 100, b"b", b"c"], pa.binary())
    wide = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    columns = [column.cast(wide.get(type_, type_)).view(type_) for column in (urls, texts)]

    batch = READER.decode(stream(pa.table(columns, names=["url", "text"])))

    assert batch.records.urls.to_pylist() == urls.to_pylist()
    assert batch.records.texts.to_pylist() == texts.to_pylist()
    assert [str(each.reason) for each in batch.validate()[1]] == ["url_missing", "invalid_utf8"]


def test_a_null_column_is_missing_text() -> None:
    assert reasons(arrow(url=[URL, URL], text=pa.nulls(2))) == [None, None]
    assert reasons(arrow(url=pa.nulls(2), text=["a", "b"])) == ["url_missing", "url_missing"]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_bodies_are_refused_before_they_are_unpacked(codec: str) -> None:
    small = pa.table({"url": [URL], "text": ["a" * 1_000]})
    assert reasons(stream(small, compression=codec)) == ["too_large"]
    bomb = stream(pa.table({"url": [URL], "text": pa.array(["a" * (64 * 1024 * 1024)])}), compression=codec)
    assert len(bomb) < 1024 * 1024
    before = pa.total_allocated_bytes()
    assert reasons(bomb) == ["too_large"]
    assert pa.total_allocated_bytes() - before < 1024 * 1024
    words = pa.table({"url": [URL], "text": ["a"], "x": pa.array(["b" * 1_000]).dictionary_encode()})
    assert reasons(stream(words, compression=codec)) == ["too_large"]


def test_about_how_many_records_a_message_is() -> None:
    assert n_records(arrow(url=[URL] * 300, text=["a"] * 300)) == 300
    assert n_records(arrow(url=pa.nulls(0, pa.string()), text=pa.nulls(0, pa.string()))) == 1
    assert n_records(GOOD) == 1
    nulls = arrow(url=pa.nulls(77), text=pa.nulls(77))
    assert n_records(nulls.replace(struct.pack("<q", 77), struct.pack("<q", 2**40))) == MAX_ARROW_ROWS
    damaged = [b"", *(bytes([255] * n) for n in (1, 4, 400)), bytes([255] * 4 + [0] * 300), nulls[:-1], nulls + b"x"]
    assert list(map(n_records, damaged)) == [1] * len(damaged)


def test_more_rows_or_bytes_than_a_message_may_have_are_too_large() -> None:
    at_limit = arrow(url=[URL] * MAX_ARROW_ROWS, text=pa.nulls(MAX_ARROW_ROWS))
    assert reasons(at_limit) == [None] * MAX_ARROW_ROWS
    assert reasons(arrow(url=[URL] * (MAX_ARROW_ROWS + 1), text=pa.nulls(MAX_ARROW_ROWS + 1))) == ["too_large"]
    # columns that are null have rows without bytes: 77 of them, said to be many
    nulls = arrow(url=pa.nulls(77), text=pa.nulls(77))
    assert reasons(nulls.replace(struct.pack("<q", 77), struct.pack("<q", 2**40))) == ["too_large"]
    length_of_batch = nulls.rindex(struct.pack("<q", 77), 0, nulls.index(struct.pack("<qq", 77, 77)))
    in_columns_only = nulls.replace(struct.pack("<q", 77), struct.pack("<q", 2**40))
    in_columns_only = _with(in_columns_only, length_of_batch, struct.pack("<q", 77))
    assert reasons(in_columns_only) == ["bad_arrow"]
    in_pieces = pa.table({"url": [URL] * 40_000, "text": [""] * 40_000})
    assert reasons(stream(pa.concat_tables([in_pieces, in_pieces]))) == ["too_large"]
    assert reasons(arrow(url=[URL], text=["a" * MAX_ARROW_BYTES])) == ["too_large"]
    assert reasons(arrow(url=[URL], text=["a"], more=["a" * MAX_ARROW_BYTES])) == ["too_large"]
    with pytest.raises(ValueError, match="too much for one message"):
        encode_arrow(make_pairs([f"{URL}{i}" for i in range(MAX_ARROW_ROWS + 1)], [""] * (MAX_ARROW_ROWS + 1)))


def test_views_that_show_the_same_bytes_many_times_are_too_large() -> None:
    text = b"a" * 60_000
    view = struct.pack("<i4sii", len(text), text[:4], 0, 0)
    texts = pa.Array.from_buffers(pa.binary_view(), 1_000, [None, pa.py_buffer(view * 1_000), pa.py_buffer(text)])
    value = arrow(url=[URL] * 1_000, text=texts)

    assert len(value) < 200_000
    assert reasons(value) == ["too_large"]


def test_a_pair_over_the_limit_is_rejected_alone() -> None:
    assert reasons(arrow(url=[URL, URL], text=["a" * MAX_RECORD_BYTES, "b"])) == ["too_large", None]


def _with(value: bytes, place: int, piece: bytes) -> bytes:
    return value[:place] + piece + value[place + len(piece) :]


def test_every_truncation_of_an_arrow_message_is_bad_arrow() -> None:
    value = arrow(url=[URL] * 3, text=["a dog", "b", None])
    for n_bytes in range(4, len(value)):
        assert reasons(value[:n_bytes]) == ["bad_arrow"], n_bytes
    assert reasons(value + b"\0") == ["bad_arrow"]
    assert reasons(value + value) == ["bad_arrow"]


@pytest.mark.parametrize("offsets", [(0, 5, 1_000_000_000), (0, 9, 5), (-1, 5, 9), (0, -5, 9)])
def test_offsets_that_point_elsewhere_are_bad_arrow(offsets: tuple[int, int, int]) -> None:
    good = arrow(url=["abcde", "fghi"], text=["a", "b"])
    place = good.index(struct.pack("<iii", 0, 5, 9))

    assert reasons(good) == ["url_scheme", "url_scheme"]
    assert reasons(_with(good, place, struct.pack("<iii", *offsets))) == ["bad_arrow"]


def test_a_column_name_that_is_no_text_is_bad_arrow() -> None:
    good = arrow(url=["abcde"], text=["a"], name=["b"])
    assert reasons(good.replace(b"name", b"n\xffme")) == ["bad_arrow"]


@given(st.binary(max_size=400), st.sampled_from([None, JSON_TYPE, ARROW_TYPE]), st.booleans())
@example(b"\xff\xff\xff\xff\xff\xff\xff\xff", None, False)
@example(b"\xff\xff\xff\xff\x00\x00\x00\x00", None, False)
def test_random_bytes_are_never_an_error(value: bytes, content_type: bytes | None, marked: bool) -> None:
    headers = [] if content_type is None else [(CONTENT_TYPE, content_type)]
    _look(READER.decode(b"\xff\xff\xff\xff" * marked + value, headers))


VALID = [
    GOOD,
    b'{"url": "http://x.org/1", "caption": "\\u00e9 \\ud83d\\ude00", "uid": [1, {"a": null}], "n": 1e5}',
    arrow(url=[URL, None], text=["a dog", "\u00e9"]),
    arrow(
        url=pa.array([URL] * 3, pa.large_string()), text=pa.array(["a" * 50] * 3, pa.string_view()), uid=[1, 2, None]
    ),
    arrow(url=[URL], text=["a"], tag=pa.array(["x"]).dictionary_encode(), nested=[[{"a": 1}]], uid=[1.5]),
    stream(pa.table({"url": [URL] * 2, "text": ["a", "b"]}), compression="zstd"),
    stream(pa.concat_tables([pa.table({"url": [URL] * 2, "text": ["a", "b"]})] * 3)),
]


@given(st.data())
def test_mutated_messages_are_never_an_error(data: st.DataObject) -> None:
    value = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(value) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "number", "cut", "repeat", "drop"]))
        if kind == "flip":
            value[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            value[place] = data.draw(st.integers(0, 255))
        elif kind == "number":
            number = data.draw(st.sampled_from([-1, 0, 1, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63)]))
            value[place : place + 8] = struct.pack("<q", number)
        elif kind == "cut":
            del value[place:]
        elif kind == "repeat":
            value[place:place] = value[place : place + data.draw(st.integers(1, 64))]
        else:
            del value[place : place + data.draw(st.integers(1, 16))]
        if not value:
            break
    _look(MessageReader("pairs", 0, ColumnChoice(keep=("n", "uid"))).decode(bytes(value)))


@pytest.mark.slow
def test_no_flipped_byte_is_an_error() -> None:
    for value in VALID[2:]:
        for place in range(len(value)):
            for by in (0x01, 0x80, 0xFF):
                _look(READER.decode(_with(value, place, bytes([value[place] ^ by]))))


def test_every_hostile_message_is_rejected_for_its_reason(rng: np.random.Generator) -> None:
    found = hostile_messages(rng, len(HOSTILE) + len(LARGE))
    assert {each.kind for each in found} == {*HOSTILE, *LARGE}
    assert all(each.reasons for each in found)
    _come_out(found)
    # bad_row and what is no rejection apart, every reason there is
    rejected = {reason for each in found for reason in each.reasons}
    assert rejected == set(REJECTED) - {Reason.BAD_ROW}


def test_every_odd_message_is_valid(rng: np.random.Generator) -> None:
    found = odd_messages(rng, len(ODD))
    assert {each.kind for each in found} == set(ODD)
    _come_out(found)


def _come_out(found: list[HostileMessage]) -> None:
    """Each by itself, and all in one batch, as it is said of them."""
    for each in found:
        batch = READER.decode(each.value, each.headers)
        pairs, rejections = batch.validate()
        counted = Counter(rejection.reason for rejection in rejections)
        assert (each.kind, len(batch), counted) == (each.kind, each.n_records, each.reasons)
        assert len(pairs) == each.n_records - each.reasons.total()
    sent = [Message(i, each.value, each.headers) for i, each in enumerate(found)]
    rejections = [rejection for batch in READER.read(sent) for rejection in batch.validate()[1]]
    counted = Counter(rejection.reason for rejection in rejections)
    assert counted == sum((each.reasons for each in found), Counter())


def _look(batch: ReadBatch) -> None:
    """Touch all that was read: every record is a pair or has a reason, and can be written again."""
    pairs, rejections = batch.validate()
    assert len(pairs) + len(rejections) == len(batch) <= MAX_ARROW_ROWS
    pairs.validate(full=True)
    assert {each.reason for each in rejections} <= set(Reason)
    assert len(batch) == 0 or batch.records.raw[len(batch) - 1] is not None
    if len(pairs):
        assert len(messages.encode_json(pairs)) == len(pairs)
        encode_arrow(pairs)


def test_a_row_whose_kept_columns_are_larger_than_a_json_message_may_be_is_rejected() -> None:
    reader = MessageReader("pairs", 0, ColumnChoice(keep=("page",)))
    table = pa.table({"url": [URL, URL, URL], "text": ["a dog"] * 3, "page": ["x", "x" * MAX_RECORD_BYTES, None]})
    pairs, rejections = reader.decode(stream(table)).validate()
    assert pairs.column("source_row").to_pylist() == [0, 2]
    assert [(each.reason, each.source_row) for each in rejections] == [(Reason.TOO_LARGE, 1)]
