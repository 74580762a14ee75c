r"""The messages in `pairs`: what producers write, and how they are read. Message format 1.

A message is one Kafka record. Its value is one of two things:

1. *JSON*: one JSON object in UTF-8, one pair, at most 512 KiB. The url stands under `url`, `image_url` or `image_urls`,
   the text under `text`, `caption`, `captions` or `alt`, in any case, as in files; one name of each. Other members are
   ignored, apart from `uid` and those that `keep_columns` names.
2. *Arrow*: an Arrow IPC stream (not a file) of many pairs: a schema, then record batches, with bodies that are not
   compressed. The columns have the same names; url and text are `string`, `large_string`, `string_view` or the binary
   types likewise, without a dictionary or an extension. At most 65,536 rows and 16 MiB in one message, and 512 KiB in
   one row, kept columns included.

The header `content-type` says which: `application/json` or `application/vnd.apache.arrow.stream` (what follows a
semicolon is ignored). Without it, or with another, an Arrow stream is known by its first four bytes, FF FF FF FF, with
which no JSON text begins. The header `message-format` holds the version in decimal; without it, it is 1. A message of
another version is rejected `bad_schema`. Of equal headers the last one counts. The header `forwarded-from` marks pairs
that a worker passed on to their home: they are counted as such, and read like all others. With `not-unpacked` come
messages that `clients` found too large to unpack; they are rejected `too_large`. Other headers mean nothing.

The key is for the broker and for people; it is not read. `produce` sets it to the 16 bytes of the pair_id for JSON, and
sets none for Arrow. It puts each pair into its home partition (see `home`), so the pairs of an Arrow message all have
the same one; for other producers that is no must, as workers pass on what is not at home.

Where decisions are final, workers write each accepted pair to the topic `accepted`, in Arrow messages of this kind and
in the partition with the number of its home: another curation can read them as its input. They are written in
transactions, so whoever follows them reads what is committed alone (`isolation.level=read_committed`).

What cannot be read is rejected with a reason, never with an error. An Arrow message that cannot be read is one record;
one that can is as many as it has rows, each of which is then judged by itself, as in a file. An Arrow message of no
rows is no record at all.

A *position* is a place in a partition as one number: `offset * 65,536 + row`, with the row of the pair in its message.
Positions grow along a partition, and all of a message lies between `position(offset)` and `position(offset + 1)`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from consumers.json_runs import JsonRuns
from stream_curate.errors import UsageError
from stream_curate.pairs import MAX_RECORD_BYTES, Records, Rejection, pair_schema, validate
from stream_curate.reasons import Reason
from stream_curate.settings import Settings
from stream_curate.sources import ColumnChoice
from stream_curate.sources.columns import TEXT_ALIASES, UID, URL_ALIASES, candidates, kept_candidates
from stream_curate.sources.json_pairs import JsonPairs
from stream_curate.sources.source import MAX_BATCH_BYTES, as_text

MESSAGE_FORMAT = 1
MAX_ARROW_BYTES = 16 * 1024 * 1024
MAX_ARROW_ROWS = 65_536

CONTENT_TYPE = "content-type"
FORMAT_VERSION = "message-format"
JSON_TYPE = b"application/json"
ARROW_TYPE = b"application/vnd.apache.arrow.stream"
FORWARDED_FROM = "forwarded-from"
NOT_UNPACKED = "not-unpacked"
MEANING_HEADERS = (CONTENT_TYPE, FORMAT_VERSION, NOT_UNPACKED)
ARROW_HEADERS = [(CONTENT_TYPE, ARROW_TYPE), (FORMAT_VERSION, b"%d" % MESSAGE_FORMAT)]

_RUN = 256  # messages decoded at once; one that has other members sends all of them the slow way
_MAX_HEADER_BYTES = 256  # what follows in a header is not looked at
_CONTINUATION = b"\xff\xff\xff\xff"
_PARTS_COUNTED = 100  # more are an attempt to take time
_EXTENSION = b"ARROW:extension:name"

Headers = Sequence[tuple[str, bytes | None]]


class Message(Protocol):
    """What is needed of a `kafka.consumer.fetcher.ConsumerRecord`."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


def position(offset: int, row: int = 0) -> int:
    """The place of a pair in its partition.

    >>> position(7, 3), offset_and_row(458755)
    (458755, (7, 3))
    """
    return offset * MAX_ARROW_ROWS + row


