"""The end of a transaction, with a time limit, and with no second try behind our back."""

from __future__ import annotations

from kafka import KafkaProducer
from kafka.errors import KafkaError


class CommitInDoubt(KafkaError):  # type: ignore[misc]
    """It is not known what the broker makes of a transaction; or it is, and the next one would not be safe.

    The producer is to be given up. `init_transactions` of a new one with the same transactional.id ends what is open,
    and what is then found in the topics is what happened.
    """


def commit_transaction(producer: KafkaProducer, limit_s: float) -> None:
    """`producer.commit_transaction()`, which waits without limit, and after a lost connection asks again by itself.

    The first request may then still be under way. It would end the *next* transaction, half written: brokers that are
    spoken to in this version of the protocol (before KIP-890) take it for that one's. So this one was committed, and
    the producer must not be used on. The request is taken hold of in the client's own queue; kafka-python is pinned.

    Raises:
        CommitInDoubt: no answer in time, or the request was sent more than once.
        KafkaError: the broker has refused it.
    """
    manager = producer._transaction_manager
    with manager._lock:
        result = manager.begin_commit()
        request = next(waiting[-1] for waiting in manager._pending_requests if waiting[-1].result is result)
    producer._sender.wakeup()
    if not result.wait(timeout_ms=round(limit_s * 1_000)):
        raise CommitInDoubt(f"a commit was not answered in {limit_s:g} s")
    if request.is_retry:
        raise CommitInDoubt("a commit was asked for twice, and the first request may still come")
