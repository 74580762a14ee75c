"""Rows that wait until it is known which of them stay: a little in memory, the rest on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

MAX_BYTES_IN_MEMORY = 8 * 2**20


class Spill:
    """Rows aside, in the order in which they came.

    On the disk they lie as Arrow has them in memory, which takes a fraction of the time of parquet both ways. Nothing
    here outlives the process: rows that were not taken are to be read from their source again.

    Args:
        path: where rows may lie on the disk; nothing must be there.
        schema: of the rows.

    Attributes:
        n_bytes: of all rows, about.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._n_waiting_bytes = 0
        self._sink: pa.NativeFile | None = None
        self._writer: pa.RecordBatchWriter | None = None
        self.n_bytes = 0

    def __bool__(self) -> bool:
        return self.n_bytes > 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Put rows of the schema aside."""
        n_bytes = batch.get_total_buffer_size()  # a small part can hold all of a large buffer
        self._waiting.append(batch)
        self._n_waiting_bytes += n_bytes
        self.n_bytes += n_bytes
        if self._n_waiting_bytes > MAX_BYTES_IN_MEMORY:
            self._write()

    def take(self) -> Iterator[pa.RecordBatch]:
        """All rows, of which none is here any more; each batch is let go of when the next one is taken."""
        waiting, self._waiting = self._waiting, []
        self.n_bytes = self._n_waiting_bytes = 0
        yield from self._read()
        waiting.reverse()
        while waiting:
            yield waiting.pop()

    def close(self) -> None:
        """Forget all rows."""
        for _ in self.take():
            pass

    def _write(self) -> None:
        if self._writer is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(self._sink, self._schema)
        for batch in self._waiting:
            self._writer.write_batch(batch)
        self._waiting = []
        self._n_waiting_bytes = 0

    def _read(self) -> Iterator[pa.RecordBatch]:
        if self._writer is None or self._sink is None:
            return
        self._writer.close()
        self._sink.close()
        self._writer = self._sink = None
        with pa.OSFile(str(self._path), "rb") as file:
            self._path.unlink()
            yield from pa.ipc.open_stream(file)
