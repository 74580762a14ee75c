"""What was read of one partition and is not committed yet."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from consumers.messages import MAX_ARROW_ROWS, MessageReader, ReadBatch, n_records, position
from consumers.settings import KafkaSettings
from stream_curate.sources import ColumnChoice
from stream_curate.sources.source import MAX_BATCH_BYTES

PASSED_INTERVAL_S = 60.0


class Inbox:
    """Collects messages until they are worth a commit.

    Attributes:
        next: the position up to which all has been taken.
    """

    def __init__(
        self, topic: str, partition: int, columns: ColumnChoice, settings: KafkaSettings, next_position: int
    ) -> None:
        self.next = next_position
        self._reader = MessageReader(topic, partition, columns)
        self._commit_records = settings.commit_records
        self._interval_s = settings.commit_interval_s
        self._messages: list[Any] = []
        self._n_records = 0  # about
        self._n_bytes = 0
        self._since_s = 0.0  # when the first of them came
        self._passed = next_position
        self._passed_since_s = 0.0

    def add(self, messages: Sequence[Any]) -> None:
        """Take in the next messages."""
        if not self._messages:
            self._since_s = time.monotonic()
        self._messages += messages
        self._n_records += sum(n_records(message.value) for message in messages)
        self._n_bytes += sum(len(message.value or b"") for message in messages)

    def passed(self, offset: int) -> None:
        """All records below `offset` were given to `add`.

        Markers of transactions take offsets without being records. Once retention has removed them, a ledger that does
        not reach behind them looks as if it had missed something: so they are committed too, if seldom.
        """
        if self._passed <= self.next:
            self._passed_since_s = time.monotonic()
        self._passed = max(self._passed, position(offset))

    def is_due(self, target: int | None = None) -> bool:
        """Whether to commit now: enough has come, or long enough ago, or all up to `target`."""
        if not self._messages:
            waited_s = time.monotonic() - self._passed_since_s
            return self._passed > self.next and (target is not None or waited_s >= PASSED_INTERVAL_S)
        return (
            self._n_records >= self._commit_records
            or self._n_bytes >= MAX_BATCH_BYTES
            or time.monotonic() - self._since_s >= self._interval_s
            or (target is not None and self.next < target <= self._read_to)
        )

    @property
    def done_to(self) -> int | None:
        """The position up to which there is nothing to take; None while there is something."""
        return None if self._messages else self._read_to

    def take(self) -> Iterator[tuple[ReadBatch, int]]:
        """All of it, in batches of `commit_records` records or up to twice as many, with the position they go up to.

        What is not taken to the end is lost: the partition is then to be restored.
        """
        messages, read_to = self._messages, self._read_to
        # of equal size: a small one at the end would take a transaction of its own
        n_batches = max(1, self._n_records // self._commit_records)
        n_each = min(math.ceil(self._n_records / n_batches), MAX_ARROW_ROWS)
        self._messages, self._n_records, self._n_bytes = [], 0, 0
        waiting: ReadBatch | None = None
        for batch in self._batches(messages, n_each):
            if waiting is not None:
                self.next = int(batch.positions[0])
                yield waiting, self.next
            waiting = batch
        # the last one also covers messages without a record in them
        self.next = read_to
        yield (waiting if waiting is not None else self._reader.nothing()), read_to

    def _batches(self, messages: Sequence[Any], n_each: int) -> Iterator[ReadBatch]:
        begin = self.next
        for batch in self._reader.read(messages, n_each):
            # the last commit of the owner before may have ended inside the first message
            n_known = int(np.searchsorted(batch.positions, begin))
            n_new = len(batch) - n_known
            n_parts = max(1, n_new // self._commit_records) if n_new else 0
            bounds = [n_known + n_new * part // n_parts for part in range(n_parts + 1)] if n_parts else []
            for start, stop in pairwise(bounds):
                yield batch.part(start, stop) if stop - start < len(batch) else batch

    @property
    def _read_to(self) -> int:
        after_last = position(self._messages[-1].offset + 1) if self._messages else self.next
        return max(after_last, self._passed)
