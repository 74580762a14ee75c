"""Transactions of tests that are over when they say so: a broker answers a commit before readers can see it."""

from __future__ import annotations

import time

from kafka import KafkaProducer

from consumers.clients import make_admin
from consumers.settings import KafkaSettings

LIMIT_S = 30
_ENDED = ("CompleteCommit", "CompleteAbort", "Empty")  # empty: it was ended before anything was sent


def end_transaction(producer: KafkaProducer, settings: KafkaSettings, *, commits: bool = True) -> None:
    """Commit or abort, and wait until the markers are written: from then on all readers know."""
    producer.commit_transaction() if commits else producer.abort_transaction()
    name = producer.config["transactional_id"]
    admin = make_admin(settings)
    try:
        end_s = time.monotonic() + LIMIT_S
        while (state := admin.describe_transactions([name])[name].state.value) not in _ENDED:
            assert time.monotonic() < end_s, f"the transaction of {name} is {state}"
    finally:
        admin.close()
