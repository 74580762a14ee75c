"""What a consumer fetched, unpacked many records at a time, and what kafka-python does not read, read all the same.

kafka-python unpacks each record by itself, in Python: that took more time than all that a worker does with it. Here a
kernel finds where its parts are. Which batches are read at all, and in which order (checksums, aborted transactions,
markers, the formats before 2), is left to kafka-python: for it, a batch is one record whose value is a `_Block`.

What other producers may write:

- A record with a header whose key is not UTF-8 comes with each such key's bytes above 0x7F as question marks.
- A batch that would take more than MAX_UNPACKED_BYTES when it is unpacked is not: it comes as one record, the offset
  of which is the last of the batch. Its value is the batch as it is packed, and its header `NOT_UNPACKED`, with which
  `messages` rejects it as too large. There is no such limit for snappy, with which one byte becomes 22 at most, and
  for the message formats 0 and 1, which Kafka 4 does not have any more.
- What cannot be read at all is an error in words, the same with each `poll`, at the offset where it is.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
from kafka import codec
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.errors import CorruptRecordError, UnsupportedCodecError
from kafka.record import MemoryRecords, util
from kafka.record.default_records import DefaultRecordBatch

from consumers.errors import KafkaProblem
from consumers.messages import NOT_UNPACKED
from stream_curate.kernels import kernel
from stream_curate.printable import printable

# of one batch of messages, which producers compress together; it is in memory as a whole
MAX_UNPACKED_BYTES = 256 * 1024 * 1024

_MAX_SHOWN_BYTES = 500
_MOST_AT_ONCE = 10_000  # records: they take several times the memory of the bytes that they are made of

Headers = list[tuple[str, bytes | None]]


class FetchedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """What a consumer fetched of one partition; see the module.

    After an error kafka-python's own keeps what it can no longer read, and the next `poll` never comes back.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        self._block: _Block | None = None  # that is not read to its end
        self._error: KafkaProblem | None = None  # for when what was read before it has been taken
        super().__init__(*args, **named)

    def take(self, n: int | None = None) -> list[Any]:
        """The next records, at most `n`.

        Raises:
            KafkaProblem: they cannot be read; the consumer then fetches them once more.
        """
        taken: list[Any] = []
        try:
            if self._error is not None:
                raise self._error
            while n is None or len(taken) < n:
                if self._block is None:
                    found = super().take(1)
                    if not found:
                        break
                    if not isinstance(found[0].value, _Block):
                        taken += found
                        continue
                    self._block = found[0].value
                taken += self._of_block(self._block, _MOST_AT_ONCE if n is None else n - len(taken))
        except KafkaProblem as error:
            self._error = error
            if not taken:
                self.drain()
                raise
        return taken

    def _of_block(self, block: _Block, n: int) -> list[Any]:
        try:
            records = block.take(n, self.fetch_offset, self.topic_partition, self.leader_epoch)
        except CorruptRecordError as error:
            self.next_fetch_offset = max(self.fetch_offset, block.next_offset)
            raise self._unreadable(error) from error
        self.next_fetch_offset = max(self.fetch_offset, block.next_offset)
        if not block.n_left:
            self._block = None
        return records

    def _unpack_records(
        self, place: Any, records: MemoryRecords, key_deserializer: Any, value_deserializer: Any
    ) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(place, _Batches(records), key_deserializer, value_deserializer)
        except Exception as error:  # from many places: checksums, codecs, damaged lengths
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> KafkaProblem:
        place = self.topic_partition
        return KafkaProblem(
            f"the records of {place.topic}, partition {place.partition}, cannot be read from offset "
            f"{self.next_fetch_offset} on ({printable(f'{type(error).__name__}: {error}', _MAX_SHOWN_BYTES)}): "
            "they were damaged on their way or on the broker's disk. Try again; if it stays so, restore the "
            "partition from another replica"
        )


