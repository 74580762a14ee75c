"""Pairs from parquet, a few hundred rows at a time.

Only the columns that are needed are read, in order, through a buffer of fixed size, so memory does not grow with
the file or its row groups: it holds one page of each column, one slice of rows, and one batch. Slices are small
because a dictionary lets a tiny file stand for rows of any width: what a slice can grow to is its number of rows
times the largest value that the file holds (before rows over the limit are rejected).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_curate.errors import InputError
from stream_curate.pairs import MAX_RECORD_BYTES, Records
from stream_curate.reasons import Reason
from stream_curate.sources.columns import UID, ColumnChoice, Columns, resolve
from stream_curate.sources.files import StoredFile
from stream_curate.sources.source import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ROWS,
    REJECTED_PREFIX_BYTES,
    as_text,
    bad_input,
)

_SLICE_ROWS = 512
_BUFFER_BYTES = 1024 * 1024
_ENCRYPTED_MAGIC = b"PARE"
_VIEW_TYPES = (pa.string_view(), pa.binary_view())
_TEXT_TYPES = (pa.null(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), *_VIEW_TYPES)

_T = TypeVar("_T")


def read_parquet(file: StoredFile, choice: ColumnChoice, first_row: int, batch_size: int) -> Iterator[Records]:
    """The records of a parquet file, as `Source.read` promises.

    A row whose url and text together are over `MAX_RECORD_BYTES` is rejected `too_large`. Row groups before
    `first_row` are not read at all.

    Raises:
        InputError: for what is no parquet, is cut short, damaged or encrypted, or has not the columns of pairs.
    """
    handle = file.open_file()
    try:
        parquet = _open(file, handle)
        columns = _attempt(file.name, lambda: _resolve(parquet.schema_arrow, choice, file.name))
        batch = _Batch(file, columns, choice, batch_size, first_row)
        try:
            for slice_ in _slices(parquet, columns, file.name, first_row):
                yield from batch.add(slice_)
        except InputError:
            yield from batch.flush()  # what came before the damage
            raise
        yield from batch.flush()
    finally:
        handle.close()


@dataclass
class _Batch:
    """Slices on their way to be a batch. Each is a record batch of the columns in the file that are needed."""

    file: StoredFile
    columns: Sequence[str | None]
    choice: ColumnChoice
    batch_size: int
    row: int
    slices: list[pa.RecordBatch] = field(default_factory=list)
    n_rows: int = 0
    n_bytes: int = 0

    def add(self, slice_: pa.RecordBatch) -> Iterator[Records]:
        """Take a slice; give the batches that are full with it."""
        room = min(self.batch_size, MAX_BATCH_ROWS) - self.n_rows
        if len(slice_) > room:
            yield from self.add(slice_[:room])
            yield from self.add(slice_[room:])
            return
        n_bytes = slice_.nbytes
        if n_bytes > MAX_BATCH_BYTES and len(slice_) > 1:
            half = len(slice_) // 2
            yield from self.add(slice_[:half])
            yield from self.add(slice_[half:])
            return
        if self.n_bytes + n_bytes > MAX_BATCH_BYTES:
            yield from self.flush()
        self.slices.append(slice_)
        self.n_rows += len(slice_)
        self.n_bytes += n_bytes
        if self.n_rows == min(self.batch_size, MAX_BATCH_ROWS):
            yield from self.flush()

    def flush(self) -> Iterator[Records]:
        """Give what there is as one batch, if it is anything."""
        if self.slices:
            records = _attempt(self.file.name, self._records)
            self.row += self.n_rows
            self.slices, self.n_rows, self.n_bytes = [], 0, 0
            yield records

    def _records(self) -> Records:
        whole = self.slices[0] if len(self.slices) == 1 else pa.concat_batches(self.slices)
        urls, texts, *kept = (None if name is None else whole.column(name) for name in self.columns)
        nothing = pa.nulls(len(whole), pa.string())
        kept_text = [nothing if column is None else _as_string(column) for column in kept]
        return _without_too_large(
            Records(
                self.file.uri,
                self.row,
                _as_binary(urls),
                _as_binary(texts),
                dict(zip(self.choice.kept_names, kept_text, strict=True)),
            )
        )


def _open(file: StoredFile, handle: pa.NativeFile) -> pq.ParquetFile:
    magic = _attempt(file.name, lambda: handle.read(4))
    if magic == _ENCRYPTED_MAGIC:
        raise bad_input(file.name, "an encrypted parquet file", "Decrypt it first: no keys can be given here.")
    try:
        # read through a buffer: otherwise a whole column of a row group is held
        return pq.ParquetFile(handle, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except Exception as error:  # pyarrow has many kinds of errors for a damaged file
        what = "no parquet file" if magic != b"PAR1" else "a parquet file that is cut short or damaged"
        raise bad_input(
            file.name, f"{what}: {error}", "Write or copy it again, or say what it is with --format."
        ) from (error)


def _resolve(schema: pa.Schema, choice: ColumnChoice, name: str) -> list[str | None]:
    """The names of the columns for url, text and each kept one, all of types that can be used."""
    columns: Columns = resolve(schema.names, choice, name)
    found: list[str | None] = []
    for role, index in (("url", columns.url), ("text", columns.text)):
        type_ = schema.field(index).type
        if not _is_text(type_):
            raise bad_input(
                name,
                f"column {schema.names[index]}, the {role}, holds {type_}, where text is looked for",
                f"Name another with --{role}-column.",
            )
        found.append(schema.names[index])
    for kept_name, kept_index in zip(choice.kept_names, columns.kept, strict=True):
        type_ = schema.field(kept_index).type if kept_index is not None else None
        if type_ is None or (pa.types.is_nested(type_) and kept_name == UID and not choice.needs_uid):
            found.append(None)  # nobody asked for it
        elif pa.types.is_nested(type_):
            raise bad_input(
                name,
                f"column {kept_name}, which --keep-columns asks for, holds {type_}; only plain values can be kept",
                "Leave it out.",
            )
        else:
            found.append(schema.names[kept_index])
    return found


def _slices(
    parquet: pq.ParquetFile, columns: Sequence[str | None], name: str, first_row: int
) -> Iterator[pa.RecordBatch]:
    """All rows from `first_row` on."""
    needed = sorted({column for column in columns if column is not None})
    as_stored = all(_is_as_large_as_it_says(parquet.schema_arrow.field(column).type) for column in needed)
    row = 0
    for group in range(parquet.metadata.num_row_groups):
        n_rows = parquet.metadata.row_group(group).num_rows
        if row + n_rows <= first_row:
            row += n_rows
            continue
        batches = parquet.iter_batches(
            _SLICE_ROWS,
            row_groups=[group],
            columns=needed,
            use_threads=False,  # slices are too small to share
        )
        group_end = row + n_rows
        while (slice_ := _attempt(name, lambda: _next_slice(batches, as_stored))) is not None:  # noqa: B023
            if row + len(slice_) > first_row:
                yield slice_[max(0, first_row - row) :]
            row += len(slice_)
        if row != group_end:
            raise bad_input(name, f"row group {group} ends {group_end - row} rows early", "Write or copy it again.")


def _next_slice(batches: Iterator[pa.RecordBatch], as_stored: bool) -> pa.RecordBatch | None:
    batch = next(batches, None)
    if batch is None or as_stored:
        return batch
    return pa.RecordBatch.from_arrays([_unpacked(column) for column in batch.columns], batch.schema.names)


def _without_too_large(records: Records) -> Records:
    lengths = _lengths(records.urls) + _lengths(records.texts)
    too_large = lengths > MAX_RECORD_BYTES
    if not too_large.any():
        return records
    gone = pa.array(too_large)
    rows = np.flatnonzero(too_large).tolist()
    return Records(
        records.source,
        records.first_row,
        pc.if_else(gone, pa.scalar(None, pa.binary()), records.urls),
        pc.if_else(gone, pa.scalar(None, pa.binary()), records.texts),
        {name: pc.if_else(gone, pa.scalar(None, pa.string()), column) for name, column in records.kept.items()},
        dict.fromkeys(rows, Reason.TOO_LARGE),
        {row: _prefix(records.urls[row], records.texts[row]) for row in rows},
    )


def _prefix(url: pa.BinaryScalar, text: pa.BinaryScalar) -> bytes:
    """The first bytes of url, tab, text."""
    pieces = [memoryview(value.as_buffer())[:REJECTED_PREFIX_BYTES] if value.is_valid else b"" for value in (url, text)]
    return b"	".join(pieces)[:REJECTED_PREFIX_BYTES]


def _lengths(values: pa.BinaryArray) -> np.ndarray:
    lengths: np.ndarray = pc.fill_null(pc.binary_length(values), 0).to_numpy().astype(np.int64)
    return lengths


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return type_ in _TEXT_TYPES


def _is_as_large_as_it_says(type_: pa.DataType) -> bool:
    """Whether the `nbytes` of a slice of such a column is the size of what it shows."""
    return not (pa.types.is_dictionary(type_) or type_ in _VIEW_TYPES)


def _unpacked(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.binary()) if values.type in _VIEW_TYPES else values


def _as_binary(values: pa.Array) -> pa.BinaryArray:
    return values.view(pa.binary()) if values.type == pa.string() else values.cast(pa.binary())


def _as_string(values: pa.Array) -> pa.StringArray:
    is_bytes = _is_text(values.type) or pa.types.is_fixed_size_binary(values.type)
    return as_text(_as_binary(values)) if is_bytes else values.cast(pa.string())


def _attempt(name: str, step: Callable[[], _T]) -> _T:
    try:
        return step()
    except InputError:
        raise
    except Exception as error:  # pyarrow has many kinds of errors for a damaged file
        advice = "Is it cut short or damaged? Write or copy it again."
        raise bad_input(name, f"reading failed: {error}", advice) from error
