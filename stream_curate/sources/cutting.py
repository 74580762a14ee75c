r"""Bytes cut into records: lines, or csv records that may hold line feeds inside quotes.

A line ends at LF, and one CR before the LF is dropped; any other CR is part of the record. A last line without LF
is a record. A record of more than `MAX_RECORD_BYTES` is never held as a whole: reading goes on behind the end of
the line in which the limit was passed, also when that is inside a quote. So an unclosed quote swallows at most
`MAX_RECORD_BYTES` and the rest of that line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stream_curate.errors import InputError
from stream_curate.kernels import kernel
from stream_curate.pairs import MAX_RECORD_BYTES, Records
from stream_curate.sources.columns import ColumnChoice
from stream_curate.sources.files import ByteStream
from stream_curate.sources.source import MAX_BATCH_BYTES, MAX_BATCH_ROWS, REJECTED_PREFIX_BYTES

BLOCK_BYTES = 1024 * 1024

_LF, _CR, _QUOTE = 10, 13, 34


@dataclass(frozen=True)
class Cut:
    """Consecutive records of a stream, valid until the next ones are cut.

    Attributes:
        data: uint8[n_bytes]; record i is `data[starts[i]:ends[i]]`, without its line end.
        starts, ends: int64[n_records]; of a record that is too large they hold its first `REJECTED_PREFIX_BYTES`.
        too_large: bool[n_records].
    """

    data: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    too_large: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def after(self, n_records: int) -> Cut:
        """These records without the first `n_records`."""
        return Cut(self.data, self.starts[n_records:], self.ends[n_records:], self.too_large[n_records:])

    def raw(self, index: int) -> bytes:
        """The bytes of one record."""
        return self.data[self.starts[index] : self.ends[index]].tobytes()


@dataclass(frozen=True)
class TextInput:
    """What the reader of a text format works on.

    Attributes:
        stream: the bytes.
        uri: what they are.
        choice: which columns to use.
        block_bytes: how much is read at a time; nothing but speed depends on it.
        is_waiting: whether nothing more is coming at the moment; then the records that are there are given at once,
            also when there are none.
    """

    stream: ByteStream
    uri: str
    choice: ColumnChoice
    block_bytes: int = BLOCK_BYTES
    is_waiting: Callable[[], bool] = lambda: False

    def nothing(self, row: int) -> Records:
        """No records at position `row`: what is given while the input is waited for."""
        empty = pa.array([], pa.binary())
        kept = {name: pa.array([], pa.string()) for name in self.choice.kept_names}
        return Records(self.uri, row, empty, empty, kept)


class RecordCutter:
    """Cuts a stream into records, holding at most about twice `MAX_BATCH_BYTES` of it.

    Args:
        source: the bytes.
        separator: the byte between the fields of a csv record, whose quotes may hold line feeds; None for lines.
    """

    def __init__(self, source: TextInput, separator: int | None = None) -> None:
        self._stream = source.stream
        self._separator = -1 if separator is None else separator
        self._block_bytes = source.block_bytes
        self._is_waiting = source.is_waiting
        # the records of a cut, one unfinished record, and the block that was read to finish it
        self._needed_bytes = MAX_BATCH_BYTES + MAX_RECORD_BYTES + 2 + self._block_bytes
        self._data = np.empty(2 * self._needed_bytes, np.uint8)  # twice, so that bytes are seldom moved
        self._filled = 0
        self._position = 0
        self._skipping = False
        self._at_end = False

    def next_cut(self, max_records: int) -> Cut | None:
        """The next records, at most `max_records`; None at the end of the stream; of an input that waits, maybe none.

        Raises:
            InputError: when the stream cannot be read on; the complete records before have been given by then.
        """
        max_records = min(max_records, MAX_BATCH_ROWS)
        starts = np.empty(max_records, np.int64)
        ends = np.empty(max_records, np.int64)
        too_large = np.empty(max_records, np.bool_)
        if self._position + self._needed_bytes > len(self._data):
            rest = self._data[self._position : self._filled].copy()
            self._data[: len(rest)] = rest
            self._position, self._filled = 0, len(rest)
        begin = self._position
        n = 0
        while True:
            n, self._position, self._skipping = _cut(
                self._data[: self._filled],
                self._at_end,
                self._separator,
                self._position,
                self._skipping,
                n,
                starts,
                ends,
                too_large,
            )
            if n == max_records or self._at_end or self._position - begin >= MAX_BATCH_BYTES:
                break
            if self._skipping:  # nobody needs the rest of this record
                self._position = self._filled = int(ends[n - 1]) if n else begin
            if self._is_waiting():
                break
            try:
                n_read = self._stream.read_into(
                    memoryview(self._data)[self._filled : self._filled + self._block_bytes]  # type: ignore[arg-type]
                )
            except InputError:
                if n == 0:
                    raise
                break
            self._filled += n_read
            self._at_end = n_read == 0
        return None if n == 0 and self._at_end else Cut(self._data, starts[:n], ends[:n], too_large[:n])

    def cuts(self, max_records: int) -> Iterator[tuple[int, Cut]]:
        """All that follows: the number of records cut before, and the next records."""
        n_before = 0
        while (cut := self.next_cut(max_records)) is not None:
            yield n_before, cut
            n_before += len(cut)


@kernel
def _find_end(data: np.ndarray, start: int, stop: int, separator: int) -> int:
    """The place of the LF that ends the record at `start`, or `stop` if it is not before that."""
    i = start
    if separator < 0:
        while i < stop and data[i] != _LF:
            i += 1
        return i
    # 0: at the start of a field, 1: in one without quotes, 2: inside quotes, 3: behind a quote in quotes
    state = 0
    while i < stop:
        byte = data[i]
        if state == 2:
            if byte == _QUOTE:
                state = 3
        elif byte == _LF:
            break
        elif byte == separator:
            state = 0
        elif byte == _QUOTE and state != 1:
            state = 2
        else:
            state = 1
        i += 1
    return i


@kernel
def _cut(
    data: np.ndarray,
    at_end: bool,
    separator: int,
    position: int,
    skipping: bool,
    n: int,
    starts: np.ndarray,
    ends: np.ndarray,
    too_large: np.ndarray,
) -> tuple[int, int, bool]:
    """Cut `data` from `position` on until it, or the room for records, is used up.

    `n` records are there already. Returns the number of records, the position behind the last one, and whether
    what follows is the rest of a record that is too large.
    """
    filled = len(data)
    while n < len(starts):
        if skipping:
            while position < filled and data[position] != _LF:
                position += 1
            if position == filled:
                break
            position += 1
            skipping = False
            continue
        if position == filled:
            break
        start = position
        stop = min(filled, start + MAX_RECORD_BYTES + 2)  # the longest record, with CR and LF
        i = _find_end(data, start, stop, separator)
        end = i
        if i < stop:
            position = i + 1
            if end > start and data[end - 1] == _CR:
                end -= 1
        elif stop == start + MAX_RECORD_BYTES + 2:
            end = start + MAX_RECORD_BYTES + 1
        elif at_end:
            position = filled
        else:
            break
        too_large[n] = end - start > MAX_RECORD_BYTES
        if too_large[n]:
            end = start + REJECTED_PREFIX_BYTES
            position = start + MAX_RECORD_BYTES
            skipping = True
        starts[n] = start
        ends[n] = end
        n += 1
    return n, position, skipping
