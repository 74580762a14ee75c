"""Ledger records: what was written is read, and what was not is told as such."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka_workers import header_of, made_metadata

from consumers.ledger import (
    MAX_LEDGER_BYTES,
    DamagedRecord,
    LedgerRecord,
    RuleHeader,
    admitted_schema,
    encode_row,
)
from stream_curate import exit_codes
from stream_curate.counting import Counter
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.table.state import Numbers

METADATA = made_metadata()
HEADER = header_of(METADATA)
FINAL_HEADER = header_of(METADATA, final=FinalDecisions(1_000))
COLUMNS = ("entry_ids", "increments", "seen", "coins")


def admitted_of(n: int, kept: tuple[str, ...] = (), text: str = "a dog") -> pa.RecordBatch:
    """Pairs with every second kept value null."""
    more = {name: pa.array(["en", None] * n, pa.string())[:n] for name in dict.fromkeys(["uid", *kept])}
    columns: dict[str, Any] = {
        "pair_id": pa.array([k.to_bytes(16, "big") for k in range(n)], pa.binary(16)),
        "url": [f"http://x.org/{k}" for k in range(n)],
        "text": [text] * n,
        "entry_ids": [list(range(k % 3)) for k in range(n)],
        "source_row": list(range(n)),
        **more,
    }
    return pa.RecordBatch.from_pydict(columns, schema=admitted_schema(kept))


def record_of(admitted: pa.RecordBatch, header: RuleHeader = HEADER, n: int = 3, **changes: Any) -> LedgerRecord:
    made = LedgerRecord(
        header=header,
        partition=1,
        first=65_536,
        next=65_536 * 7 + 3,
        is_last=False,
        view_cut=(0, 2**62),
        numbers=Numbers(n_unique=n, n_duplicate=1, rejected={"bad_json": 2}, n_forwarded=4),
        n_received=2,
        entry_ids=np.arange(n, dtype=np.int32),
        increments=np.arange(1, n + 1, dtype=np.int64) << 40,
        seen=np.arange(n, dtype=np.uint64) + np.uint64(2**64 - n - 1),
        admitted=admitted,
    )
    return replace(made, **changes)


def assert_equal(found: LedgerRecord, wanted: LedgerRecord) -> None:
    for name, value in vars(wanted).items():
        read = getattr(found, name)
        if name in COLUMNS:
            assert read.dtype == value.dtype
            assert read.tolist() == value.tolist()
        elif name == "admitted":
            assert read.equals(value)
            assert read.schema.equals(value.schema)
        else:
            assert read == value, name


@given(
    n=st.integers(0, 20),
    first=st.integers(0, 20),
    length=st.integers(0, 20),
    kept=st.lists(st.sampled_from(["lang", "uid", "width"]), unique=True).map(tuple),
    n_ids=st.integers(0, 5),
    is_last=st.booleans(),
)
def test_what_is_written_is_read(
    n: int, first: int, length: int, kept: tuple[str, ...], n_ids: int, is_last: bool
) -> None:
    """Slices of a batch too, with nulls in kept columns; and records of nothing."""
    header = header_of(METADATA, kept=kept)
    record = record_of(admitted_of(n, kept).slice(first, length), header, n_ids, is_last=is_last)

    assert_equal(LedgerRecord.decode(record.encode(), "here"), record)


@given(n=st.integers(0, 20), n_ids=st.integers(0, 5))
def test_final_decisions_come_with_their_coins(n: int, n_ids: int) -> None:
    coins = np.arange(n_ids, dtype=np.int64) << 30
    record = record_of(admitted_of(n), FINAL_HEADER, n_ids, coins=coins)
    value = record.encode()

    assert_equal(LedgerRecord.decode(value, "here"), record)
    assert orjson.loads(pa.ipc.open_stream(value).schema.metadata[b"stream_curate"])["format"] == 2


def test_provisional_decisions_are_written_as_ever() -> None:
    """So that an older version can read what this one writes."""
    assert HEAD["format"] == 1
    assert "decisions" not in HEAD["header"]


def test_without_dedup_there_are_no_hashes() -> None:
    record = record_of(admitted_of(3), header_of(METADATA, dedup="none"), seen=np.zeros(0, np.uint64))

    assert_equal(LedgerRecord.decode(record.encode(), "here"), record)


def test_any_arrow_reader_can_look_at_it() -> None:
    table = pa.ipc.open_stream(record_of(admitted_of(5)).encode()).read_all()

    assert table.num_rows == 1
    assert table.column_names == ["entry_ids", "increments", "seen", "admitted"]
    assert table.column("admitted")[0][3]["url"].as_py() == "http://x.org/3"
    assert orjson.loads(table.schema.metadata[b"stream_curate"])["next"] == 65_536 * 7 + 3


# --- what is no record

VALUE = record_of(admitted_of(4, ("lang",)), header_of(METADATA, kept=("lang",))).encode()


def error_of(value: bytes) -> DamagedRecord | None:
    """What decoding raises; anything else goes through."""
    try:
        LedgerRecord.decode(value, "ledger, offset 3")
    except DamagedRecord as error:
        return error
    return None


@given(st.data())
def test_damaged_bytes_are_told_as_such_and_nothing_else_happens(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(VALUE) - 1))
    flipped = data.draw(st.integers(1, 255))
    rest = data.draw(st.sampled_from([VALUE[place + 1 :], b"", VALUE[place + 9 :]]))
    for value in (VALUE[:place], VALUE[:place] + bytes([VALUE[place] ^ flipped]) + rest):
        error = error_of(value)
        assert error is None or str(error).startswith("ledger, offset 3 is ")


def test_every_byte_of_the_head_may_be_damaged() -> None:
    """All values of its numbers and words too: a hand at random finds few of these."""
    begin = VALUE.index(b'{"format"')
    end = VALUE.index(b'"n_received"', begin) + 20
    for place in range(begin, end):
        for flipped in (0x01, 0x10, 0x20):
            value = VALUE[:place] + bytes([VALUE[place] ^ flipped]) + VALUE[place + 1 :]
            error_of(value)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_record(value: bytes) -> None:
    with pytest.raises(DamagedRecord, match="here is no record of stream-curate"):
        LedgerRecord.decode(value, "here")


def one_row(**columns: pa.Array) -> tuple[list[str], list[pa.Array]]:
    lists = [pa.ListArray.from_arrays(pa.array([0, len(column)], pa.int32()), column) for column in columns.values()]
    return list(columns), lists


HEAD = orjson.loads(pa.ipc.open_stream(record_of(admitted_of(1)).encode()).schema.metadata[b"stream_curate"])
RIGHT = {
    "entry_ids": pa.array([1], pa.int32()),
    "increments": pa.array([1]),
    "seen": pa.array([1], pa.uint64()),
    "admitted": admitted_of(1).to_struct_array(),
}


@pytest.mark.parametrize(
    ("columns", "head"),
    [
        (RIGHT, []),
        (RIGHT, "a head"),
        (RIGHT, None),
        (RIGHT, HEAD | {"header": 5}),
        (RIGHT, HEAD | {"header": {}}),
        (RIGHT, HEAD | {"header": HEAD["header"] | {"counter": {"kind": "exact", "size": 3}}}),
        (RIGHT, HEAD | {"numbers": {"n_read": 1}}),
        (RIGHT, HEAD | {"view_cut": 7}),
        (RIGHT | {"coins": pa.array([1])}, HEAD | {"format": 2}),
        (RIGHT | {"coins": pa.array([1])}, HEAD | {"header": FINAL_HEADER.as_dict()}),
        (RIGHT, HEAD | {"format": 2, "header": FINAL_HEADER.as_dict()}),
        (RIGHT | {"coins": pa.array([1, 2])}, HEAD | {"format": 2, "header": FINAL_HEADER.as_dict()}),
        (RIGHT, HEAD | {"header": HEAD["header"] | {"kept_columns": ["lang"]}}),
        (RIGHT | {"seen": pa.array(["x"])}, HEAD),
        (RIGHT | {"increments": pa.array([1, 2])}, HEAD),
        (RIGHT | {"increments": pa.array([None], pa.int64())}, HEAD),
        (RIGHT | {"entry_ids": pa.array([1], pa.int64())}, HEAD),
        (RIGHT | {"admitted": pa.array([1])}, HEAD),
        (RIGHT | {"admitted": pa.array([{"url": "http://x.org"}])}, HEAD),
        ({"seen": pa.array([1], pa.uint64())}, HEAD),
        ({}, HEAD),
    ],
)
def test_arrow_streams_of_others_are_no_record(columns: dict[str, pa.Array], head: Any) -> None:
    with pytest.raises(DamagedRecord, match="here is "):
        LedgerRecord.decode(encode_row(*one_row(**columns), head), "here")


def test_another_version_of_the_format_is_told() -> None:
    with pytest.raises(
        DamagedRecord, match="here is of format 3; this program reads formats 1 and 2: use the version"
    ) as told:
        LedgerRecord.decode(encode_row(*one_row(**RIGHT), HEAD | {"format": 3}), "here")
    assert told.value.exit_code == exit_codes.KAFKA


# --- headers


def test_what_differs_in_two_headers_is_told_in_words_t_apart() -> None:
    assert not HEADER.differences(HEADER)
    assert not HEADER.differences(HEADER.replace_threshold(9_999))
    assert HEADER.rule.threshold == 2

    other_metadata = Metadata.from_entries(["zebra"])
    rule = Rule.of(other_metadata, threshold=3, seed=8, counter=Counter("count-min", 2, 16), dedup="none")
    words = HEADER.differences(RuleHeader(rule, 5, ("lang",)))
    assert {line.split(":")[0] for line in words} == {
        "seed_fingerprint",
        "metadata_sha256",
        "dedup",
        "counter",
        "n_partitions",
        "kept_columns",
    }
    assert f"metadata_sha256: {other_metadata.fingerprint} there, {METADATA.fingerprint} here" in words
    assert "n_partitions: 5 there, 2 here" in words


def test_final_decisions_agree_in_everything() -> None:
    assert not FINAL_HEADER.differences(FINAL_HEADER)
    (words,) = FINAL_HEADER.differences(FINAL_HEADER.replace_threshold(9_999))
    assert words == "threshold: 9999 there, 2 here"
    (words,) = FINAL_HEADER.differences(HEADER)
    assert words.startswith("decisions: provisional there, {")
    (words,) = HEADER.differences(FINAL_HEADER)
    assert words.endswith(" there, provisional here")
    for other in (FinalDecisions(1_001), FinalDecisions(1_000, "known")):
        (words,) = FINAL_HEADER.differences(header_of(METADATA, final=other))
        assert words.startswith('decisions: {"kind":"final","pool_size":')


def test_a_header_is_as_it_was_written() -> None:
    header = RuleHeader(
        Rule.of(METADATA, threshold=3, seed=8, counter=Counter("count-min", 2, 16), dedup="none"), 5, ("lang", "uid")
    )

    for each in (header, FINAL_HEADER):
        assert RuleHeader.from_dict(orjson.loads(orjson.dumps(each.as_dict()))) == each


# --- sizes


@given(
    n=st.integers(0, 3_000),
    first=st.integers(0, 300),
    length=st.integers(0, 300),
    text_bytes=st.sampled_from([0, 1, 100, 10_000]),
    n_ids=st.integers(0, 5_000),
)
@example(n=3_000, first=0, length=0, text_bytes=1, n_ids=0)
def test_the_columns_are_at_least_what_a_record_takes_but_for_its_head(
    n: int, first: int, length: int, text_bytes: int, n_ids: int
) -> None:
    """Decision divides ranges by `nbytes`: it must not be far below the truth, for slices either."""
    record = record_of(admitted_of(n, text="a" * text_bytes).slice(first, length), n=n_ids)

    assert len(record.encode()) <= 1.25 * record.nbytes + 8_192


def test_what_decision_leaves_whole_fits_into_a_message() -> None:
    half = MAX_LEDGER_BYTES // 2
    of_many_rows = admitted_of(90_000, ("lang",), text="a" * 40)
    of_long_texts = admitted_of(120, text="a" * 65_536)
    for admitted in (of_many_rows, of_long_texts):
        record = record_of(admitted, header_of(METADATA, kept=("lang",)) if "lang" in admitted.schema.names else HEADER)
        n_fitting = min(len(admitted), int(0.99 * half * len(admitted) / record.nbytes))
        fitting = replace(record, admitted=admitted.slice(0, n_fitting))
        assert half * 0.8 < fitting.nbytes <= half
        assert len(fitting.encode()) < MAX_LEDGER_BYTES


def test_so_many_entries_and_partitions_fit_too() -> None:
    n = MAX_LEDGER_BYTES // 2 // 20
    record = record_of(admitted_of(0), n=n, view_cut=(2**62,) * 10_000)

    assert record.nbytes <= MAX_LEDGER_BYTES // 2
    assert len(record.encode()) < MAX_LEDGER_BYTES
