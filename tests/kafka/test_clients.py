"""The clients do what is said of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka_topics import read_partition
from kafka_transactions import end_transaction

from consumers import clients
from consumers.clients import (
    MAX_MESSAGE_BYTES,
    end_producer,
    fetch_ahead,
    make_admin,
    make_consumer,
    make_producer,
)
from consumers.dev_broker import DevBroker
from consumers.settings import KafkaSettings
from consumers.topics import create_topics

of_broker = pytest.mark.slow  # each starts or waits for a broker
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
PLACE = TopicPartition("pairs", 3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_consumer, make_producer, make_admin])
def test_a_client_that_finds_no_broker_leaves_no_thread_behind(make: Callable[[KafkaSettings], Any]) -> None:
    """Those that wait for a broker make a new one again and again, for as long as an outage takes."""
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", give_up_after_s=1)
    before = set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(KafkaError, match="Unable to bootstrap"):
            make(nobody)
    assert set(threading.enumerate()) <= before


@of_broker
def test_a_producer_that_is_ended_sends_nothing_later(tmp_path: Path) -> None:
    own = DevBroker(tmp_path / "broker")
    try:
        own.start()
        settings = KafkaSettings(bootstrap_servers=own.bootstrap, partitions=1, replication_factor=1)
        create_topics(settings)
        producer = make_producer(settings)
        producer.send(settings.topics.pairs, b"first", partition=0).get(timeout=10)
        own.kill()
        lost = producer.send(settings.topics.pairs, b"lost", partition=0)

        assert end_producer(producer)

        assert isinstance(lost.exception, KafkaError)
        own.start()
        assert [record.value for record in read_partition(settings, settings.topics.pairs, 0)] == [b"first"]
    finally:
        own.remove()


@of_broker
def test_a_consumer_never_jumps_and_sees_committed_records_only(topics: KafkaSettings) -> None:
    pairs = topics.topics.pairs
    producer = make_producer(topics, transactional_id=f"{pairs}-0")
    producer.init_transactions()
    for value, commits in ((b"aborted", False), (b"committed", True)):
        producer.begin_transaction()
        producer.send(pairs, value, partition=0).get(timeout=10)
        end_transaction(producer, topics, commits=commits)
    assert end_producer(producer)

    assert [record.value for record in read_partition(topics, pairs, 0)] == [b"committed"]

    consumer = make_consumer(topics)
    place = TopicPartition(pairs, 0)
    consumer.assign([place])
    consumer.seek(place, 1_000)
    with pytest.raises(KafkaError):
        consumer.poll(timeout_ms=5_000)
    consumer.close()


@of_broker
def test_what_comes_next_is_fetched_while_the_last_is_worked_on(topics: KafkaSettings) -> None:
    """Also after a `poll` that had to wait."""
    place = TopicPartition(topics.topics.pairs, 0)
    producer = make_producer(topics.model_copy(update={"compression": "none"}))
    for value in (b"first", b"second"):
        # as much as one fetch may have
        producer.send(place.topic, value.ljust(clients._PARTITION_FETCH_BYTES), partition=0).get(timeout=30)
    assert end_producer(producer)
    consumer = make_consumer(topics)
    consumer.assign([place])
    consumer.seek(place, 0)

    ((first,),) = consumer.poll(timeout_ms=30_000).values()
    assert not consumer._fetcher.in_flight_fetches()  # else kafka-python does it by itself, and `fetch_ahead` can go
    fetch_ahead(consumer)
    give_up_s = time.monotonic() + 30
    while not consumer._fetcher._completed_fetches:
        assert time.monotonic() < give_up_s
    fetch_ahead(consumer)
    assert not consumer._fetcher.in_flight_fetches()  # as what has come was not taken
    ((second,),) = consumer.poll(timeout_ms=0).values()
    consumer.close()
    assert [record.value.rstrip() for record in (first, second)] == [b"first", b"second"]


@of_broker
@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_the_largest_message_goes_through_with_every_codec(topics: KafkaSettings, compression: str) -> None:
    settings = topics.model_copy(update={"compression": compression})
    value = bytes(MAX_MESSAGE_BYTES)
    producer = make_producer(settings)
    producer.send(settings.topics.pairs, value, partition=0).get(timeout=30)
    assert end_producer(producer)

    (record,) = read_partition(settings, settings.topics.pairs, 0)
    assert record.value == value
