"""Rows sorted into files by how long they may stay, each with what guards them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_curate.ahead import InTurn
from stream_curate.balance import EVICTED, N_OUTLOOKS, Guard, Prospects
from stream_curate.checked_file import DiskQueue
from stream_curate.table import data_files
from stream_curate.table.data_files import (
    GuardOfMany,
    SortedFiles,
    checkpoint_of,
    class_of,
    in_schema,
    read_batches,
    table_schema,
)

SCHEMA = table_schema(())


def rows(first: int, n: int) -> pa.RecordBatch:
    """Rows that can be told apart by `source_row`."""
    columns = {
        "pair_id": pa.array([b"%016d" % i for i in range(first, first + n)]),
        "url": pa.array(["http://x.org"] * n),
        "text": pa.array(["a dog"] * n),
        "entry_ids": pa.array([[1, 2]] * n),
        "source": pa.array(["memory:one"] * n),
        "source_row": pa.array(range(first, first + n)),
    }
    return in_schema(pa.record_batch(columns), SCHEMA)


def prospects(classes: list[int]) -> Prospects:
    """The row at i relies on entry i with a draw of (i + 1) / 100."""
    n = len(classes)
    return Prospects(np.array(classes, np.int8), np.arange(n, dtype=np.int32), np.arange(1, n + 1) / 100)


def rows_in(path: Path) -> list[int]:
    return [row for batch in read_batches(path, ["source_row"]) for row in batch.column(0).to_pylist()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "aside").mkdir()
    (tmp_path / "table").mkdir()
    return tmp_path


def test_rows_go_to_the_file_of_their_class_and_the_evicted_nowhere(folder: Path) -> None:
    with closing(InTurn("encode")) as encoder, closing(DiskQueue()) as disk:
        files = SortedFiles(folder / "aside", SCHEMA, "000000000001", encoder, disk)
        files.write(rows(0, 6), prospects([2, EVICTED, 0, 2, N_OUTLOOKS - 1, 0]))
        files.write(rows(6, 2), prospects([EVICTED, EVICTED]))
        files.write(rows(8, 2), None)
        found = files.finish()
        disk.wait()
        files.move_into(folder / "table")
    by_class = {class_of(file): file for file in found}
    assert {checkpoint_of(file.name) for file in found} == {1}
    assert {which: rows_in(folder / "table" / file.name) for which, file in by_class.items()} == {
        0: [2, 5],
        2: [0, 3],
        N_OUTLOOKS - 1: [4],
        None: [8, 9],
    }
    assert [file.n_rows for file in by_class.values()] == [len(rows_in(folder / "table" / f.name)) for f in found]
    guard = found[by_class[2]]
    assert guard is not None
    assert dict(zip(guard.entry_ids.tolist(), guard.draws.tolist(), strict=True)) == {0: 0.01, 3: 0.04}
    assert found[by_class[None]] is None
    assert not list((folder / "aside").iterdir())


def test_only_what_lasts_is_compressed(folder: Path) -> None:
    with closing(InTurn("encode")) as encoder, closing(DiskQueue()) as disk:
        files = SortedFiles(folder / "aside", SCHEMA, "000000000001", encoder, disk)
        files.write(rows(0, N_OUTLOOKS), prospects(list(range(N_OUTLOOKS))))
        files.write(rows(9, 1), None)
        for file in files.finish():
            with pq.ParquetFile(folder / "aside" / file.name) as opened:
                compression = opened.metadata.row_group(0).column(1).compression
            lasts = class_of(file) in (None, N_OUTLOOKS - 1)
            assert compression == ("ZSTD" if lasts else "UNCOMPRESSED"), file.name


def test_a_file_taken_out_is_not_moved(folder: Path) -> None:
    with closing(InTurn("encode")) as encoder, closing(DiskQueue()) as disk:
        files = SortedFiles(folder / "aside", SCHEMA, "000000000001", encoder, disk)
        files.write(rows(0, 2), prospects([0, 1]))
        first, second = files.finish()
        files.take_out(first)
        files.move_into(folder / "table")
    assert [path.name for path in folder.rglob("*.parquet")] == [second.name]


def test_rows_sorted_before_keep_their_class(folder: Path) -> None:
    with closing(InTurn("encode")) as encoder, closing(DiskQueue()) as disk:
        files = SortedFiles(folder / "aside", SCHEMA, "000000000001", encoder, disk)
        files.write_as(rows(0, 2), 1)
        files.write_as(rows(2, 1), None)
        assert sorted((class_of(file) is None, file.n_rows) for file in files.finish()) == [(False, 2), (True, 1)]


def test_rows_of_all_classes_together_wait_in_bounded_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "ROW_GROUP_ROWS", 10)
    with closing(InTurn("encode")) as encoder, closing(DiskQueue()) as disk:
        files = SortedFiles(folder / "aside", SCHEMA, "000000000001", encoder, disk)
        for i in range(40):
            files.write(rows(3 * i, 3), prospects([0, 0, 1 + i % (N_OUTLOOKS - 1)]))
            assert sum(each.n_waiting for each in files._by_class) < 20
        assert sum(file.n_rows for file in files.finish()) == 120


def test_what_a_full_disk_says_is_told_when_the_files_are_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **names: object) -> None:
        raise OSError("No space left on device")

    with closing(InTurn("encode")) as encoder, closing(DiskQueue()) as disk:
        files = SortedFiles(folder / "aside", SCHEMA, "000000000001", encoder, disk)
        files.write(rows(0, 2), prospects([0, 1]))
        monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
        with pytest.raises(OSError, match="No space left"):
            files.finish()


def test_the_guard_of_rows_that_come_bit_by_bit_is_theirs_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardOfMany, "_MAX_PENDING", 10)
    rng = np.random.default_rng(5)
    witnesses, draws = rng.integers(0, 4, 100).astype(np.int32), rng.random(100)
    many = GuardOfMany()
    for start in range(0, 100, 7):
        many.add(witnesses[start : start + 7], draws[start : start + 7])
        assert sum(len(each) for each in many._draws) <= 10 + 4
    expected = Guard.of(witnesses, draws)
    order, expected_order = np.argsort(many.joined.entry_ids), np.argsort(expected.entry_ids)
    assert many.joined.entry_ids[order].tolist() == expected.entry_ids[expected_order].tolist()
    assert many.joined.draws[order].tolist() == expected.draws[expected_order].tolist()
