"""Transactions that stay open: behind one, readers of its partition stand still."""

from __future__ import annotations

import time
from contextlib import suppress

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.errors import KafkaError

from consumers.audit_reading import place_in_words
from consumers.audit_report import AuditReport, CheckName

_POLL_S = 0.25


class OpenTransactions:
    """Watches the partitions of some topics, from when it is made until `end`.

    A partition has an open transaction when its last stable offset is below its end.

    Args:
        admin: one of `make_admin`.
        places: the partitions.
        limit_s: how long a transaction may be open.
    """

    def __init__(self, admin: KafkaAdminClient, places: list[TopicPartition], limit_s: float) -> None:
        self._admin = admin
        self._places = places
        self._limit_s = limit_s
        self._since_s: dict[TopicPartition, tuple[int, float]] = {}  # the stable offset, and when it was first seen
        self.look()

    def look(self) -> None:
        """See which are open now."""
        now_s = time.monotonic()
        specs = dict.fromkeys(self._places, OffsetSpec.LATEST)
        stable = self._admin.list_partition_offsets(specs, isolation_level=IsolationLevel.READ_COMMITTED)
        ends = self._admin.list_partition_offsets(specs, isolation_level=IsolationLevel.READ_UNCOMMITTED)
        before, self._since_s = self._since_s, {}
        for place in self._places:
            offset = stable[place].offset
            if offset < ends[place].offset:
                known_offset, known_s = before.get(place, (offset, now_s))
                self._since_s[place] = (offset, known_s if known_offset == offset else now_s)

    def end(self, report: AuditReport) -> None:
        """Wait until what was open at first is ended, or open for too long, and tell of the latter."""
        report.compare(CheckName.TRANSACTIONS, len(self._places))
        self.look()
        watched = {place: offset for place, (offset, _) in self._since_s.items()}
        while watched:
            too_long = []
            for place in list(watched):
                if place not in self._since_s or self._since_s[place][0] != watched[place]:
                    del watched[place]
                elif time.monotonic() - self._since_s[place][1] > self._limit_s:
                    too_long.append(place)
                    del watched[place]
            for place in too_long:
                report.differ(CheckName.TRANSACTIONS, self._in_words(place))
            if watched:
                time.sleep(_POLL_S)
                self.look()

    def _in_words(self, place: TopicPartition) -> str:
        offset, since_s = self._since_s[place]
        return (
            f"{place_in_words(place.topic, place.partition, offset)}: a transaction is open here{self._owner(place)}, "
            f"and was not ended for {time.monotonic() - since_s:.0f} s: nothing behind it is read"
        )

    def _owner(self, place: TopicPartition) -> str:
        """The transactional id, if the brokers tell."""
        with suppress(KafkaError):
            listed = [
                each.transactional_id
                for found in self._admin.list_transactions(state_filters=["Ongoing"]).values()
                for each in found
            ]
            names = [
                name
                for name, described in self._admin.describe_transactions(listed).items()
                if place in described.topic_partitions
            ]
            if names:
                return f" (transactional id {', '.join(sorted(names))})"
        return ""