def offset_and_row(position: int) -> tuple[int, int]:
    """The offset of the message that a position is in, and the row there."""
    return divmod(position, MAX_ARROW_ROWS)


def n_records(value: bytes | None) -> int:
    """About how many records a message is, without reading them: the rows that an Arrow stream says it has.

    >>> n_records(b'{"url": "http://example.org/1.jpg", "caption": "a dog"}'), n_records(None)
    (1, 1)
    """
    if value is None or not value.startswith(_CONTINUATION):
        return 1
    try:
        n_rows = sum(part.n_rows for part in islice(_parts(value), _PARTS_COUNTED))
    except (struct.error, ValueError):
        return 1
    return min(max(1, n_rows), MAX_ARROW_ROWS)


def home(pair_ids: pa.FixedSizeBinaryArray, n_partitions: int) -> np.ndarray:
    """The partition that each pair belongs to: the first 8 bytes of its pair_id, big-endian, mod `n_partitions`.

    Returns:
        int64[n_pairs].

    >>> home(pa.array([bytes(7) + b"\\x0a" + bytes(8)], pa.binary(16)), 8).tolist()
    [2]
    """
    begin = 16 * pair_ids.offset
    halves = np.frombuffer(pair_ids.buffers()[1], ">u8")[begin // 8 : (begin + 16 * len(pair_ids)) // 8]
    return (halves[::2] % np.uint64(n_partitions)).astype(np.int64)


def message_columns(settings: Settings) -> ColumnChoice:
    """How messages name their columns: by the usual names, whatever those of files are called.

    Raises:
        UsageError: a column to keep has a name that stands for the url or the text of a message.
    """
    taken = [name for name in settings.keep_columns if name.lower() in (*URL_ALIASES, *TEXT_ALIASES)]
    if taken:
        raise UsageError(
            f"keep_columns: {', '.join(taken)}: in a message this is the name of the url or the text; leave it out, or "
            "call the column something else"
        )
    return ColumnChoice(keep=settings.keep_columns)


# --- writing


def encode_json(pairs: pa.RecordBatch) -> list[bytes]:
    """Each pair as the value of a JSON message: url, text, and the kept columns that are not null."""
    names = ["url", "text", *_kept_names(pairs)]
    columns = [pairs.column(name).to_pylist() for name in names]
    if len(names) == 2:
        return [orjson.dumps({"url": url, "text": text}) for url, text in zip(*columns, strict=True)]
    return [
        orjson.dumps({name: value for name, value in zip(names, values, strict=True) if value is not None})
        for values in zip(*columns, strict=True)
    ]


def encode_arrow(pairs: pa.RecordBatch) -> bytes:
    """Pairs as the value of one Arrow message: url, text and the kept columns.

    Raises:
        ValueError: for more than a message may hold.
    """
    message = pairs.select(["url", "text", *_kept_names(pairs)])
    value = _ipc_stream(message)
    if len(pairs) > MAX_ARROW_ROWS or len(value) > MAX_ARROW_BYTES:
        raise ValueError(f"{len(pairs)} pairs of {len(value)} bytes are too much for one message")
    return value


def _kept_names(pairs: pa.RecordBatch) -> list[str]:
    """The kept columns with anything in them."""
    own = pair_schema().names
    return [name for name in pairs.schema.names if name not in own and pairs.column(name).null_count < pairs.num_rows]


def _ipc_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    value: bytes = sink.getvalue().to_pybytes()
    return value


# --- reading


@dataclass(frozen=True)
class ReadBatch:
    """Consecutive records of one partition, decoded and not yet judged.

    Attributes:
        records: as from a source; `source` is the partition, such as "kafka:pairs/3", and `first_row` is 0. Its `raw`
            has the original bytes of every record: the message, or of one with many pairs the one row as an Arrow
            message of its own. A null value is no bytes.
        positions: int64[n_records], growing.
        was_forwarded: bool[n_records]; whether its message has the header `forwarded-from`.
    """

    records: Records
    positions: np.ndarray
    was_forwarded: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def validate(self) -> tuple[pa.RecordBatch, list[Rejection]]:
        """See `pairs.validate`; `source_row` is the position."""
        pairs, rejections = validate(self.records)
        place = pairs.schema.get_field_index("source_row")
        rows = self.positions[pairs.column(place).to_numpy()]
        pairs = pairs.set_column(place, pairs.schema.field(place), pa.array(rows, pa.int64()))
        return pairs, [replace(each, source_row=int(self.positions[each.source_row])) for each in rejections]

    def original(self, index: int) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        """The original bytes of a record, None for a null value, and those headers with which they mean the same."""
        return cast(_Originals, self.records.raw).with_headers(index)

    def part(self, start: int, stop: int) -> ReadBatch:
        """The records `start` to `stop` (not included)."""
        whole = self.records
        records = Records(
            whole.source,
            0,
            whole.urls[start:stop],
            whole.texts[start:stop],
            {name: column[start:stop] for name, column in whole.kept.items()},
            {index - start: reason for index, reason in whole.rejected.items() if start <= index < stop},
            cast(_Originals, whole.raw).part(start, stop),
        )
        return ReadBatch(records, self.positions[start:stop], self.was_forwarded[start:stop])


class MessageReader:
    """Decodes the messages of one partition.

    Args:
        topic, partition: where they come from.
        columns: which columns to keep; see `message_columns`.

    >>> reader = MessageReader("pairs", 3)
    >>> pairs, rejections = reader.decode(b'{"url": "http://example.org/1.jpg", "caption": "a dog"}').validate()
    >>> pairs.column("text").to_pylist(), reader.decode(None).records.rejected
    (['a dog'], {0: <Reason.NULL_VALUE: 'null_value'>})
    """

    def __init__(self, topic: str, partition: int, columns: ColumnChoice | None = None) -> None:
        self.source = f"kafka:{topic}/{partition}"
        self._columns = columns if columns is not None else ColumnChoice()
        self._json = JsonPairs(self._columns)
        self._json_runs = JsonRuns(self._columns)

    def decode(self, value: bytes | None, headers: Headers = (), offset: int = 0) -> ReadBatch:
        """One message; `read` is faster for many. Nothing in a message raises an error."""
        collected = _Collected(self.source, self._columns.kept_names)
        self._decode(collected, offset, value, headers)
        return collected.take()

    def nothing(self) -> ReadBatch:
        """A batch of no records."""
        return _Collected(self.source, self._columns.kept_names).take()

    def read(self, messages: Iterable[Message], n_records: int = MAX_ARROW_ROWS) -> Iterator[ReadBatch]:
        """Many messages, in their order, in batches of about `n_records` records or 16 MiB.

        A message is never divided, so a batch may be larger by one message. None is empty. Nothing in a message raises
        an error.
        """
        collected = _Collected(self.source, self._columns.kept_names)
        iterator = iter(messages)
        while run := list(islice(iterator, max(1, min(_RUN, n_records - collected.n_records)))):
            is_taken = self._decode_run(collected, run)
            for message in () if is_taken else run:
                self._decode(collected, message.offset, message.value, message.headers)
                if collected.n_records >= n_records or collected.n_bytes >= MAX_BATCH_BYTES:
                    yield collected.take()
                    collected = _Collected(self.source, self._columns.kept_names)
            if collected.n_records >= n_records:
                yield collected.take()
                collected = _Collected(self.source, self._columns.kept_names)
        if collected.n_records:
            yield collected.take()

    def _decode_run(self, collected: _Collected, run: Sequence[Message]) -> bool:
        """Decode messages that are all plain JSON, and false for any others."""
        values = [message.value for message in run if message.value is not None and not message.headers]
        sizes = list(map(len, values))
        if (
            len(values) < max(2, len(run))
            or max(sizes) > MAX_RECORD_BYTES
            or collected.n_bytes + sum(sizes) >= MAX_BATCH_BYTES
        ):
            return False
        found = self._json_runs.pairs(values)
        if found is None:
            return False
        for k in found.odd:
            found.urls[k], found.texts[k], _, reason = self._json.pair(values[k])
            if reason is not None:
                collected.mark(k, reason)
        collected.add_pairs([message.offset for message in run], values, sum(sizes), found.urls, found.texts)
        return True

    def _decode(self, collected: _Collected, offset: int, value: bytes | None, headers: Headers) -> None:
        if value is None:
            collected.reject(offset, None, headers, Reason.NULL_VALUE)
            return
        try:
            is_arrow, is_known_version = _kind(value, headers) if headers else (value[:4] == _CONTINUATION, True)
            if is_arrow:
                _check_declared(value)
            elif len(value) > MAX_RECORD_BYTES:
                raise _Rejected(Reason.TOO_LARGE)
            if not is_known_version:
                raise _Rejected(Reason.BAD_SCHEMA)
            if is_arrow:
                collected.add_rows(offset, value, headers, _read_arrow(value, self._columns))
            else:
                url, text, kept, reason = self._json.pair(value)
                if reason is not None:
                    raise _Rejected(reason)
                collected.add_pair(offset, value, headers, url, text, kept)
        except _Rejected as rejected:
            collected.reject(offset, value, headers, rejected.reason)


class _Rejected(Exception):
    """A message cannot be read."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def _kind(value: bytes, headers: Headers) -> tuple[bool, bool]:
    """Whether a message is an Arrow stream, and whether its version is known. Of equal headers the last one counts.

    Raises:
        _Rejected: `too_large` for what was not unpacked.
    """
    is_arrow = value[:4] == _CONTINUATION
    is_known_version = True
    for name, said in headers:
        if name == CONTENT_TYPE:
            content_type = _content_type(said)
            if content_type is not None:
                is_arrow = content_type == ARROW_TYPE
        elif name == FORMAT_VERSION:
            is_known_version = said == b"%d" % MESSAGE_FORMAT
        elif name == NOT_UNPACKED:
            raise _Rejected(Reason.TOO_LARGE)
    return is_arrow, is_known_version


def _content_type(said: bytes | None) -> bytes | None:
    """The type that the header names, None for any but the two that are known."""
    content_type = (said or b"")[:_MAX_HEADER_BYTES].split(b";")[0].strip().lower()
    return content_type if content_type in (JSON_TYPE, ARROW_TYPE) else None


def _meaning(headers: Headers) -> list[tuple[str, bytes]]:
    """At most one of each header that `_kind` looks at, with the same outcome, and no longer than it may be."""
    found: dict[str, bytes] = {}
    for name, said in headers:
        value = (said or b"")[:_MAX_HEADER_BYTES]
        if name in (FORMAT_VERSION, NOT_UNPACKED) or (
            name == CONTENT_TYPE and (_content_type(said) is not None or name not in found)
        ):
            found[name] = value
    return list(found.items())


class _Collected:
    """Messages on their way to be a batch. Those of one pair are lists until they are many."""

    def __init__(self, source: str, kept_names: Sequence[str]) -> None:
        self.n_records = 0
        self.n_bytes = 0
        self._source = source
        self._kept_names = kept_names
        self._nothing_kept: tuple[None, ...] = (None,) * len(kept_names)
        self._messages: list[bytes | None] = []
        self._headers: list[Headers] = []
        self._forwarded: list[int] = []  # which of the messages are
        self._offsets: list[int] = []
        self._n_rows: list[int] = []  # of each message
        self._columns: list[list[pa.Array]] = [[] for _ in range(2 + len(kept_names))]
        self._urls: list[str | None] = []
        self._texts: list[str | None] = []
        self._kept: list[tuple[str | None, ...]] = []
        self._rejected: dict[int, Reason] = {}

    def add_pair(
        self,
        offset: int,
        value: bytes | None,
        headers: Headers,
        url: str | None,
        text: str | None,
        kept: tuple[str | None, ...],
    ) -> None:
        self._urls.append(url)
        self._texts.append(text)
        self._kept.append(kept)
        self._add_message(offset, value, headers, 1)

    def add_pairs(
        self,
        offsets: Sequence[int],
        values: Sequence[bytes],
        n_bytes: int,
        urls: Sequence[str | None],
        texts: Sequence[str | None],
    ) -> None:
        """Messages of one pair each, without headers, and with nothing to keep."""
        n = len(values)
        self._urls += urls
        self._texts += texts
        self._kept += [self._nothing_kept] * n
        self._messages += values
        self._headers += [()] * n
        self._offsets += offsets
        self._n_rows += [1] * n
        self.n_records += n
        self.n_bytes += n_bytes

    def mark(self, n_ahead: int, reason: Reason) -> None:
        """A record that is rejected is added after so many others."""
        self._rejected[self.n_records + n_ahead] = reason

    def reject(self, offset: int, value: bytes | None, headers: Headers, reason: Reason) -> None:
        self.mark(0, reason)
        self.add_pair(offset, value, headers, None, None, self._nothing_kept)

    def add_rows(self, offset: int, value: bytes, headers: Headers, batches: Sequence[Sequence[pa.Array]]) -> None:
        self._close_lists()
        for batch in batches:
            for pieces, column in zip(self._columns, batch, strict=True):
                pieces.append(column)
        self._add_message(offset, value, headers, sum(len(batch[0]) for batch in batches))

    def take(self) -> ReadBatch:
        self._close_lists()
        types = (pa.binary(), pa.binary(), *(pa.string() for _ in self._kept_names))
        urls, texts, *kept = (
            pa.concat_arrays(pieces) if pieces else pa.array([], type_)
            for pieces, type_ in zip(self._columns, types, strict=True)
        )
        n_rows = np.array(self._n_rows, np.int64)
        message_of = np.repeat(np.arange(len(n_rows)), n_rows)
        row_of = np.arange(self.n_records, dtype=np.int64) - (np.cumsum(n_rows) - n_rows)[message_of]
        positions = np.array(self._offsets, np.int64)[message_of] * MAX_ARROW_ROWS + row_of
        is_forwarded = np.zeros(len(n_rows), np.bool_)
        is_forwarded[self._forwarded] = True
        columns = dict(zip(self._kept_names, kept, strict=True))
        originals = _Originals(self._messages, self._headers, n_rows, message_of, urls, texts, columns)
        rejected = self._rejected | _too_large([urls, texts, *kept]) if kept else self._rejected
        records = Records(self._source, 0, urls, texts, columns, rejected, originals)
        return ReadBatch(records, positions, is_forwarded[message_of])

    def _add_message(self, offset: int, value: bytes | None, headers: Headers, n_rows: int) -> None:
        if headers and any(name == FORWARDED_FROM for name, _ in headers):
            self._forwarded.append(len(self._messages))
        self._messages.append(value)
        self._headers.append(headers)
        self._offsets.append(offset)
        self._n_rows.append(n_rows)
        self.n_records += n_rows
        self.n_bytes += len(value) if value is not None else 0

    def _close_lists(self) -> None:
        if not self._urls:
            return
        urls, texts, *kept = self._columns
        urls.append(pa.array(self._urls, pa.string()).view(pa.binary()))
        texts.append(pa.array(self._texts, pa.string()).view(pa.binary()))
        for k, pieces in enumerate(kept):
            pieces.append(pa.array([values[k] for values in self._kept], pa.string()))
        self._urls, self._texts, self._kept = [], [], []


def _too_large(columns: Sequence[pa.Array]) -> dict[int, Reason]:
    """The rows that have more bytes in all than a JSON message may have: no ledger record could take them for sure."""
    if sum(column.nbytes for column in columns) <= MAX_RECORD_BYTES:
        return {}
    n_bytes = sum(pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64) for column in columns)
    return dict.fromkeys(np.flatnonzero(n_bytes > MAX_RECORD_BYTES).tolist(), Reason.TOO_LARGE)


@dataclass(frozen=True)
class _Originals(Mapping[int, bytes]):
    """The original bytes of each record of a batch; what few of them are looked at is made when it is."""

    messages: Sequence[bytes | None]
    headers: Sequence[Headers]  # of each message
    n_rows: np.ndarray  # of each message
    message_of: np.ndarray  # of each record
    urls: pa.BinaryArray
    texts: pa.BinaryArray
    kept: Mapping[str, pa.StringArray]

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise KeyError(index)
        message = self.message_of[index]
        if self.n_rows[message] == 1:
            return self.messages[message] or b""
        columns = {"url": self.urls, "text": self.texts, **self.kept}
        # built anew: a slice is written with bits of its neighbours, and the bytes must not tell of the batch
        row = {name: pa.array([column[index].as_py()], column.type) for name, column in columns.items()}
        return _ipc_stream(pa.RecordBatch.from_pydict(row))

    def with_headers(self, index: int) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        """See `ReadBatch.original`."""
        message = self.message_of[index]
        if self.n_rows[message] != 1:
            return self[index], ARROW_HEADERS
        return self.messages[message], _meaning(self.headers[message])

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self.message_of)

    def part(self, start: int, stop: int) -> _Originals:
        """Those of the records from `start` to `stop` (not included)."""
        return replace(
            self,
            message_of=self.message_of[start:stop],
            urls=self.urls[start:stop],
            texts=self.texts[start:stop],
            kept={name: column[start:stop] for name, column in self.kept.items()},
        )


# --- Arrow streams from anywhere


def _check_declared(value: bytes) -> None:
    """Look at what each part of an Arrow stream declares, before anything of it is unpacked.

    Raises:
        _Rejected: `too_large` for compressed bodies and for more rows or bytes than a message may have; `bad_arrow` for
            what is no stream from its first byte to an end marker that is its last.
    """
    n_rows = n_bytes = 0
    try:
        for part in _parts(value):
            n_rows += part.n_rows
            n_bytes += max(part.body_bytes, part.buffer_bytes)
            if part.is_compressed or n_rows > MAX_ARROW_ROWS or n_bytes > MAX_ARROW_BYTES:
                raise _Rejected(Reason.TOO_LARGE)
    except (struct.error, ValueError):
        raise _Rejected(Reason.BAD_ARROW) from None


@dataclass(frozen=True)
class _Declared:
    """What one part of a stream says of itself. `buffer_bytes` can be more than the body: buffers may overlap."""

    n_rows: int
    body_bytes: int
    buffer_bytes: int
    is_compressed: bool


def _parts(value: bytes) -> Iterator[_Declared]:
    """The parts of a stream, one after the other.

    Raises:
        struct.error, ValueError: for what is no stream from its first byte to an end marker that is its last.
    """
    place = 0
    while True:
        marker, metadata_bytes = struct.unpack_from("<4si", value, place)
        if marker != _CONTINUATION or metadata_bytes < 0:
            raise ValueError("a part that does not begin as one")
        place += 8
        if metadata_bytes == 0:
            break
        part = _declared(value[place : place + metadata_bytes])
        yield part
        place += metadata_bytes + part.body_bytes
    if place != len(value):
        raise ValueError("bytes after the end")


def _declared(metadata: bytes) -> _Declared:
    """Read the flatbuffer `Message` of Arrow's Message.fbs, as far as it is needed.

    Raises:
        struct.error, ValueError: for what cannot be one.
    """
    (root,) = struct.unpack_from("<I", metadata)
    header_type = _scalar(metadata, root, 1, "<B")
    body_bytes = _scalar(metadata, root, 3, "<q")
    batch = _table(metadata, root, 2)
    if header_type == 2 and batch is not None:  # a DictionaryBatch holds a RecordBatch
        batch = _table(metadata, batch, 1)
    if body_bytes < 0:
        raise ValueError("a body of less than nothing")
    if header_type not in (2, 3) or batch is None:
        return _Declared(0, body_bytes, 0, is_compressed=False)
    n_rows = _scalar(metadata, batch, 0, "<q") if header_type == 3 else 0
    buffers = _table(metadata, batch, 2)
    lengths: list[int] = []
    if buffers is not None:
        (n_buffers,) = struct.unpack_from("<I", metadata, buffers)
        lengths = np.frombuffer(metadata, "<i8", 2 * n_buffers, buffers + 4)[1::2].tolist()
    if n_rows < 0 or min(lengths, default=0) < 0:
        raise ValueError("less than nothing")
    return _Declared(n_rows, body_bytes, sum(lengths), is_compressed=_field(metadata, batch, 3) is not None)


def _field(metadata: bytes, table: int, index: int) -> int | None:
    """Where a field of a flatbuffer table is, None if it is left out."""
    (back,) = struct.unpack_from("<i", metadata, table)
    vtable = table - back
    if vtable < 0:
        raise ValueError("a table without a shape")
    (vtable_bytes,) = struct.unpack_from("<H", metadata, vtable)
    if 4 + 2 * index >= vtable_bytes:
        return None
    (distance,) = struct.unpack_from("<H", metadata, vtable + 4 + 2 * index)
    return table + distance if distance else None


def _scalar(metadata: bytes, table: int, index: int, kind: str) -> int:
    place = _field(metadata, table, index)
    return int(struct.unpack_from(kind, metadata, place)[0]) if place is not None else 0


def _table(metadata: bytes, table: int, index: int) -> int | None:
    """Where the table or vector that a field points to is."""
    place = _field(metadata, table, index)
    return place + int(struct.unpack_from("<I", metadata, place)[0]) if place is not None else None


def _read_arrow(value: bytes, choice: ColumnChoice) -> list[list[pa.Array]]:
    """The record batches of a stream whose sizes were checked: of each the url, the text and the kept columns.

    Raises:
        _Rejected: `bad_arrow` or `bad_schema`; `too_large` for views that show the same bytes many times.
    """
    try:
        return list(_arrow_batches(pa.py_buffer(value), choice))
    except _Rejected:
        raise
    except Exception:  # pyarrow has many kinds of errors for damaged data, and raises them in many places
        raise _Rejected(Reason.BAD_ARROW) from None


def _arrow_batches(buffer: pa.Buffer, choice: ColumnChoice) -> Iterator[list[pa.Array]]:
    wanted = _wanted(pa.ipc.open_stream(buffer).schema, choice)
    included = sorted({index for index in wanted if index is not None})
    options = pa.ipc.IpcReadOptions(
        use_threads=False, included_fields=included, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific
    )
    n_view_bytes = 0
    for batch in pa.ipc.open_stream(buffer, options=options):
        columns: list[pa.Array] = []
        for k, index in enumerate(wanted):
            if index is None:
                columns.append(pa.nulls(batch.num_rows, pa.string()))
                continue
            column = _checked(batch.column(included.index(index)), batch.num_rows)
            n_view_bytes += _view_bytes(column)
            if n_view_bytes > MAX_ARROW_BYTES:
                raise _Rejected(Reason.TOO_LARGE)
            columns.append(column.cast(pa.binary()) if k < 2 else _kept_text(column))
        yield columns


def _wanted(schema: pa.Schema, choice: ColumnChoice) -> list[int | None]:
    """The columns for url, text and each kept one; None for a kept one that there is not."""
    url, text = candidates(schema.names, choice)
    if len(url) != 1 or len(text) != 1 or not all(_is_text(schema.field(index)) for index in (*url, *text)):
        raise _Rejected(Reason.BAD_SCHEMA)
    wanted: list[int | None] = [*url, *text]
    for name, found in zip(choice.kept_names, kept_candidates(schema.names, choice), strict=True):
        is_usable = len(found) == 1 and _is_plain(schema.field(found[0]))
        if found and not is_usable and (name != UID or choice.needs_uid):
            raise _Rejected(Reason.BAD_SCHEMA)
        wanted.append(found[0] if is_usable else None)
    return wanted


_AS_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


def _is_text(field: pa.Field) -> bool:
    is_extension = _EXTENSION in (field.metadata or {})
    return not is_extension and (field.type == pa.null() or field.type in (*_AS_BYTES, *_AS_BYTES.values()))


def _is_plain(field: pa.Field) -> bool:
    is_extension = isinstance(field.type, pa.BaseExtensionType) or _EXTENSION in (field.metadata or {})
    return _is_text(field) or (
        not is_extension and (pa.types.is_primitive(field.type) or pa.types.is_fixed_size_binary(field.type))
    )


def _checked(column: pa.Array, n_rows: int) -> pa.Array:
    """A column whose buffers are all that they should be; text as bytes, as single rows may be no UTF-8."""
    if len(column) != n_rows:
        raise ValueError(f"{len(column)} values in a batch of {n_rows} rows")
    if column.type in _AS_BYTES:
        column = column.view(_AS_BYTES[column.type])
    column.validate(full=True)
    return column


def _view_bytes(column: pa.Array) -> int:
    """What the views of a column come to when each has its own bytes; 0 for other columns, which cannot overlap."""
    if column.type != pa.binary_view():
        return 0
    views = np.frombuffer(column.buffers()[1], np.int32)[::4][column.offset : column.offset + len(column)]
    is_valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
    return int(views[is_valid].astype(np.int64).sum())


def _kept_text(column: pa.Array) -> pa.StringArray:
    is_bytes = column.type == pa.null() or column.type in _AS_BYTES.values()
    if is_bytes or pa.types.is_fixed_size_binary(column.type):
        return as_text(column.cast(pa.binary()))
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        raise _Rejected(Reason.BAD_SCHEMA) from None
