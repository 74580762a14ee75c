"""Reading a partition's ledger to its end, a slice at a time, so that the worker is heard of meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from consumers.errors import KafkaProblem
from consumers.ledger import LedgerRecord
from consumers.ledger_cache import Cached, LedgerCache, checksum_of
from consumers.partition_state import PartitionState
from consumers.view import Delta
from stream_curate.checked_file import DamagedFile
from stream_curate.failpoints import reach

_POLL_MS = 100
_POLL_RECORDS = 64


class Restore:
    """Brings a state to the end of its ledger.

    It may be made only after the producer of the partition is initialised: then nobody else's transaction can still be
    added to this ledger, and its end is the end.

    Args:
        consumer: one of `make_consumer`, which this takes over until it is done.
        ledger: the topic.
        make_state: gives a state that knows nothing yet.
        cache: of this partition, if there is one.

    Attributes:
        state: as far as it has come.
        n_records: ledger records read.
        n_steps: these, and parts of the cache that were taken in: grows as long as it goes on.
        end: the offset at which the ledger ends.

    Raises:
        KafkaProblem: the beginning of the ledger is gone.
        KafkaError: no broker in time.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        ledger: str,
        make_state: Callable[[], PartitionState],
        cache: LedgerCache | None,
    ) -> None:
        reach("restore.begin")
        self.state = make_state()
        self.n_records = self.n_steps = 0
        self._consumer = consumer
        self._place = TopicPartition(ledger, self.state.partition)
        self._make_state = make_state
        self._cache = cache
        self._cached: Cached | None = None  # until its hashes are all taken in
        self._cached_last: tuple[int, str] | None = None  # offset and checksum, until the ledger is seen to have it
        consumer.assign([self._place])
        begin = consumer.beginning_offsets([self._place])[self._place]
        if begin > 0:
            raise KafkaProblem(
                f"{ledger}, partition {self.state.partition} begins at offset {begin}, not at 0: what came of the "
                "first input is gone, and no worker can know it again. Make new topics and replay; a ledger is kept "
                "for ever (stream-curate topics check)"
            )
        self.end = consumer.end_offsets([self._place])[self._place]
        self._start_from_cache()

    def go_on(self, seconds: float) -> bool:
        """Read for about so long; returns whether the end is reached.

        Raises:
            ConfigError: the ledger was written by another rule.
            KafkaProblem, DamagedRecord: it is damaged.
            KafkaError: no broker in time.
        """
        until_s = time.monotonic() + seconds
        while self._cached is not None:
            if time.monotonic() >= until_s:
                return False
            self._take_cached(self._cached)
        while self._consumer.position(self._place) < self.end:
            if time.monotonic() >= until_s:
                return False
            reach("restore.slice")
            polled = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            for message in polled.get(self._place, []):
                if not self._take(message):
                    self._start_cold()
                    break
        if self._cached_last is not None:  # the ledger ends before the record that the cache ends with
            self._start_cold()
            return False
        self.state.finish()
        if self._cache is not None:
            self._cache.save()
        reach("restore.done")
        return True

    def _take(self, message: Any) -> bool:
        """Take in a record; false when it shows that the cache is of another ledger."""
        self.n_steps += 1
        checksum = checksum_of(message.value or b"")
        if self._cached_last is not None:
            is_the_same = self._cached_last == (message.offset, checksum)
            self._cached_last = None
            return is_the_same
        where = f"{self._place.topic}, partition {self._place.partition}, offset {message.offset}"
        record = LedgerRecord.decode(message.value, where)
        self.state.take(record, where)
        self.n_records += 1
        if self._cache is not None:
            self._cache.add(message.offset, checksum, record.next, record.seen, Delta.of(record))
        return True

    def _start_from_cache(self) -> None:
        self._cached = self._cache.load() if self._cache is not None else None
        if self._cached is None:
            self._consumer.seek(self._place, 0)
            return
        self.state.seen.reserve(self._cached.n_seen)
        self._cached_last = (self._cached.offset, self._cached.checksum)
        self._consumer.seek(self._place, self._cached.offset)

    def _take_cached(self, cached: Cached) -> None:
        """Take in the next hashes of the cache; after the last ones, all else that it holds."""
        self.n_steps += 1
        try:
            base = next(cached.bases, None)
        except DamagedFile:
            self._start_cold()
            return
        if base is not None:
            self.state.restore(cached.next, base)
            return
        self.state.next = cached.next
        for delta in cached.deltas:
            self.state.view.add(*delta)
        self._cached = None

    def _start_cold(self) -> None:
        if self._cache is not None:
            self._cache.clear()
        self._cached = self._cached_last = None
        self.state = self._make_state()
        self._consumer.seek(self._place, 0)
