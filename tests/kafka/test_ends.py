"""The end of the input is just after the last record that was committed, whatever else takes offsets there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka_transactions import end_transaction

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.ends import positions_at_end
from consumers.messages import ARROW_HEADERS, encode_arrow, position
from consumers.settings import KafkaSettings
from stream_curate.pairs import make_pairs

pytestmark = pytest.mark.slow


@pytest.fixture
def producer(topics: KafkaSettings) -> Iterator[KafkaProducer]:
    """One that makes transactions."""
    made = make_producer(topics, transactional_id=f"{topics.topics.pairs}-test")
    made.init_transactions()
    yield made
    end_producer(made)


@pytest.fixture
def consumer(topics: KafkaSettings) -> Iterator[Any]:
    """One that reads what is committed."""
    made = make_consumer(topics)
    yield made
    made.close()


def send(producer: KafkaProducer, topics: KafkaSettings, partition: int, n_messages: int) -> None:
    """Put messages into `pairs`, in the transaction that is open."""
    futures = [producer.send(topics.topics.pairs, b"{}", partition=partition) for _ in range(n_messages)]
    for future in futures:
        future.get(timeout=10)


def transaction(producer: KafkaProducer, topics: KafkaSettings, partition: int, n: int, *, commit: bool = True) -> None:
    """One transaction of `n` messages, which takes n + 1 offsets."""
    producer.begin_transaction()
    send(producer, topics, partition, n)
    end_transaction(producer, topics, commits=commit)


def test_an_empty_topic_ends_at_0(topics: KafkaSettings, consumer: Any) -> None:
    assert positions_at_end(consumer, topics.topics.pairs, 3) == (0, 0, 0)


def test_markers_and_aborted_transactions_are_no_records(
    topics: KafkaSettings, producer: KafkaProducer, consumer: Any
) -> None:
    transaction(producer, topics, 0, 3)
    transaction(producer, topics, 1, 2)
    for _ in range(20):
        transaction(producer, topics, 1, 40, commit=False)
    transaction(producer, topics, 2, 5, commit=False)
    assert positions_at_end(consumer, topics.topics.pairs, 3) == (position(3), position(2), 0)

    transaction(producer, topics, 2, 1)
    assert positions_at_end(consumer, topics.topics.pairs, 3) == (position(3), position(2), position(7))


def test_messages_without_a_transaction_and_of_many_pairs_count_whole(topics: KafkaSettings, consumer: Any) -> None:
    plain = make_producer(topics)
    value = encode_arrow(make_pairs([f"http://x.org/{i}" for i in range(5)], ["a dog"] * 5))
    for _ in range(4):
        plain.send(topics.topics.pairs, value, headers=ARROW_HEADERS, partition=1).get(timeout=10)
    end_producer(plain)

    assert positions_at_end(consumer, topics.topics.pairs, 3) == (0, position(4), 0)


def test_an_open_transaction_is_not_waited_for(topics: KafkaSettings, producer: KafkaProducer, consumer: Any) -> None:
    transaction(producer, topics, 0, 2)
    producer.begin_transaction()
    send(producer, topics, 0, 3)
    assert positions_at_end(consumer, topics.topics.pairs, 3) == (position(2), 0, 0)

    end_transaction(producer, topics)
    assert positions_at_end(consumer, topics.topics.pairs, 3) == (position(6), 0, 0)
