"""A thread that asks where partitions end, beside the work, so that it is told also when the work stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.clients import make_consumer
from consumers.retries import shown
from consumers.settings import KafkaSettings

LOOK_S = 1.0
_END_WITHIN_S = 0.3

log = structlog.get_logger()


class Observer:
    """Looks every second. It has a client of its own, since none is for two threads.

    Args:
        settings: the brokers.
        topic: whose ends are asked for.
        partitions: gives those that are of interest now.
        look: is given the end of each, or None when no broker answers. An end is that of what can be read: it does not
            lie behind a transaction that is still open.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        partitions: Callable[[], Collection[int]],
        look: Callable[[Mapping[int, int] | None], None],
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._partitions = partitions
        self._look = look
        self._consumer: KafkaConsumer | None = None
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. A request that a broker does not answer is not waited for."""
        self._is_closed.set()
        self._thread.join(_END_WITHIN_S)

    def _run(self) -> None:
        while not self._is_closed.is_set():
            try:
                self._look(self._ends())
            except Exception as error:  # whatever it is, the next look may go well, and the work must not suffer
                log.warning("the progress could not be looked at", error=shown(error))
            self._is_closed.wait(LOOK_S)
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=0)

    def _ends(self) -> Mapping[int, int] | None:
        # where there is none, the first partition shows whether a broker answers
        places = [TopicPartition(self._topic, partition) for partition in sorted(self._partitions()) or [0]]
        try:
            if self._consumer is None:
                self._consumer = make_consumer(self._settings)
            ends = self._consumer.end_offsets(places)
        except (KafkaError, OSError) as error:
            log.debug("the ends of partitions are not known", error=shown(error))
            return None
        return {place.partition: int(end) for place, end in ends.items()}
