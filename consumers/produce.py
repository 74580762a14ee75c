"""Files into `pairs`: each valid pair to its home partition, once as long as the run is not broken off.

    source -> records -> validate -> home -> messages -> acknowledged

A run that is started again starts over: pairs that came before are then in the topic twice, which counts nothing with
`dedup: exact`.

Dead letters go the same way again with `resend`: each original is read and judged once more, as this version and these
settings have it. Those that only a person can mend are written to a file with `export_letters`, which is produced like
any other when it is mended. Both only read the letters: these stay until their retention is over, and what was sent is
not remembered, so that sending them twice is like any other run that starts over.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import structlog

from consumers.clients import end_producer, make_producer
from consumers.dead_letters import DeadLetter, read_dead_letters
from consumers.errors import in_words
from consumers.home_messages import home_messages
from consumers.messages import (
    ARROW_HEADERS,
    Headers,
    MessageReader,
    ReadBatch,
    encode_arrow,
    encode_json,
    home,
)
from consumers.settings import KafkaSettings
from consumers.topics import check_partitions
from stream_curate.errors import InputError, OutputError
from stream_curate.pairs import validate
from stream_curate.printable import printable
from stream_curate.reasons import Reason
from stream_curate.sources import ColumnChoice, Source
from stream_curate.stop import StopReading, StopRequest

MessageFormat = Literal["json", "arrow"]

# pairs that are sent and not acknowledged are in memory, and kafka-python sets no limit to them
MAX_BATCHES_IN_FLIGHT = 2

log = structlog.get_logger()


@dataclass
class Produced:
    """What a run has done so far.

    Attributes:
        n_read: records read, each of which is sent or rejected.
        n_sent: pairs acknowledged by the brokers.
        n_messages: the messages that these are in.
        rejected: reason -> number of records that were not sent, as they are no valid pairs.
        skipped: inputs that could not be read to their end, and why.
        stopped: whether a stop was requested before the end.
    """

    n_read: int = 0
    n_sent: int = 0
    n_messages: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    stopped: bool = False


@dataclass
class LettersRead(Produced):
    """What came of dead letters so far; what is counted as rejected is still no valid pair.

    Attributes:
        n_letters: those with the reasons asked for.
        n_foreign: records in the topic that are no letters of this format.
    """

    n_letters: int = 0
    n_foreign: int = 0


def produce(
    sources: Sequence[Source],
    settings: KafkaSettings,
    *,
    format: MessageFormat = "json",
    batch_size: int = 65_536,
    skip_bad_files: bool = False,
    stop: StopRequest | None = None,
    on_batch: Callable[[Source, Produced], None] = lambda source, produced: None,
) -> Produced:
    """Send the valid pairs of `sources`, in their order, and wait until all are acknowledged.

    Args:
        sources: what is read.
        settings: the brokers and the topic.
        format: one JSON message a pair, or Arrow messages of up to `ARROW_MESSAGE_PAIRS` pairs.
        batch_size: records read and sent together.
        skip_bad_files: go on with the next source when one cannot be read on.
        stop: asked after each batch.
        on_batch: called after each batch.

    Raises:
        KafkaProblem: no broker in time, no such topic, a topic with another number of partitions than the settings say,
            or a message that was not acknowledged.
        InputError: a source cannot be read on, and `skip_bad_files` is off.
    """
    stop = stop or StopRequest()
    produced = Produced()
    topic = settings.topics.pairs
    with in_words(settings, f"producing into {printable(topic)}"):
        sender = _Sender(settings, format, produced)
        try:
            for source in sources:
                try:
                    for pairs in _pairs(source, batch_size, produced, stop):
                        sender.send(pairs)
                        on_batch(source, produced)
                except InputError as error:
                    if not skip_bad_files:
                        raise
                    produced.skipped.append((source.name, str(error)))
                    log.warning("skipped, not read to its end", source=source.name, error=str(error))
                if stop.requested:
                    produced.stopped = True
                    break
        finally:
            sender.close()
    return produced


def resend(
    settings: KafkaSettings,
    *,
    columns: ColumnChoice | None = None,
    reasons: Collection[str] = (),
    format: MessageFormat = "json",
    stop: StopRequest | None = None,
    on_batch: Callable[[int, LettersRead], None] = lambda partition, read: None,
) -> LettersRead:
    """Try every dead letter that is there now once more, and send what is a valid pair by now.

    Args:
        settings: the brokers and the topics.
        columns: which columns are kept; see `messages.message_columns`.
        reasons: only letters with one of these; with none, all.
        format: as in `produce`.
        stop: asked now and then.
        on_batch: called after each batch, with the partition.

    Raises:
        KafkaProblem: as in `produce`.
    """
    read = LettersRead()
    with in_words(settings, f"sending the letters of {printable(settings.topics.dlq)} again"):
        sender = _Sender(settings, format, read)
        try:
            for partition, letters in _letters(settings, reasons, read, stop or StopRequest()):
                reader = MessageReader(settings.topics.pairs, partition, columns)
                for batch in reader.read(_Original.of(letter) for letter in letters if _is_whole(letter, read)):
                    pairs, rejections = batch.validate()
                    read.n_read += len(batch)
                    read.rejected.update(rejection.reason for rejection in rejections)
                    sender.send(pairs)
                on_batch(partition, read)
        finally:
            sender.close()
    return read


def export_letters(
    settings: KafkaSettings,
    path: Path,
    *,
    columns: ColumnChoice | None = None,
    reasons: Collection[str] = (),
    stop: StopRequest | None = None,
    on_batch: Callable[[int, LettersRead], None] = lambda partition, read: None,
) -> LettersRead:
    """Write every dead letter that is there now as one line of JSON, for people to mend and `produce` to read.

    A line has `url` and `text` (and the kept columns) if the original is one pair that can be read; else these are
    null, and stay no valid pair until somebody puts something there. All that is known of the letter is in the member
    `dead_letter`, with what cannot be read: as `raw`, or as `raw_base64` if it is not UTF-8.

    Args:
        settings: the brokers and the topics.
        path: the file, which must not be there.
        columns: which columns are kept; see `messages.message_columns`.
        reasons: only letters with one of these; with none, all.
        stop: asked now and then.
        on_batch: called after each batch, with the partition.

    Raises:
        KafkaProblem: as in `produce`.
        OutputError: the file is there already, or cannot be written; it may then be incomplete.
    """
    read = LettersRead()
    try:
        file = path.open("xb")
    except FileExistsError:
        raise OutputError(f"{path} is there already, and is not overwritten: give another name") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    with file, in_words(settings, f"reading the letters of {printable(settings.topics.dlq)}"):
        for partition, letters in _letters(settings, reasons, read, stop or StopRequest()):
            reader = MessageReader(settings.topics.pairs, partition, columns)
            _write(file, path, [_as_json_line(letter, reader) for letter in letters])
            on_batch(partition, read)
    return read


def _letters(
    settings: KafkaSettings, reasons: Collection[str], read: LettersRead, stop: StopRequest
) -> Iterator[tuple[int, list[DeadLetter]]]:
    """The letters with these reasons, counted, and the partition that they are in."""
    with closing(read_dead_letters(settings)) as polled:
        for partition, letters in polled:
            read.n_foreign += letters.count(None)
            wanted = [letter for letter in letters if letter is not None and (not reasons or letter.reason in reasons)]
            read.n_letters += len(wanted)
            yield partition, wanted
            if stop.requested:
                read.stopped = True
                return


@dataclass(frozen=True)
class _Original:
    """The message that a letter holds."""

    offset: int
    value: bytes | None
    headers: Headers

    @classmethod
    def of(cls, letter: DeadLetter) -> _Original:
        return cls(letter.offset, letter.value, letter.original_headers)


def _is_whole(letter: DeadLetter, read: LettersRead) -> bool:
    """Whether all of the original is there; what was cut is too large, and counted so."""
    if letter.truncated_from is None:
        return True
    read.n_read += 1
    read.rejected[Reason.TOO_LARGE] += 1
    return False


def _as_json_line(letter: DeadLetter, reader: MessageReader) -> bytes:
    facts: dict[str, Any] = {
        name: getattr(letter, name)
        for name in ("reason", "source", "offset", "row", "sha256", "preview", "truncated_from")
    }
    members = _readable(reader.decode(letter.value, letter.original_headers, letter.offset))
    if members is None:
        members = {"url": None, "text": None}
        facts |= _raw(letter.value)
    return orjson.dumps(members | {"dead_letter": facts}) + b"\n"


def _readable(batch: ReadBatch) -> dict[str, str | None] | None:
    """The members of the pair in a batch, valid or not; None if it is not one, or one that JSON cannot hold."""
    records = batch.records
    if len(batch) != 1 or records.rejected:
        return None
    kept = {name: column[0].as_py() for name, column in records.kept.items()}
    try:
        url, text = ((column[0].as_py() or b"").decode() for column in (records.urls, records.texts))
    except UnicodeDecodeError:
        return None
    return {"url": url, "text": text} | {name: value for name, value in kept.items() if value is not None}


def _raw(value: bytes | None) -> dict[str, str | None]:
    try:
        return {"raw": None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(value or b"").decode()}


def _write(file: BinaryIO, path: Path, lines: list[bytes]) -> None:
    try:
        file.writelines(lines)
        file.flush()
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _pairs(source: Source, batch_size: int, produced: Produced, stop: StopRequest) -> Iterator[pa.RecordBatch]:
    """The valid pairs of a source, as batches; what is rejected is counted."""
    batches = source.read(0, batch_size)
    while not stop.requested:
        try:
            with stop.reading():
                records = next(batches, None)
        except StopReading:
            return
        if records is None:
            return
        pairs, rejections = validate(records)
        produced.n_read += len(records)
        produced.rejected.update(rejection.reason for rejection in rejections)
        yield pairs


class _Sender:
    """Sends batches of pairs; holds no more than `MAX_BATCHES_IN_FLIGHT` that are not acknowledged."""

    def __init__(self, settings: KafkaSettings, format: MessageFormat, produced: Produced) -> None:
        self._topic = settings.topics.pairs
        self._n_partitions = settings.partitions
        self._limit_s = settings.give_up_after_s
        self._format = format
        self._produced = produced
        self._in_flight: deque[tuple[int, list[Any]]] = deque()
        check_partitions(settings, self._topic)
        self._producer = make_producer(settings)

    def send(self, pairs: pa.RecordBatch) -> None:
        """Send one batch; wait for the one before, if there are too many."""
        futures = self._send_json(pairs) if self._format == "json" else self._send_arrow(pairs)
        self._in_flight.append((pairs.num_rows, futures))
        while len(self._in_flight) > MAX_BATCHES_IN_FLIGHT:
            self._acknowledge()

    def close(self) -> None:
        """Wait for all that was sent, and let go of the connections."""
        try:
            while self._in_flight:
                self._acknowledge()
        finally:
            end_producer(self._producer)

    def _send_json(self, pairs: pa.RecordBatch) -> list[Any]:
        send, topic = self._producer.send, self._topic
        keys = pairs.column("pair_id").to_pylist()
        partitions = home(pairs.column("pair_id"), self._n_partitions).tolist()
        return [
            send(topic, value, key, partition=partition)
            for value, key, partition in zip(encode_json(pairs), keys, partitions, strict=True)
        ]

    def _send_arrow(self, pairs: pa.RecordBatch) -> list[Any]:
        homes = home(pairs.column("pair_id"), self._n_partitions)
        return [
            self._producer.send(self._topic, encode_arrow(message), headers=ARROW_HEADERS, partition=partition)
            for partition, message in home_messages(pairs, homes)
        ]

    def _acknowledge(self) -> None:
        n_pairs, futures = self._in_flight.popleft()
        for future in futures:
            future.get(timeout=self._limit_s)
        self._produced.n_sent += n_pairs
        self._produced.n_messages += len(futures)