class _Batches:
    """The batches of records in what was fetched, as far as `_unpack_records` needs it."""

    def __init__(self, records: MemoryRecords) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if type(batch) is DefaultRecordBatch:
            batch.__class__ = _Batch  # it adds no state, and its bytes need not be copied
        return batch


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch of records, the odd ones included, as one record: its block."""

    __slots__ = ()

    def __iter__(self: Any) -> Iterator[_BlockRecord]:
        self._maybe_uncompress()
        block = _Block(self)
        if block.n_left > 0:
            yield _BlockRecord(block, self.last_offset)
        elif block.n_bytes:
            raise CorruptRecordError(f"{block.n_bytes} bytes in a batch of no records")

    def _maybe_uncompress(self: Any) -> None:
        if self._decompressed:
            return
        packed = bytes(memoryview(self._buffer)[self._pos :])
        compression = self.compression_type
        unpacked: bytes | bytearray | None
        if len(packed) * _MOST_UNPACKED.get(compression, 1) <= MAX_UNPACKED_BYTES:
            unpacked = _unpack_all(compression, packed)
        else:
            unpacked = _unpacked(compression, packed, MAX_UNPACKED_BYTES)
        if unpacked is None:
            unpacked = _one_record(self.last_offset_delta, packed, [(NOT_UNPACKED.encode(), b"")])
            self._num_records = 1
        self._buffer, self._pos, self._decompressed = unpacked, 0, True


class _BlockRecord:
    """As much of a record as `_unpack_records` looks at."""

    timestamp = timestamp_type = 0
    key = checksum = None
    headers: Headers = []  # noqa: RUF012 - nobody adds to it

    def __init__(self, block: _Block, offset: int) -> None:
        self.value = block
        self.offset = offset
        self.size_in_bytes = block.n_bytes

    def validate_crc(self) -> bool:
        """Its batch was looked at."""
        return True


# where the parts of a record are; of what is null the length is below 0
_OFFSET, _TIMESTAMP, _KEY, _KEY_BYTES, _VALUE, _VALUE_BYTES, _HEADERS, _N_HEADERS, _END = range(9)


class _Block:
    """The records of one batch that were not taken yet.

    Args:
        batch: unpacked.

    Attributes:
        n_left: how many they are, as the batch says.
        n_bytes: of the records together.
        next_offset: after what was taken.
    """

    def __init__(self, batch: Any) -> None:
        self._bytes = bytes(batch._buffer)  # no copy, but for what was unpacked piece by piece
        self._view = np.frombuffer(self._bytes, np.uint8)
        self._place = 0
        self._base_offset = batch.base_offset
        self._after = batch.next_offset
        self._timestamp_type = batch.timestamp_type
        self._max_timestamp = batch.max_timestamp
        self._first_timestamp = batch.first_timestamp
        self._headers: tuple[bytes, tuple[Headers, int]] = (b"", ([], -1))  # the last ones that were read
        self.n_left = batch._num_records
        self.n_bytes = len(self._bytes)
        self.next_offset = self._base_offset

    def __len__(self) -> int:
        return self.n_bytes

    def take(self, n: int, from_offset: int, place: Any, leader_epoch: int) -> list[ConsumerRecord]:
        """The next `n` records, or fewer; those before `from_offset` are passed.

        Raises:
            CorruptRecordError: there is something else than a record.
        """
        n = max(0, min(n, self.n_left, (len(self._bytes) - self._place) // _LEAST_RECORD_BYTES))
        spans = np.empty((_END + 1, n), np.int64)
        n_read = _find_parts(self._view, self._place, spans)
        if n_read == 0:
            raise CorruptRecordError(f"no record where {self.n_left} more are to be")
        spans = spans[:, :n_read]
        self._place = int(spans[_END, -1])
        self.n_left -= n_read
        if not self.n_left and self._place != len(self._bytes):
            raise CorruptRecordError(f"{len(self._bytes) - self._place} bytes after all records")
        self.next_offset = self._base_offset + int(spans[_OFFSET, -1]) + 1 if self.n_left else self._after
        first = int(np.searchsorted(spans[_OFFSET], from_offset - self._base_offset))
        return self._records(spans[:, first:], place, leader_epoch)

    def _records(self, spans: np.ndarray, place: Any, leader_epoch: int) -> list[ConsumerRecord]:
        offsets = (spans[_OFFSET] + self._base_offset).tolist()
        if self._timestamp_type:  # that of the broker's log
            timestamps = [self._max_timestamp] * len(offsets)
        else:
            timestamps = (spans[_TIMESTAMP] + self._first_timestamp).tolist()
        keys, key_sizes = self._pieces(spans[_KEY], spans[_KEY_BYTES])
        values, value_sizes = self._pieces(spans[_VALUE], spans[_VALUE_BYTES])
        headers: Any = [[]] * len(offsets)
        header_sizes = [-1] * len(offsets)
        for k in np.flatnonzero(spans[_N_HEADERS]).tolist():
            headers[k], header_sizes[k] = self._headers_of(*spans[_HEADERS:, k].tolist())
        return list(
            map(
                ConsumerRecord,
                repeat(place.topic),
                repeat(place.partition),
                repeat(leader_epoch),
                offsets,
                timestamps,
                repeat(self._timestamp_type),
                keys,
                values,
                headers,
                repeat(None),
                key_sizes,
                value_sizes,
                header_sizes,
            )
        )

    def _pieces(self, starts: np.ndarray, sizes: np.ndarray) -> tuple[list[bytes | None], list[int]]:
        whole = self._bytes
        pieces: list[bytes | None] = [
            whole[start:end] for start, end in zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        ]
        for k in np.flatnonzero(sizes < 0).tolist():
            pieces[k] = None
        return pieces, np.maximum(sizes, -1).tolist()

    def _headers_of(self, start: int, n_headers: int, end: int) -> tuple[Headers, int]:
        """The headers of a record, and their size. Those of neighbours are mostly the same."""
        packed = self._bytes[start:end]
        if packed != self._headers[0]:
            self._headers = (packed, _read_headers(packed, n_headers))
        return self._headers[1]


def _read_headers(packed: bytes, n_headers: int) -> tuple[Headers, int]:
    """Headers that `_find_parts` has gone through, and the size of their keys and values."""
    headers: Headers = []
    place = size = 0
    for _ in range(n_headers):
        n_bytes, place = util.decode_varint(packed, place)
        key = packed[place : place + n_bytes]
        place += n_bytes
        try:
            name = key.decode()
        except UnicodeDecodeError:
            name = bytes(byte if byte < 0x80 else 0x3F for byte in key).decode()
        n_bytes, place = util.decode_varint(packed, place)
        headers.append((name, packed[place : place + n_bytes] if n_bytes >= 0 else None))
        place += max(n_bytes, 0)
        size += len(key) + max(n_bytes, 0)
    return headers, size


_LEAST_RECORD_BYTES = 7  # each part is a byte at least


@kernel
def _find_parts(batch: np.ndarray, place: int, spans: np.ndarray) -> int:
    """Find the parts of records of message format 2, one column of `spans` (int64) for each.

    Returns:
        How many records there are, up to the first that is none.
    """
    size = len(batch)
    n_spans: int = spans.shape[1]
    for k in range(n_spans):
        n_bytes, place = _varint(batch, place, size)
        if place < 0 or n_bytes < 0 or n_bytes > size - place:
            return k
        end = place + n_bytes
        _, place = _varint(batch, place, end)  # the attributes, which mean nothing yet
        spans[1, k], place = _varint(batch, place, end)
        spans[0, k], place = _varint(batch, place, end)
        for part in range(2):
            n_bytes, place = _varint(batch, place, end)
            if place < 0 or n_bytes > end - place:
                return k
            spans[2 + 2 * part, k] = place
            spans[3 + 2 * part, k] = n_bytes
            place += max(n_bytes, 0)
        n_headers, place = _varint(batch, place, end)
        if place < 0 or n_headers < 0:
            return k
        spans[6, k] = place
        spans[7, k] = n_headers
        for _ in range(n_headers):
            for part in range(2):
                n_bytes, place = _varint(batch, place, end)
                if place < 0 or n_bytes > end - place or (part == 0 and n_bytes < 0):
                    return k
                place += max(n_bytes, 0)
        if place != end:
            return k
        spans[8, k] = end
    return n_spans


@kernel
def _varint(data: np.ndarray, place: int, end: int) -> tuple[int, int]:
    """The number at `place`, and where it ends: below 0 for none that ends before `end`, or when `place` is below 0."""
    if place < 0:
        return 0, -1
    value = np.uint64(0)
    for k in range(10):
        if place >= end:
            return 0, -1
        byte = data[place]
        place += 1
        value |= np.uint64(byte & 0x7F) << np.uint64(7 * k)
        if byte < 0x80:
            return int(np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))), place
    return 0, -1


_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4

# how many bytes one byte can become, as the formats have it; with zstd, as many as somebody likes
_MOST_UNPACKED = {_GZIP: 1_032, _LZ4: 255, _ZSTD: MAX_UNPACKED_BYTES}
_PIECE_BYTES = 1024 * 1024


def _unpack_all(compression: int, packed: bytes) -> bytes:
    if compression == 0:
        return packed
    decoders = {
        _GZIP: codec.gzip_decode,
        _SNAPPY: codec.snappy_decode,
        _LZ4: codec.lz4_decode,
        _ZSTD: codec.zstd_decode,
    }
    if compression not in decoders:
        raise UnsupportedCodecError(f"there is no codec {compression}")
    unpacked: bytes = decoders[compression](packed)
    return unpacked


def _unpacked(compression: int, packed: bytes, max_bytes: int) -> bytearray | None:
    """What was packed, None if it is more than `max_bytes`."""
    file = io.BytesIO(packed)
    reader: Any
    if compression == _GZIP:
        reader = gzip.GzipFile(fileobj=file)
    elif compression == _LZ4:
        reader = codec.lz4.LZ4FrameFile(file)
    else:
        reader = codec.zstd.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    unpacked = bytearray()
    with reader:
        while piece := reader.read(_PIECE_BYTES):
            unpacked += piece
            if len(unpacked) > max_bytes:
                return None
    return unpacked


def _one_record(offset_delta: int, value: bytes, headers: list[tuple[bytes, bytes]]) -> bytearray:
    """A record as it stands in a batch of message format 2, without a key, of the batch's first timestamp."""
    record = bytearray(1)  # no attributes
    for number in (0, offset_delta, -1, len(value)):
        util.encode_varint(number, record.append)
    record += value
    util.encode_varint(len(headers), record.append)
    for header in headers:
        for piece in header:
            util.encode_varint(len(piece), record.append)
            record += piece
    sized = bytearray()
    util.encode_varint(len(record), sized.append)
    return sized + record
