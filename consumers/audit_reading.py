"""How an audit reads topics: each partition from a place on to an end that is known before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, OffsetOutOfRangeError

from consumers.errors import KafkaProblem
from consumers.messages import FORWARDED_FROM, MessageReader, ReadBatch, offset_and_row
from stream_curate.sources import ColumnChoice

_POLL_MS = 250
_BATCH_RECORDS = 8_192


def place_in_words(topic: str, partition: int, offset: int | None = None) -> str:
    """A record of a topic, or a partition.

    >>> place_in_words("ledger", 3, 17)
    'ledger, partition 3, offset 17'
    """
    words = f"{topic}, partition {partition}"
    return words if offset is None else f"{words}, offset {offset}"


def position_in_words(topic: str, partition: int, position: int) -> str:
    """A position of the input.

    >>> position_in_words("pairs", 3, 2 * 65_536 + 5)
    'pairs, partition 3, offset 2, row 5 (position 131077)'
    """
    offset, row = offset_and_row(position)
    return f"{place_in_words(topic, partition, offset)}, row {row} (position {position})"


def read_records(consumer: KafkaConsumer, place: TopicPartition, start: int, end: int, limit_s: float) -> Iterator[Any]:
    """The committed records with offsets from `start` to `end` (not included).

    Args:
        consumer: it is assigned and moved; only one of these can be read at a time with it.
        place: topic and partition.
        start: an offset that is still there.
        end: an offset that is at most the last stable one.
        limit_s: how long to wait for brokers that send nothing, each time.

    Raises:
        KafkaError: no broker answers in time.
        KafkaProblem: what was to be read has been removed meanwhile.
    """
    consumer.assign([place])
    consumer.seek(place, start)
    reached = start
    give_up_s = time.monotonic() + limit_s
    while consumer.position(place) < end:
        try:
            polled = consumer.poll(timeout_ms=_POLL_MS).get(place, [])
        except OffsetOutOfRangeError as error:
            raise KafkaProblem(
                f"{place_in_words(place.topic, place.partition, reached)}: retention has removed what was just to be "
                "read: run the same command again"
            ) from error
        now = consumer.position(place)
        if now > reached:
            reached, give_up_s = now, time.monotonic() + limit_s
        elif time.monotonic() > give_up_s:
            raise KafkaTimeoutError(f"nothing comes of {place_in_words(place.topic, place.partition, reached)}")
        for record in polled:
            if record.offset < end:
                yield record


class InputReader:
    """The records of one partition of the input in their order, decoded, range by range.

    Args:
        messages: the Kafka records.
        topic, partition: where they come from.
        columns: those to keep.

    Attributes:
        forwarded_from: offset -> what the header says of messages that were forwarded.
    """

    def __init__(self, messages: Iterator[Any], topic: str, partition: int, columns: ColumnChoice) -> None:
        self.forwarded_from: dict[int, bytes] = {}
        self._batches = MessageReader(topic, partition, columns).read(self._noted(messages), _BATCH_RECORDS)
        self._left: ReadBatch | None = None

    def below(self, position: int | None) -> Iterator[ReadBatch]:
        """What has not been taken yet, up to `position` (not included), or to the end."""
        while True:
            batch, self._left = self._left or next(self._batches, None), None
            if batch is None:
                return
            n_below = len(batch) if position is None else int(np.searchsorted(batch.positions, position))
            if n_below:
                yield batch.part(0, n_below)
            if n_below < len(batch):
                self._left = batch.part(n_below, len(batch))
                return

    def _noted(self, messages: Iterator[Any]) -> Iterator[Any]:
        for message in messages:
            for name, value in message.headers:
                if name == FORWARDED_FROM:
                    self.forwarded_from[message.offset] = value or b""
            yield message
