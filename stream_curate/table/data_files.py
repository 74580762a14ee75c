"""The parquet files of the table: written aside, then moved into place for a commit to name them."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from stream_curate.checked_file import sync_folder
from stream_curate.curator import ENTRY_IDS

TARGET_BYTES = 128 * 2**20
ROW_GROUP_ROWS = 32_768
READ_ROWS = 16_384
FILE_PATTERN = "part-*.parquet"


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

    Memory is bounded: rows leave for the disk in row groups of 32,768.
    """

    def __init__(self, folder: Path, schema: pa.Schema, label: str) -> None:
        self._folder = folder
        self._schema = schema
        self._label = label
        self._files: list[DataFile] = []
        self._waiting: list[pa.RecordBatch] = []
        self._n_waiting = 0
        self._writer: pq.ParquetWriter | None = None
        self._name = ""
        self._n_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; the columns are taken by name and cast to the table's types, and are null where there is none."""
        if len(batch):
            present = set(batch.schema.names)
            columns = [
                batch.column(field.name).cast(field.type) if field.name in present else pa.nulls(len(batch), field.type)
                for field in self._schema
            ]
            self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
            self._n_waiting += len(batch)
            if self._n_waiting >= ROW_GROUP_ROWS:
                self._write_row_group()

    def finish(self) -> list[DataFile]:
        """Close the last file. All of them are on the disk itself when this returns."""
        self._write_row_group()
        self._close_file()
        return self._files

    def move_into(self, table_folder: Path) -> None:
        """Give the finished files their names in the table's folder."""
        for file in self._files:
            os.replace(self._folder / file.name, table_folder / file.name)
        if self._files:
            sync_folder(table_folder)

    def _write_row_group(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            # a name is never used twice, so that a version of the table can never be made to show other rows
            self._name = f"part-{self._label}-{len(self._files):04d}-{uuid.uuid4().hex[:12]}.parquet"
            self._writer = pq.ParquetWriter(
                self._folder / self._name,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=["source"],
                write_statistics=["source_row"],
                store_schema=False,
            )
            self._n_rows = 0
        rows = pa.Table.from_batches(self._waiting)
        self._writer.write_table(rows, row_group_size=max(len(rows), 1))
        self._n_rows += len(rows)
        self._waiting = []
        self._n_waiting = 0
        if (self._folder / self._name).stat().st_size >= TARGET_BYTES:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        path = self._folder / self._name
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        self._files.append(DataFile(self._name, self._n_rows, path.stat().st_size))


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of one data file, in batches of bounded size."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(READ_ROWS, columns=list(columns) if columns is not None else None)
