"""Where the input ends: the position just after the last record that can be read now."""

from __future__ import annotations

import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from consumers.messages import Message, position

_POLL_MS = 250


def position_after(record: Message) -> int:
    """The position just after a message, of however many pairs: all of it lies below.

    >>> from types import SimpleNamespace
    >>> position_after(SimpleNamespace(offset=2, value=b"{}", headers=[])) == position(3)
    True
    """
    return position(record.offset + 1)


def positions_at_end(
    consumer: KafkaConsumer, topic: str, n_partitions: int, *, timeout_s: float = 30.0
) -> tuple[int, ...]:
    """For each partition the position just after the last committed record that stands in it now, 0 if there is none.

    The end is the last stable offset: a transaction that is still open at this moment is not waited for, and what comes
    behind it is not seen. Markers of commits and aborted transactions take offsets without being records, so the last
    record is looked for backwards from the end.

    Args:
        consumer: one of `make_consumer`; it is assigned, and moved, by this.
        topic: such as `pairs`.
        n_partitions: how many it has.
        timeout_s: how long to wait for brokers that send nothing, each time.

    Raises:
        KafkaError: no broker answers in time, or there is no such topic.
    """
    last = last_records(consumer, topic, n_partitions, timeout_s=timeout_s)
    return tuple(0 if record is None else position_after(record) for record in last)


def last_records(consumer: KafkaConsumer, topic: str, n_partitions: int, *, timeout_s: float = 30.0) -> list[Any]:
    """For each partition the last committed record that stands in it now, None if there is none.

    See `positions_at_end`, also for the errors.
    """
    places = [TopicPartition(topic, partition) for partition in range(n_partitions)]
    begins = consumer.beginning_offsets(places)
    ends = consumer.end_offsets(places)
    return [_last_record(consumer, place, begins[place], ends[place], timeout_s) for place in places]


def _last_record(consumer: KafkaConsumer, place: TopicPartition, begin: int, end: int, timeout_s: float) -> Any:
    """The last record below `end`, looked for in windows that grow backwards; None if there is none."""
    consumer.assign([place])
    n_offsets = 2  # of a single transaction: its last record, its marker
    stop = end
    while stop > begin:
        start = max(begin, end - n_offsets)
        last = _last_between(consumer, place, start, stop, timeout_s)
        if last is not None:
            return last
        stop = start
        n_offsets *= 4
    return None


def _last_between(consumer: KafkaConsumer, place: TopicPartition, start: int, stop: int, timeout_s: float) -> Any:
    """The last record with an offset from `start` to `stop` (not included)."""
    last: Any = None
    consumer.seek(place, start)
    give_up_s = time.monotonic() + timeout_s
    reached = start
    while consumer.position(place) < stop:
        for record in consumer.poll(timeout_ms=_POLL_MS).get(place, ()):
            if record.offset < stop:
                last = record
        if consumer.position(place) > reached:
            reached = consumer.position(place)
            give_up_s = time.monotonic() + timeout_s
        elif time.monotonic() > give_up_s:
            raise KafkaTimeoutError(f"nothing comes of {place.topic}, partition {place.partition}, offset {reached}")
    return last
