"""What stands in the topic `counts`: the last published count of every entry. Counts formats 1 and 2.

One record, under one key, which the settler replaces after each settle; the topic is compacted. The value is an Arrow
IPC stream of one row, with the list column `entry_counts` (int64, one for each entry) and a JSON object under the key
`stream_curate` of the schema's metadata: `format`, the rule header `header`, `cut` (one position of `pairs` for each
partition) and `n_unique`, the unique pairs below it. That is format 1. Where decisions are final it is format 2, with a
second list column of as many values: `entry_coins`, the coins that each entry has won below the cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError

from consumers.clients import MAX_MESSAGE_BYTES
from consumers.ledger import (
    NO_COINS,
    RuleHeader,
    check_format,
    damaged,
    decode_row,
    encode_row,
    format_of,
    one_list,
    values_of,
)
from consumers.settings import KafkaSettings
from stream_curate.errors import ConfigError
from stream_curate.rule import Rule

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
        entry_coins: int64[n_entries], the coins won; NO_COINS where decisions are provisional.
    """

    header: RuleHeader
    cut: tuple[int, ...]
    n_unique: int
    entry_counts: np.ndarray
    entry_coins: np.ndarray = field(default_factory=lambda: NO_COINS)

    def encode(self) -> bytes:
        """The value of the Kafka record."""
        columns = {"entry_counts": self.entry_counts}
        if self.header.rule.final is not None:
            columns["entry_coins"] = self.entry_coins
        head = {
            "format": format_of(self.header.rule),
            "header": self.header.as_dict(),
            "cut": self.cut,
            "n_unique": self.n_unique,
        }
        lists = [one_list(pa.array(values, pa.int64())) for values in columns.values()]
        return encode_row(list(columns), lists, head)

    @classmethod
    def decode(cls, value: bytes | None, where: str) -> Self:
        """What `encode` gave. Raises DamagedRecord for anything else."""
        head, row = decode_row(value, where)
        try:
            header = RuleHeader.from_dict(head["header"])
            check_format(head, header.rule)
            counts, coins = values_of(row, "entry_counts", pa.int64()), NO_COINS
            if header.rule.final is not None:
                coins = values_of(row, "entry_coins", pa.int64())
                if len(coins) != len(counts):
                    raise ValueError(f"{len(counts)} counts with {len(coins)} coins")
            return cls(
                header=header,
                cut=tuple(int(each) for each in head["cut"]),
                n_unique=int(head["n_unique"]),
                entry_counts=counts,
                entry_coins=coins,
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


def check_size(n_entries: int, rule: Rule) -> None:
    """See that the counts of so many entries fit into a message, and the coins if there are any.

    Raises:
        ConfigError: when they do not.
    """
    n_bytes, what = (8, "counts") if rule.final is None else (16, "counts and coins")
    if n_bytes * n_entries + _HEAD_BYTES > MAX_MESSAGE_BYTES:
        n_most = (MAX_MESSAGE_BYTES - _HEAD_BYTES) // n_bytes
        raise ConfigError(
            f"the metadata has {n_entries:,} entries, and the {what} of {n_most:,} at most fit into one Kafka message: "
            "divide the list, or curate on one machine"
        )
