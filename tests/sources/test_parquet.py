"""Parquet: types, row groups, damage in words, bounded batches."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_curate.errors import InputError
from stream_curate.pairs import MAX_RECORD_BYTES
from stream_curate.reasons import Reason
from stream_curate.sources.source import MAX_BATCH_BYTES


@pytest.fixture
def stored(tmp_path, open_one):
    """A parquet source of these columns."""

    def stored(columns, *, choice=None, **options):
        path = tmp_path / "pairs.parquet"
        pq.write_table(pa.table(columns), path, **options)
        return open_one(path, **(choice or {}))

    return stored


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
)
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_every_type_of_text_is_read(type_, use_dictionary, stored, rows_of):
    value_type = type_.value_type if pa.types.is_dictionary(type_) else type_
    plain = pa.array([b"a", None, b"", "é".encode()] * 700, pa.binary())
    values = plain.cast(pa.string()).cast(value_type)
    if value_type is not type_:
        values = values.dictionary_encode().cast(type_)
    source = stored({"url": values, "text": values, "uid": values}, use_dictionary=use_dictionary, row_group_size=1_500)
    rows = rows_of(source, 0, 1_000)
    assert [row[1] for row in rows] == [row[2] for row in rows] == plain.to_pylist()
    assert [row[3]["uid"] for row in rows] == plain.cast(pa.string()).to_pylist()
    assert rows_of(source, 1_499, 1_000) == rows[1_499:]


def test_a_text_column_of_nulls_is_a_missing_text(stored, rows_of):
    source = stored({"url": ["u", "v"], "text": pa.nulls(2)})
    assert [row[1:3] for row in rows_of(source)] == [(b"u", None), (b"v", None)]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2]),
        pa.array([["a"], ["b"]]),
        pa.array([{"a": "b"}, None]),
        pa.array([b"ab", b"cd"], pa.binary(2)),
        pa.array([1, 2]).dictionary_encode(),
    ],
)
@pytest.mark.parametrize("role", ["url", "text"])
def test_another_type_is_a_bad_file(role, values, stored):
    with pytest.raises(InputError, match=rf"pairs.parquet: column {role}, the {role}, holds .*--{role}-column"):
        list(stored({"url": ["u", "v"], "text": ["t", "t"], role: values}).read(0, 10))


def test_kept_values_are_cast_to_text(stored, rows_of):
    columns = {
        "url": ["u"],
        "text": ["t"],
        "uid": pa.array([7], pa.uint64()),
        "f": [0.5],
        "b": [True],
        "d": [datetime.date(2026, 1, 2)],
        "t": pa.array([datetime.datetime(2026, 1, 2, 3)], pa.timestamp("s")),
        "m": [decimal.Decimal("1.50")],
        "x": pa.array([b"ab"], pa.binary(2)),
        "n": pa.nulls(1),
    }
    ((_, _, _, kept, _, _),) = rows_of(stored(columns, choice={"keep": tuple("fbdtmxn")}))
    assert kept == {
        "uid": "7",
        "f": "0.5",
        "b": "true",
        "d": "2026-01-02",
        "t": "2026-01-02 03:00:00.000",
        "m": "1.50",
        "x": "ab",
        "n": None,
    }


def test_a_nested_column_cannot_be_kept_but_a_nested_uid_hurts_nobody_who_did_not_ask(stored, rows_of):
    columns = {"url": ["u"], "text": ["t"], "uid": [[1]]}
    ((_, _, _, kept, _, _),) = rows_of(stored(columns))
    assert kept == {"uid": None}
    with pytest.raises(InputError, match="column uid, which --keep-columns asks for, holds list"):
        rows_of(stored(columns, choice={"keep": ("uid",)}))


def test_a_row_over_the_limit_is_too_large(stored, rows_of):
    longest = "x" * (MAX_RECORD_BYTES - 1)
    rows = rows_of(stored({"url": ["u", "u", "v", None], "text": [longest, longest + "x", None, "t"]}))
    assert [row[4] for row in rows] == [None, Reason.TOO_LARGE, None, None]
    assert rows[1][5] == ("u\t" + longest)[:1_024].encode()
    assert [row[1] for row in rows] == [b"u", None, b"v", None]


def test_wide_rows_come_in_small_batches(stored):
    source = stored({"url": ["u"] * 900, "text": ["x" * 100_000] * 900})
    batches = list(source.read(0, 65_536))
    assert sum(map(len, batches)) == 900
    assert all(records.texts.nbytes <= MAX_BATCH_BYTES + 100_000 for records in batches)


def test_narrow_rows_fill_their_batches(stored):
    source = stored({"url": ["u"] * 10_000, "text": ["t"] * 10_000}, row_group_size=777)
    assert [len(records) for records in source.read(0, 4_000)] == [4_000, 4_000, 2_000]
    assert [len(records) for records in source.read(9_999, 4_000)] == [1]


def _refusal(source):
    n_rows = 0
    try:
        for records in source.read(0, 1_000):
            n_rows += len(records)
    except InputError as refusal:
        return n_rows, str(refusal)
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no parquet file"),
        (b"url\ttext\nu\tt\n", "no parquet file"),
        (b"PAR1", "cut short or damaged"),
        (b"PAR1" + b"\xff" * 100 + b"PAR1", "cut short or damaged"),
        (b"PAR1" + b"\x00" * 100 + b"\x40\x00\x00\x00PAR1", "cut short or damaged"),
        (b"PARE" + b"x" * 100 + b"PARE", "encrypted"),
    ],
)
def test_what_is_no_parquet_is_refused_in_words(data, words, tmp_path, open_one):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(data)
    n_rows, refusal = _refusal(open_one(path))
    assert n_rows == 0
    assert "pairs.parquet" in refusal
    assert words in refusal


def test_a_truncated_parquet_is_refused_in_words(tmp_path, open_one):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"url": ["u"] * 1_000, "text": ["t"] * 1_000}), path)
    whole = path.read_bytes()
    for n_bytes in range(0, len(whole), 17):
        path.write_bytes(whole[:n_bytes])
        assert _refusal(open_one(path))[0] == 0


def test_rows_before_a_damaged_place_are_given(tmp_path, open_one):
    path = tmp_path / "pairs.parquet"
    numbers = np.random.default_rng(1).integers(0, 1 << 60, 10_000).astype(str)
    table = pa.table({"url": numbers, "text": numbers})
    pq.write_table(table, path, row_group_size=2_500, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    n_rows, words = _refusal(open_one(path))
    assert n_rows == 5_000
    assert "pairs.parquet: reading failed" in words
    assert sum(map(len, open_one(path).read(7_500, 1_000))) == 2_500  # a row group behind it is not touched by it


def test_other_columns_are_not_read(tmp_path, open_one, rows_of):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"x": ["a" * 99], "url": ["u"], "text": ["t"]}), path, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    assert [row[1:3] for row in rows_of(open_one(path))] == [(b"u", b"t")]


@pytest.mark.parametrize("columns", [{"link": ["u"], "text": ["t"]}, {"url": ["u"], "text": ["t"], "alt": ["a"]}, {}])
def test_wrong_columns_are_refused(columns, stored):
    n_rows, words = _refusal(stored(columns))
    assert n_rows == 0
    assert "columns found: " in words
