"""The ledger as the settler reads it: all partitions at once, one commit of a worker after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from consumers.clients import make_consumer
from consumers.errors import KafkaProblem
from consumers.ledger import LedgerRecord, RuleHeader
from consumers.messages import offset_and_row
from consumers.partition_state import check_header
from consumers.settings import KafkaSettings

_MAX_RECORDS = 64
_LAG_TIMEOUT_MS = 1_000


@dataclass(frozen=True)
class LedgerPosition:
    """How far a partition has been folded, at the end of a commit.

    Attributes:
        offset: of the next record of the ledger; 0 if there was none yet.
        position: of `pairs`, where that record has to begin.
    """

    offset: int = 0
    position: int = 0


@dataclass(frozen=True)
class Commit:
    """All records of one commit of a worker, in their order, the position after them, and when they were written.

    `written_s` is in seconds since 1970, by the worker's clock.
    """

    partition: int
    records: list[LedgerRecord]
    after: LedgerPosition
    written_s: float = 0.0


class LedgerFollower:
    """Reads what stands in the ledger, and what comes.

    Args:
        settings: the brokers and the topic.
        header: the rule that every record must have been made by, t apart.

    Raises:
        KafkaError: no broker answers.
    """

    def __init__(self, settings: KafkaSettings, header: RuleHeader) -> None:
        self._header = header
        self._ledger = settings.topics.ledger
        self._places = [TopicPartition(self._ledger, partition) for partition in range(header.n_partitions)]
        self._next_offsets = [0] * header.n_partitions
        self._incomplete: list[list[LedgerRecord]] = [[] for _ in self._places]
        self._folded: list[LedgerPosition] = [LedgerPosition()] * header.n_partitions
        self._consumer: KafkaConsumer = make_consumer(settings)
        self._consumer.assign(self._places)

    def seek(self, positions: Sequence[LedgerPosition]) -> None:
        """Go on from there, one for each partition.

        Raises:
            KafkaProblem: it is not the ledger that was read before, or its beginning is gone.
            KafkaError: no broker answers.
        """
        begins = self._consumer.beginning_offsets(self._places)
        ends = self._consumer.end_offsets(self._places)
        for place, position in zip(self._places, positions, strict=True):
            if begins[place] > 0:
                raise KafkaProblem(
                    f"{self._ledger}, partition {place.partition} begins at offset {begins[place]}, not at 0: its "
                    "beginning was removed, and a lost table could not be made again from it. A ledger is kept for "
                    "ever (stream-curate topics check): make new topics and replay"
                )
            if position.offset > ends[place]:
                raise KafkaProblem(
                    f"{self._ledger}, partition {place.partition} ends at offset {ends[place]}, and the table has "
                    f"folded it up to {position.offset}: it is not the ledger that the table was made from. Give "
                    "--out a new folder"
                )
        self._folded = list(positions)
        self._next_offsets = [position.offset for position in positions]
        self._incomplete = [[] for _ in self._places]
        self._rewind()

    def poll(self, timeout_ms: int) -> Iterator[Commit]:
        """The commits that have come; waits for so long if there are none.

        Raises:
            ConfigError: a record was made by another rule.
            KafkaProblem: the ranges of a partition do not follow each other, or the ledger was cut off.
            DamagedRecord: what stands there is no record of ours.
            KafkaError: something is wrong with the brokers; nothing is lost by it, and the next call goes on.
        """
        try:
            polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=_MAX_RECORDS)
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            raise KafkaProblem(
                f"{self._ledger}: what was to be read next is gone ({error}). A ledger is kept for ever "
                "(stream-curate topics check): make new topics and replay"
            ) from error
        except (KafkaError, OSError):
            self._rewind()  # some of what was fetched may be lost
            raise
        for place, messages in polled.items():
            for message in messages:
                commit = self._take(place.partition, message)
                if commit is not None:
                    yield commit

    def read_to(self) -> list[int]:
        """Of each partition, the offset up to which every commit was given, when all of the last `poll` was taken."""
        return [
            next_offset if incomplete else max(next_offset, self._consumer.position(place, timeout_ms=0) or 0)
            for place, next_offset, incomplete in zip(self._places, self._next_offsets, self._incomplete, strict=True)
        ]

    def n_behind(self) -> int:
        """Offsets of the ledger that were not read yet, those of markers among them.

        Raises:
            KafkaError: no broker answers within a second.
        """
        ends = self._consumer.end_offsets(self._places, timeout_ms=_LAG_TIMEOUT_MS)
        return sum(max(0, ends[place] - self._consumer.position(place)) for place in self._places)

    def close(self) -> None:
        """Let go of the brokers."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _rewind(self) -> None:
        for place, offset in zip(self._places, self._next_offsets, strict=True):
            self._consumer.seek(place, offset)

    def _take(self, partition: int, message: Any) -> Commit | None:
        where = f"{self._ledger}, partition {partition}, offset {message.offset}"
        record = LedgerRecord.decode(message.value, where)
        check_header(self._header, record.header, where)
        self._check_range(partition, record, where)
        self._next_offsets[partition] = message.offset + 1
        records = self._incomplete[partition]
        records.append(record)
        if not record.is_last:
            return None
        after = LedgerPosition(message.offset + 1, record.next)
        self._incomplete[partition] = []
        self._folded[partition] = after
        return Commit(partition, records, after, message.timestamp / 1_000)

    def _check_range(self, partition: int, record: LedgerRecord, where: str) -> None:
        if record.partition != partition or len(record.view_cut) != self._header.n_partitions:
            raise KafkaProblem(
                f"{where} is a record of partition {record.partition} of {len(record.view_cut)}: another program wrote "
                "into this ledger. Give the curation topics of its own, and replay"
            )
        before, folded = self._incomplete[partition], self._folded[partition]
        expected = before[-1].next if before else folded.position
        is_first = not before and folded.offset == 0  # which begins where retention did, see `worker --from-earliest`
        if (record.first != expected and not is_first) or record.next < record.first:
            raise KafkaProblem(
                f"{where} tells of the input from {_shown(record.first)} to {_shown(record.next)}, and the record "
                f"before ended at {_shown(expected)}: input would be lost, or count twice. Nothing was settled beyond. "
                "Look at it with stream-curate audit; the way out is new topics, and replay"
            )


def _shown(position: int) -> str:
    offset, row = offset_and_row(position)
    return f"offset {offset}, row {row}" if row else f"offset {offset}"
