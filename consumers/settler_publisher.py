"""The topic `counts` as the settler writes it: one transaction for each settle.

Initialising the producer ends the open transaction of any older settler and refuses what it may still send. In doubt
about anything the producer is given up, and a new one is initialised before the next try: what was in doubt is then
either there or never will be.
"""

from __future__ import annotations

import time

from kafka import KafkaProducer
from kafka.errors import InvalidProducerEpochError, ProducerFencedError

from consumers.clients import give_up, make_producer
from consumers.published_counts import COUNTS_KEY, PublishedCounts
from consumers.settings import KafkaSettings
from consumers.transactions import commit_transaction
from consumers.watchdog import Watchdog
from stream_curate.failpoints import reach


class Publisher:
    """Writes the counts, one settler at a time.

    Raises:
        KafkaError, OSError: from all methods; `publish` has then given the producer up.
    """

    def __init__(self, settings: KafkaSettings, watchdog: Watchdog) -> None:
        self._settings = settings
        self._watchdog = watchdog
        self._producer: KafkaProducer | None = None
        self._limit_s = settings.transaction_limit_s

    def start(self) -> None:
        """Fence older settlers, unless it is done already."""
        if self._producer is not None:
            return
        self._producer = make_producer(self._settings, transactional_id=f"{self._settings.topics.counts}-settler")
        try:
            with self._watchdog.limit("taking over the counts", 3 * self._settings.give_up_after_s):
                self._producer.init_transactions()
        except BaseException:
            self.close()
            raise

    def publish(self, counts: PublishedCounts) -> None:
        """Replace what stands in the topic. After an error it may stand there all the same."""
        try:
            self.start()
            self._write(counts.encode())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the producer up; what is not committed by now will not be."""
        producer, self._producer = self._producer, None
        if producer is not None:
            give_up(producer, "the counts")

    def _write(self, value: bytes) -> None:
        producer = self._producer
        if producer is None:
            raise RuntimeError("the producer is not started")
        reach("publish.begin")
        producer.begin_transaction()
        end_s = time.monotonic() + self._limit_s
        future = producer.send(self._settings.topics.counts, value, key=COUNTS_KEY, partition=0)
        future.get(timeout=max(0.0, end_s - time.monotonic()))
        reach("publish.sent")
        commit_transaction(producer, self._limit_s)
        reach("publish.committed")


def is_fenced(error: BaseException) -> bool:
    """Whether a newer producer has taken over, or the broker has aborted a transaction that was open for too long."""
    return isinstance(error, ProducerFencedError | InvalidProducerEpochError)
