"""Transactions of tests that are over when they say so: a broker answers a commit before readers can see it."""

from __future__ import annotations

import time

from kafka import IsolationLevel, KafkaAdminClient, KafkaProducer, OffsetSpec, TopicPartition

from consumers.clients import make_admin
from consumers.settings import KafkaSettings

LIMIT_S = 30
_ENDED = ("CompleteCommit", "CompleteAbort", "Empty")  # empty: it was ended before anything was sent


def end_transaction(producer: KafkaProducer, settings: KafkaSettings, *, commits: bool = True) -> None:
    """Commit or abort, and wait until the markers are written: from then on all readers know."""
    producer.commit_transaction() if commits else producer.abort_transaction()
    name = producer.config["transactional_id"]
    admin = _admin(settings)
    try:
        end_s = time.monotonic() + LIMIT_S
        while (state := admin.describe_transactions([name])[name].state.value) not in _ENDED:
            assert time.monotonic() < end_s, f"the transaction of {name} is {state}"
    finally:
        admin.close()


def has_open_transaction(settings: KafkaSettings) -> bool:
    """Whether something was written to `counts` that is neither committed nor aborted."""
    place = TopicPartition(settings.topics.counts, 0)
    admin = _admin(settings)
    try:
        stable, end = (
            admin.list_partition_offsets({place: OffsetSpec.LATEST}, isolation_level=level)[place].offset
            for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
        )
    finally:
        admin.close()
    return bool(stable < end)


def _admin(settings: KafkaSettings) -> KafkaAdminClient:
    """One that only looks, and has time for it, however short the test has made the times."""
    return make_admin(settings.model_copy(update={"request_timeout_s": LIMIT_S}))
