"""The parquet files of the table: written aside, then moved into place for a commit to name them."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from stream_curate.ahead import InTurn
from stream_curate.balance import EVICTED, N_OUTLOOKS, Guard, Prospects
from stream_curate.checked_file import DiskQueue
from stream_curate.curator import ENTRY_IDS

TARGET_BYTES = 128 * 2**20
ROW_GROUP_ROWS = 32_768
READ_ROWS = 16_384
FILE_PATTERN = "part-*.parquet"
_PAGE_BYTES = 8 * 2**20
_FIRST_LASTING = N_OUTLOOKS - 1
# part-CHECKPOINT-CLASS-NUMBER-RANDOM.parquet, without CLASS where rows are not sorted
_N_PARTS_SORTED = 5


def table_schema(kept: Sequence[str]) -> pa.Schema:
    """The columns of the curated table: a `uid` is always among them, then those that were asked for.

    `pair_id` holds 16 bytes; Delta knows no binary of fixed size.
    """
    return pa.schema(
        [
            pa.field("pair_id", pa.binary(), nullable=False),
            pa.field("url", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("entry_ids", ENTRY_IDS, nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            *(pa.field(name, pa.string()) for name in dict.fromkeys(["uid", *kept])),
        ]
    )


@dataclass(frozen=True)
class DataFile:
    """One parquet file: its name in the table's folder, and its size."""

    name: str
    n_rows: int
    n_bytes: int

    def add_action(self, *, data_change: bool) -> AddAction:
        """What a commit says of a file that it adds."""
        statistics = json.dumps({"numRecords": self.n_rows})
        return AddAction(self.name, self.n_bytes, {}, int(time.time() * 1000), data_change, statistics)


class StagedFiles:
    """Files being written in a folder aside, each up to about 128 MiB; nothing of them counts until a commit.

    Memory is bounded: rows leave for the disk in row groups of 32,768, or of fewer.

    Attributes:
        n_waiting: rows in memory for the next row group.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        label: str,
        encoder: InTurn,
        disk: DiskQueue,
        *,
        lasting: bool = True,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: the one aside.
            schema: of the rows.
            label: stands in the files' names.
            encoder: writes the files.
            disk: forces the files to disk.
            lasting: whether the rows are expected to stay. If not, they are not compressed: that takes longer than all
                the rest.
        """
        self._folder = folder
        self._schema = schema
        self._label = label
        self._encoder = encoder
        self._disk = disk
        self._lasting = lasting
        self._files: list[DataFile] = []
        self._waiting: list[pa.RecordBatch] = []
        self.n_waiting = 0
        self._writer: pq.ParquetWriter | None = None
        self._name = ""
        self._n_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows of the schema."""
        if len(batch):
            self._waiting.append(batch)
            self.n_waiting += len(batch)
            if self.n_waiting >= ROW_GROUP_ROWS:
                self.hand_over()

    def hand_over(self) -> None:
        """Give the rows that wait to the encoder, as a row group."""
        if self._waiting:
            self._encoder.call(self._write_row_group, pa.Table.from_batches(self._waiting))
            self._waiting = []
            self.n_waiting = 0

    def end(self) -> None:
        """Close the last file, when all that was asked of the encoder before is done."""
        self.hand_over()
        self._encoder.call(self._close_file)

    @property
    def finished(self) -> list[DataFile]:
        """The closed files, after `end` and once the encoder is done. On the disk itself when the queue is empty."""
        return list(self._files)

    def take_out(self, file: DataFile) -> None:
        """Forget a finished file: it is not to be moved."""
        self._files.remove(file)
        (self._folder / file.name).unlink()

    def move_into(self, table_folder: Path) -> None:
        """Give the finished files their names in the table's folder, which is to be forced to disk then."""
        for file in self._files:
            os.replace(self._folder / file.name, table_folder / file.name)

    def _write_row_group(self, rows: pa.Table) -> None:
        if self._writer is None:
            # a name is never used twice, so that a version of the table can never be made to show other rows
            self._name = f"part-{self._label}-{len(self._files):04d}-{uuid.uuid4().hex[:12]}.parquet"
            self._writer = pq.ParquetWriter(
                self._folder / self._name,
                self._schema,
                compression="zstd" if self._lasting else "none",
                compression_level=1 if self._lasting else None,
                use_dictionary=["source"],
                write_statistics=["source_row"],
                write_batch_size=ROW_GROUP_ROWS,
                data_page_size=_PAGE_BYTES,
                store_schema=False,
            )
            self._n_rows = 0
        self._writer.write_table(rows, row_group_size=len(rows))
        self._n_rows += len(rows)
        if (self._folder / self._name).stat().st_size >= TARGET_BYTES:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        path = self._folder / self._name
        self._disk.add(path)
        self._files.append(DataFile(self._name, self._n_rows, path.stat().st_size))


