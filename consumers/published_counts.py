"""What stands in the topic `counts`: the last published count of every entry. Counts format 1.

One record, under one key, which the settler replaces after each settle; the topic is compacted. The value is an Arrow
IPC stream of one row, with the list column `entry_counts` (int64, one for each entry) and a JSON object under the key
`stream_curate` of the schema's metadata: `format`, the rule header `header`, `cut` (one position of `pairs` for each
partition) and `n_unique`, the unique pairs below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError

from consumers.clients import MAX_MESSAGE_BYTES
from consumers.ledger import RuleHeader, damaged, decode_row, encode_row, values_of
from consumers.settings import KafkaSettings
from stream_curate.errors import ConfigError

COUNTS_FORMAT = 1
COUNTS_KEY = b"counts"

_POLL_MS = 250
_HEAD_BYTES = 256 * 1024


@dataclass(frozen=True)
class PublishedCounts:
    """The counts at a cut that a commit of the curated table holds.

    Attributes:
        header: its threshold is the t of the cut.
        cut: a position of each partition of `pairs`.
        n_unique: unique pairs below the cut.
        entry_counts: int64[n_entries], as the rule uses them.
    """

    header: RuleHeader
    cut: tuple[int, ...]
    n_unique: int
    entry_counts: np.ndarray

    def encode(self) -> bytes:
        """The value of the Kafka record."""
        counts = pa.array(self.entry_counts, pa.int64())
        column = pa.ListArray.from_arrays(pa.array([0, len(counts)], pa.int32()), counts)
        head = {
            "format": COUNTS_FORMAT,
            "header": self.header.as_dict(),
            "cut": self.cut,
            "n_unique": self.n_unique,
        }
        return encode_row(["entry_counts"], [column], head)

    @classmethod
    def decode(cls, value: bytes | None, where: str) -> Self:
        """What `encode` gave. Raises DamagedRecord for anything else."""
        head, row = decode_row(value, COUNTS_FORMAT, where)
        try:
            return cls(
                header=RuleHeader.from_dict(head["header"]),
                cut=tuple(int(each) for each in head["cut"]),
                n_unique=int(head["n_unique"]),
                entry_counts=values_of(row, "entry_counts", pa.int64()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(where, error) from error


class CountsReader:
    """Follows the topic `counts`.

    Args:
        consumer: one of `make_consumer`, for this alone.
        settings: the topic's name.
    """

    def __init__(self, consumer: KafkaConsumer, settings: KafkaSettings) -> None:
        self.consumer = consumer
        self._place = TopicPartition(settings.topics.counts, 0)
        consumer.assign([self._place])
        consumer.seek_to_beginning(self._place)

    def newest(self) -> PublishedCounts | None:
        """The counts published last, None before the first time: reads the topic to its end, which can take seconds."""
        found: Any = None
        end = self.consumer.end_offsets([self._place])[self._place]
        while self.consumer.position(self._place) < end:
            found = self._last_of_poll(_POLL_MS) or found
        return self._decode(found)

    def newer(self) -> PublishedCounts | None:
        """The last counts that have come since the last call, None if none have. Does not wait."""
        return self._decode(self._last_of_poll(0))

    def _last_of_poll(self, timeout_ms: int) -> Any:
        try:
            records = self.consumer.poll(timeout_ms=timeout_ms).get(self._place, [])
        except (OffsetOutOfRangeError, LogTruncationError, NoOffsetForPartitionError):
            # the topic was made anew; and older counts do no harm
            self.consumer.seek_to_beginning(self._place)
            return None
        return records[-1] if records else None

    def _decode(self, record: Any) -> PublishedCounts | None:
        if record is None:
            return None
        return PublishedCounts.decode(record.value, f"{record.topic}, offset {record.offset}")


def check_size(n_entries: int) -> None:
    """See that the counts of so many entries fit into a message.

    Raises:
        ConfigError: when they do not.
    """
    if 8 * n_entries + _HEAD_BYTES > MAX_MESSAGE_BYTES:
        raise ConfigError(
            f"the metadata has {n_entries:,} entries, and the counts of {(MAX_MESSAGE_BYTES - _HEAD_BYTES) // 8:,} at "
            "most fit into one Kafka message: divide the list, or curate on one machine"
        )
