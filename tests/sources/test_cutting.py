"""Cutting: limits to the byte, whatever the block; nothing over-long is held."""

from __future__ import annotations

import io

import pytest

from stream_curate.pairs import MAX_RECORD_BYTES
from stream_curate.sources.columns import ColumnChoice
from stream_curate.sources.cutting import RecordCutter, TextInput
from stream_curate.sources.files import ByteStream
from stream_curate.sources.source import MAX_BATCH_BYTES, REJECTED_PREFIX_BYTES

BLOCKS = [100_003, 1 << 20, MAX_RECORD_BYTES, MAX_RECORD_BYTES + 1, MAX_RECORD_BYTES + 2]


def cut(
    data: bytes, separator: int | None = None, block_bytes: int = 1 << 20, max_records: int = 1_000
) -> list[object]:
    """All records, those too large as their number of bytes kept."""
    source = TextInput(ByteStream(io.BytesIO(data), "f"), "f", ColumnChoice(), block_bytes)
    found: list[object] = []
    for n_before, records in RecordCutter(source, separator).cuts(max_records):
        assert n_before == len(found)
        assert 0 < len(records) <= max_records
        for i, too_large in enumerate(records.too_large):
            found.append(len(records.raw(i)) if too_large else records.raw(i))
    return found


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 100])
@pytest.mark.parametrize("max_records", [1, 2, 100])
@pytest.mark.parametrize(
    ("data", "records"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\r\n", [b"a", b"b\r"]),
        (b"a\rb\n\n\nc\r", [b"a\rb", b"", b"", b"c\r"]),
        (b"\r\n", [b""]),
    ],
)
def test_lines(data, records, block_bytes, max_records):
    assert cut(data, None, block_bytes, max_records) == records


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("data", "records"),
    [
        (b'"a\nb",c\nd\n', [b'"a\nb",c', b"d"]),
        (b'"a""\n",c\nd\n', [b'"a""\n",c', b"d"]),
        (b'a"\nb\n', [b'a"', b"b"]),
        (b'a,"\n"\r\nb', [b'a,"\n"', b"b"]),
        (b'"a"x"\nb\n', [b'"a"x"', b"b"]),
        (b'a\n"b\nc\n', [b"a", b'"b\nc\n']),
    ],
)
def test_csv_records(data, records, block_bytes):
    assert cut(data, ord(","), block_bytes) == records


@pytest.mark.parametrize("block_bytes", BLOCKS)
@pytest.mark.parametrize("separator", [None, ord(",")])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_inclusive_and_counts_no_line_end(separator, end, block_bytes):
    longest = b"x" * MAX_RECORD_BYTES
    rest = [b"next"] if end else []
    after = b"next" if end else b""
    assert cut(longest + end + after, separator, block_bytes) == [longest, *rest]
    assert cut(b"x" + longest + end + after, separator, block_bytes) == [REJECTED_PREFIX_BYTES, *rest]
    assert cut(b"first\n" + 5 * longest + end + after, separator, block_bytes) == [
        b"first",
        REJECTED_PREFIX_BYTES,
        *rest,
    ]


@pytest.mark.parametrize("block_bytes", BLOCKS)
def test_a_csv_record_too_large_ends_with_the_line_where_it_became_so(block_bytes):
    # the quote closes later, but nobody waits for that
    swallowed = b'"' + b"x" * (MAX_RECORD_BYTES - 11) + b"\n123456789\n"
    assert len(swallowed) == MAX_RECORD_BYTES + 1
    assert cut(swallowed + b'rest"\nnext\n', ord(","), block_bytes) == [REJECTED_PREFIX_BYTES, b'rest"', b"next"]
    longer = b"\n" * 5 + b'"' + b"x\n" * 400_000
    records = cut(longer, ord(","), block_bytes)
    assert records[:5] == [b""] * 5
    assert records[5] == REJECTED_PREFIX_BYTES
    assert set(records[6:]) == {b"x"}
    assert len(records[6:]) == 400_000 - MAX_RECORD_BYTES // 2


def test_wide_records_are_handed_on_before_a_batch_is_full():
    wide = b"x" * 100_000 + b"\n"
    source = TextInput(ByteStream(io.BytesIO(wide * 1_000), "f"), "f", ColumnChoice())
    sizes = [len(records) for _, records in RecordCutter(source).cuts(1_000)]
    assert sum(sizes) == 1_000
    assert max(sizes) * len(wide) < MAX_BATCH_BYTES + (2 << 20)