class SortedFiles:
    """Rows on their way into the table, sorted into files by how long they may stay.

    Files of rows that may stay for long are left alone by most settles, and compressed.

    Attributes:
        n_rows: rows sorted so far.
    """

    def __init__(self, folder: Path, schema: pa.Schema, label: str, encoder: InTurn, disk: DiskQueue) -> None:
        self._by_class = [
            StagedFiles(folder, schema, f"{label}-{which}", encoder, disk, lasting=which >= _FIRST_LASTING)
            for which in range(N_OUTLOOKS)
        ]
        self._unsorted = StagedFiles(folder, schema, label, encoder, disk)
        self._encoder = encoder
        self._guards = [GuardOfMany() for _ in range(N_OUTLOOKS)]
        self.n_rows = 0

    def write(self, batch: pa.RecordBatch, prospects: Prospects | None) -> None:
        """Add the rows of the schema that are not EVICTED; without `prospects` all of them, unsorted."""
        if prospects is None:
            self._unsorted.write(batch)
            return
        order = np.argsort(prospects.classes, kind="stable").astype(np.int32)
        ends = np.searchsorted(prospects.classes, np.arange(EVICTED, N_OUTLOOKS), "right", sorter=order)
        self.n_rows += len(order) - int(ends[0])
        for which, files in enumerate(self._by_class):
            members = order[ends[which] : ends[which + 1]]
            if len(members):
                # not slices of one copy: the few rows of a class would hold all others in memory while they wait
                files.write(batch.take(pa.array(members)))
                self._guards[which].add(prospects.witnesses[members], prospects.draws[members])
        while sum(files.n_waiting for files in self._by_class) >= 2 * ROW_GROUP_ROWS:
            max(self._by_class, key=lambda files: files.n_waiting).hand_over()

    def write_as(self, batch: pa.RecordBatch, which: int | None) -> None:
        """Add rows that were sorted before, as being of that class. Their guard is not known here."""
        (self._unsorted if which is None else self._by_class[which]).write(batch)

    def finish(self) -> dict[DataFile, Guard | None]:
        """Close the last files; their names come with what guards their rows."""
        for files in (self._unsorted, *self._by_class):
            files.end()
        guards = [guard.joined for guard in self._guards]
        self._encoder.wait()
        found: dict[DataFile, Guard | None] = dict.fromkeys(self._unsorted.finished)
        for files, guard in zip(self._by_class, guards, strict=True):
            found |= dict.fromkeys(files.finished, guard)
        return found

    def take_out(self, file: DataFile) -> None:
        """Forget a finished file: it is not to be moved."""
        which = class_of(file)
        (self._unsorted if which is None else self._by_class[which]).take_out(file)

    def move_into(self, table_folder: Path) -> None:
        """Give the finished files their names in the table's folder, which is to be forced to disk then."""
        for files in (self._unsorted, *self._by_class):
            files.move_into(table_folder)


class GuardOfMany:
    """The guard of rows that come bit by bit. Memory is bounded by the number of entries."""

    _MAX_PENDING = 2**18

    def __init__(self) -> None:
        self._witnesses: list[np.ndarray] = []
        self._draws: list[np.ndarray] = []
        self._n_pending = 0

    def add(self, witnesses: np.ndarray, draws: np.ndarray) -> None:
        self._witnesses.append(witnesses)
        self._draws.append(draws)
        self._n_pending += len(draws)
        if self._n_pending > self._MAX_PENDING:
            guard = self.joined
            self._witnesses, self._draws, self._n_pending = [guard.entry_ids], [guard.draws], 0

    @property
    def joined(self) -> Guard:
        if not self._draws:
            return Guard(np.zeros(0, np.int32), np.zeros(0, np.float64))
        return Guard.of(np.concatenate(self._witnesses), np.concatenate(self._draws))


def class_of(file: DataFile) -> int | None:
    """The class of the rows of a file when it was written; None where they were not sorted."""
    parts = file.name.split("-")
    return int(parts[2]) if len(parts) == _N_PARTS_SORTED else None


def checkpoint_of(name: str) -> int:
    """The number of the checkpoint that the data file of this name was written for."""
    return int(name.split("-")[1])


def in_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema`, taken by name and cast to its types; null where there is none."""
    present = set(batch.schema.names)
    columns = [
        batch.column(field.name).cast(field.type) if field.name in present else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of one data file, in batches of bounded size."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(READ_ROWS, columns=list(columns) if columns is not None else None)
