"""The end of a transaction: what it commits, and what its limit leaves behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kafka import KafkaProducer
from kafka_topics import read_partition

from consumers.clients import end_producer, make_producer
from consumers.settings import KafkaSettings
from consumers.transactions import CommitInDoubt, commit_transaction

pytestmark = pytest.mark.slow


@pytest.fixture
def producer(topics: KafkaSettings) -> Iterator[KafkaProducer]:
    made = make_producer(topics, transactional_id=f"{topics.topics.ledger}-0")
    made.init_transactions()
    yield made
    end_producer(made)


def written(topics: KafkaSettings) -> list[bytes]:
    return [record.value for record in read_partition(topics, topics.topics.ledger, 0)]


def write(producer: KafkaProducer, topics: KafkaSettings, value: bytes) -> None:
    producer.begin_transaction()
    producer.send(topics.topics.ledger, value, partition=0).get(timeout=10)


def test_one_after_the_other_is_committed(producer: KafkaProducer, topics: KafkaSettings) -> None:
    for value in (b"one", b"two"):
        write(producer, topics, value)
        commit_transaction(producer, 10)
    end_s = time.monotonic() + 10
    while written(topics) != [b"one", b"two"]:  # an answer may come before the markers are written
        assert time.monotonic() < end_s, written(topics)


def test_without_an_answer_in_time_it_is_in_doubt_and_the_next_producer_ends_it(
    producer: KafkaProducer, topics: KafkaSettings
) -> None:
    write(producer, topics, b"one")
    with pytest.raises(CommitInDoubt, match="not answered in 0 s"):
        commit_transaction(producer, 0)
    assert end_producer(producer)
    heir = make_producer(topics, transactional_id=f"{topics.topics.ledger}-0")
    heir.init_transactions()
    write(heir, topics, b"two")
    commit_transaction(heir, 10)
    assert end_producer(heir)
    end_s = time.monotonic() + 10
    while b"two" not in written(topics):
        assert time.monotonic() < end_s
    assert written(topics) in ([b"two"], [b"one", b"two"])
