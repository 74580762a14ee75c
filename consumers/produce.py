"""Files into `pairs`: each valid pair to its home partition, once as long as the run is not broken off.

    source -> records -> validate -> home -> messages -> acknowledged

A run that is started again starts over: pairs that came before are then in the topic twice, which counts nothing with
`dedup: exact`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import structlog

from consumers.clients import end_producer, make_producer
from consumers.errors import in_words
from consumers.messages import ARROW_HEADERS, encode_arrow, encode_json, home
from consumers.settings import KafkaSettings
from consumers.topics import check_partitions
from stream_curate.errors import InputError
from stream_curate.pairs import validate
from stream_curate.printable import printable
from stream_curate.reasons import Reason
from stream_curate.sources import Source
from stream_curate.stop import StopReading, StopRequest

MessageFormat = Literal["json", "arrow"]

ARROW_MESSAGE_PAIRS = 4_096
ARROW_MESSAGE_BYTES = 1024 * 1024  # of url, text and kept columns; a pair may have half of that
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
        futures = []
        for partition in range(self._n_partitions):
            of_partition = pairs.take(pa.array(np.flatnonzero(homes == partition)))
            for message in _message_sized(of_partition):
                value = encode_arrow(message)
                futures.append(self._producer.send(self._topic, value, headers=ARROW_HEADERS, partition=partition))
        return futures

    def _acknowledge(self) -> None:
        n_pairs, futures = self._in_flight.popleft()
        for future in futures:
            future.get(timeout=self._limit_s)
        self._produced.n_sent += n_pairs
        self._produced.n_messages += len(futures)


def _message_sized(pairs: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """`pairs` in pieces that fit into a message."""
    if pairs.num_rows > ARROW_MESSAGE_PAIRS or (pairs.num_rows > 1 and pairs.nbytes > ARROW_MESSAGE_BYTES):
        n_first = min(ARROW_MESSAGE_PAIRS, pairs.num_rows // 2)
        yield from _message_sized(pairs.slice(0, n_first))
        yield from _message_sized(pairs.slice(n_first))
    elif pairs.num_rows:
        yield pairs
