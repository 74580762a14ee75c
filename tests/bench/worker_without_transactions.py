"""`stream-curate worker`, but each commit is only sent and acknowledged: what transactions cost is the difference.

For measuring alone. Without transactions a worker that is killed leaves half a commit behind, and two that hold the
same partition write both.
"""

from __future__ import annotations

import sys
from typing import Any

from kafka import KafkaProducer

from consumers import clients, owned_partition
from stream_curate.cli import main


def _make_producer(settings: Any, *, transactional_id: str) -> KafkaProducer:
    """One that still sends each record only once, and keeps their order."""
    producer = clients.make_producer(settings)
    producer.init_transactions = producer.begin_transaction = lambda: None
    return producer


def _commit(producer: KafkaProducer, limit_s: float) -> None:
    producer.flush(timeout=limit_s)


if __name__ == "__main__":
    clients._LINGER_MS = 0  # as in a transaction: what is given is all that there is
    vars(owned_partition).update(make_producer=_make_producer, commit_transaction=_commit)
    sys.argv[0] = "stream-curate"
    main()
