"""Dead letters: what stands in the topic `pairs.dlq` for every record that is no valid pair. Dead letter format 1.

The value is the original: the bytes of the message, or of a message with many pairs the one row, written as an Arrow
message of its own with its url, its text and the kept columns; a null value stays null. The letter is in the partition
that the record was read from. Its key means nothing. Its headers, all of them text in UTF-8, tell the rest:

    dead-letter-format   "1"
    reason               as in `Reason`
    source               the partition that it was read from, such as "kafka:pairs/3"
    offset, row          of its message there, and of the row in it (0 for a JSON message)
    sha256               of the whole value, in hex; of no bytes for a null value
    preview              the beginning of the value, with escapes: at most 256 bytes, safe to show
    truncated-from       only where the original is too large for a message: its size in bytes; the value is cut

`content-type`, `message-format` and `not-unpacked` are the original's own, if it had them, so that a letter reads as it
did (see `messages`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from consumers.clients import MAX_MESSAGE_BYTES, make_consumer
from consumers.messages import MEANING_HEADERS, Headers, ReadBatch, offset_and_row
from consumers.settings import KafkaSettings
from consumers.topics import check_partitions
from stream_curate.pairs import Rejection

DEAD_LETTER_FORMAT = 1

_FORMAT = "dead-letter-format"
_TRUNCATED_FROM = "truncated-from"
_POLL_MS = 250


@dataclass(frozen=True)
class DeadLetter:
    """One record that was rejected.

    Attributes:
        partition: of `pairs.dlq`: the one that the record was read from.
        reason: as in `Reason`; in a letter of another version of this program it may be a word that is not there.
        source: the topic and partition that it was read from.
        offset, row: where it was there.
        sha256: of the original.
        preview: of the original; safe to show, but it may hold a password that stood in a url.
        value: the original, or its beginning; None for a null value.
        original_headers: what told the kind and version of the original.
        truncated_from: the size of the original in bytes if `value` is only its beginning, else None.
    """

    partition: int
    reason: str
    source: str
    offset: int
    row: int
    sha256: str
    preview: str
    value: bytes | None
    original_headers: tuple[tuple[str, bytes], ...] = ()
    truncated_from: int | None = None

    @property
    def key(self) -> bytes | None:
        """That of the Kafka record: no bytes for a null value, as kafka-python sends none without either; else None."""
        return b"" if self.value is None else None

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Those of the Kafka record."""
        said: dict[str, object] = {
            _FORMAT: DEAD_LETTER_FORMAT,
            "reason": self.reason,
            "source": self.source,
            "offset": self.offset,
            "row": self.row,
            "sha256": self.sha256,
            "preview": self.preview,
        }
        if self.truncated_from is not None:
            said[_TRUNCATED_FROM] = self.truncated_from
        return [(name, str(value).encode()) for name, value in said.items()] + list(self.original_headers)


def dead_letters(batch: ReadBatch, rejections: Sequence[Rejection], partition: int) -> list[DeadLetter]:
    """The letters for what was rejected of a batch; of its other records nothing is touched.

    Args:
        batch: what was read.
        rejections: what `batch.validate` gave, or some of it.
        partition: that was read from.

    A letter is sent with `send(dlq, letter.value, letter.key, letter.headers, letter.partition)` of a producer.
    """
    places = np.array([rejection.source_row for rejection in rejections], np.int64)
    indices = np.searchsorted(batch.positions, places).tolist()
    return [_letter(batch, index, rejection, partition) for index, rejection in zip(indices, rejections, strict=True)]


def _letter(batch: ReadBatch, index: int, rejection: Rejection, partition: int) -> DeadLetter:
    value, headers = batch.original(index)
    offset, row = offset_and_row(rejection.source_row)
    is_cut = value is not None and len(value) > MAX_MESSAGE_BYTES
    return DeadLetter(
        partition=partition,
        reason=str(rejection.reason),
        source=rejection.source,
        offset=offset,
        row=row,
        sha256=rejection.sha256,
        preview=rejection.preview,
        value=value[:MAX_MESSAGE_BYTES] if is_cut and value is not None else value,
        original_headers=tuple(headers),
        truncated_from=len(value) if is_cut and value is not None else None,
    )


def read_dead_letter(record: Any) -> DeadLetter | None:
    """The letter that a Kafka record of `pairs.dlq` holds, None for a record that is no letter of this format.

    Args:
        record: a `kafka.consumer.fetcher.ConsumerRecord`.
    """
    headers: Headers = record.headers
    said = {name: value for name, value in headers if value is not None}
    try:
        if said[_FORMAT] != b"%d" % DEAD_LETTER_FORMAT:
            return None
        return DeadLetter(
            partition=record.partition,
            reason=said["reason"].decode(),
            source=said["source"].decode(),
            offset=int(said["offset"]),
            row=int(said["row"]),
            sha256=said["sha256"].decode(),
            preview=said["preview"].decode(),
            value=record.value,
            original_headers=tuple((name, said[name]) for name in MEANING_HEADERS if name in said),
            truncated_from=int(said[_TRUNCATED_FROM]) if _TRUNCATED_FROM in said else None,
        )
    except (KeyError, ValueError):
        return None


def read_dead_letters(settings: KafkaSettings) -> Generator[tuple[int, list[DeadLetter | None]], None, None]:
    """All letters that stand in `pairs.dlq` when the reading begins, a partition after the other, some at a time.

    None stands for a record that is no letter. Use it inside `errors.in_words`.

    Yields:
        The partition, and what one poll gave: never much more than 32 MiB, and nothing when no more came for a while.

    Raises:
        KafkaProblem: there is no such topic, or it has another number of partitions than the settings say.
        KafkaError: no broker answers within `give_up_after_s`.
    """
    topic = settings.topics.dlq
    check_partitions(settings, topic)
    consumer = make_consumer(settings)
    try:
        places = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
        starts = consumer.beginning_offsets(places)
        ends = consumer.end_offsets(places)
        for place in places:
            consumer.assign([place])
            consumer.seek(place, starts[place])
            moved_s = time.monotonic()
            while (reached := consumer.position(place)) < ends[place]:
                records = consumer.poll(timeout_ms=_POLL_MS).get(place, [])
                letters = [read_dead_letter(record) for record in records if record.offset < ends[place]]
                yield place.partition, letters
                if consumer.position(place) > reached:
                    moved_s = time.monotonic()
                elif time.monotonic() > moved_s + settings.give_up_after_s:
                    raise KafkaTimeoutError(f"nothing comes of {topic}, partition {place.partition}, offset {reached}")
    finally:
        consumer.close()
