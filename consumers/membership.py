"""Which partitions belong to this worker, as the consumer group says."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.structs import OffsetAndMetadata

from consumers.clients import make_consumer
from consumers.settings import KafkaSettings

CLOSE_MS = 2_000


class Membership:
    """A member of the group. It reads no messages: another consumer does, from where the ledger says.

    Attributes:
        partitions: those that belong to this member now.
        n_changes: how often that has changed.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        """Join the group at the next `poll`. Raises KafkaError when no broker answers in time."""
        self.partitions: frozenset[int] = frozenset()
        self.n_changes = 0
        self._topic = settings.topics.pairs
        self._consumer: KafkaConsumer = make_consumer(settings, in_group=True)
        self._consumer._coordinator.__class__ = _PatientCoordinator
        self._listener = _Listener()
        self._consumer.subscribe([self._topic], listener=self._listener)
        # A leader of the group that joins before it knows the topic gives nobody anything, until it looks again.
        self._consumer.partitions_for_topic(self._topic)

    @property
    def has_joined(self) -> bool:
        """Whether the group has answered what belongs to this member, and be it nothing."""
        return self._listener.has_assigned

    def poll(self, timeout_ms: int = 0) -> set[int]:
        """Be heard of. Returns the partitions that belonged to this member at the last call and were taken since.

        A partition can be in the answer and in `partitions`: it was away in between, and another may have had it.
        """
        self._consumer.poll(timeout_ms=timeout_ms)
        assigned = self._consumer.assignment()
        self._consumer.pause(*(assigned - self._consumer.paused()))
        now = frozenset(place.partition for place in assigned)
        taken = (self._listener.take_gone() & self.partitions) | (self.partitions - now)
        self.n_changes += bool(taken) or now != self.partitions
        self.partitions = now
        return taken

    def show_progress(self, offsets: Mapping[int, int]) -> None:
        """Tell the brokers how far each partition is read, for who looks at the group's lag. Nothing rests on it."""
        places = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in offsets.items()
            if partition in self.partitions
        }
        if places:
            self._consumer.commit_async(places)

    def close(self) -> None:
        """Leave the group, so that others get the partitions at once."""
        self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)


class _PatientCoordinator(ConsumerCoordinator):  # type: ignore[misc]
    """Takes the answer to a request to join the group also when it came between two calls of `poll`.

    kafka-python 3.0.12 looks whether the request `is_done` (coordinator/base.py, `join_group_async`), forgets the
    answer, and sends another: a member that is busy between its polls never joins, and keeps all others from it.
    """

    async def join_group_async(self, timeout_ms: float | None = None) -> bool:
        request = vars(self)["_join_task"]
        if request is not None and request.is_done:
            self._join_task = _Answered(request)
        joined: bool = await super().join_group_async(timeout_ms=timeout_ms)
        return joined


class _Answered:
    """A future that has its answer, and is to be awaited all the same."""

    is_done = False

    def __init__(self, request: Any) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def __await__(self) -> Generator[Any, None, Any]:
        answer: Generator[Any, None, Any] = self._request.__await__()
        return answer


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs in the middle of the client's own work, so that it does nothing but take notes."""

    def __init__(self) -> None:
        self.has_assigned = False
        self._gone: set[int] = set()

    def take_gone(self) -> set[int]:
        gone, self._gone = self._gone, set()
        return gone

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        self._gone |= {place.partition for place in revoked}

    def on_partitions_lost(self, lost: Collection[Any]) -> None:
        self._gone |= {place.partition for place in lost}

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self.has_assigned = True
