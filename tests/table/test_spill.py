"""What is put aside comes back as it was, once, from memory or from the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from stream_curate.table import spill
from stream_curate.table.spill import Spill

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("entry_ids", pa.list_(pa.int32()))])


def batch(number: int, n_rows: int = 7) -> pa.RecordBatch:
    rows = [{"text": f"{number} {row} caf\u00e9", "entry_ids": list(range(row))} for row in range(n_rows)]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


@pytest.fixture(params=[0, 1_000, 10**9], ids=["all on the disk", "some on the disk", "all in memory"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Spill]:
    monkeypatch.setattr(spill, "MAX_BYTES_IN_MEMORY", request.param)
    made = Spill(tmp_path / "waiting.arrow", SCHEMA)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_all_comes_back_once_in_its_order(rows: Spill) -> None:
    for first in (0, 9):
        assert not rows
        batches = [batch(first + number) for number in range(9)]
        for each in batches:
            rows.add(each)
        assert rows
        assert list(rows.take()) == batches
        assert list(rows.take()) == []


def test_a_part_of_a_batch_comes_back_as_that_part(rows: Spill) -> None:
    whole = batch(1, 100)
    for start in range(0, 100, 10):
        rows.add(whole.slice(start, 10))
    assert pa.Table.from_batches(rows.take()) == pa.Table.from_batches([whole])


def test_its_size_is_known(rows: Spill) -> None:
    sizes = []
    for number in range(9):
        rows.add(batch(number))
        sizes.append(rows.n_bytes)
    assert sizes == [batch(0).get_total_buffer_size() * (number + 1) for number in range(9)]


def test_what_is_not_taken_is_forgotten(rows: Spill) -> None:
    for number in range(9):
        rows.add(batch(number))
    rows.close()
    assert not rows
