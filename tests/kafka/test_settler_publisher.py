"""Publishing counts: all or nothing, by the newest settler alone, and once more when in doubt."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError, RequestTimedOutError
from kafka_topics import read_partition
from kafka_transactions import has_open_transaction
from kafka_workers import header_of, made_metadata

from consumers.published_counts import COUNTS_KEY, PublishedCounts
from consumers.settings import KafkaSettings
from consumers.settler_publisher import Publisher, is_fenced
from consumers.watchdog import Watchdog
from stream_curate import failpoints

LIMIT_S = 30.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProducerFencedError(), True),
        (InvalidProducerEpochError(), True),
        (RequestTimedOutError(), False),
        (OSError(errno.EPIPE, "broken pipe"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_errors_say_that_it_is_fenced(error: Exception, *, expected: bool) -> None:
    assert is_fenced(error) == expected


# --- with a broker


@pytest.fixture
def make(topics: KafkaSettings) -> Iterator[Callable[..., Publisher]]:
    """Makes publishers of one curation, as one settler after the other has them."""
    watchdog = Watchdog()
    publishers: list[Publisher] = []

    def publisher(**changes: Any) -> Publisher:
        publishers.append(Publisher(KafkaSettings.model_validate(topics.model_dump() | changes), watchdog))
        return publishers[-1]

    yield publisher
    for each in publishers:
        each.close()
    watchdog.close()


def counts_of(n_unique: int) -> PublishedCounts:
    header = header_of(made_metadata(), n_partitions=3)
    return PublishedCounts(header, (n_unique, 0, 0), n_unique, np.full(5, n_unique, np.int64))


def published(settings: KafkaSettings) -> list[int]:
    """The `n_unique` of all that stands in the topic."""
    records = read_partition(settings, settings.topics.counts, 0)
    assert all(record.key == COUNTS_KEY for record in records)
    return [PublishedCounts.decode(record.value, "here").n_unique for record in records]


def wait_until(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come to that"
        time.sleep(0.05)


def come(settings: KafkaSettings, expected: list[int]) -> bool:
    """Wait until just this stands there. A commit is answered before its marker is written."""
    wait_until(lambda: len(published(settings)) >= len(expected))
    assert published(settings) == expected
    return True


@pytest.mark.slow
def test_each_publication_is_read_in_its_order(topics: KafkaSettings, make: Callable[..., Publisher]) -> None:
    publisher = make()
    publisher.start()
    publisher.start()  # is done already
    for n_unique in (1, 2):
        publisher.publish(counts_of(n_unique))
    assert come(topics, [1, 2])
    publisher.close()
    publisher.close()
    publisher.publish(counts_of(3))  # which starts a producer
    assert come(topics, [1, 2, 3])
    (newest,) = read_partition(topics, topics.topics.counts, 0)[-1:]
    assert newest.value == counts_of(3).encode()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["publish.begin", "publish.sent", "publish.committed"])
def test_after_an_error_it_is_there_or_never_will_be(
    topics: KafkaSettings, make: Callable[..., Publisher], step: str
) -> None:
    publisher = make()
    publisher.publish(counts_of(1))

    def fail(heard: str) -> None:
        if heard == step:
            raise OSError(errno.EIO, "an error")

    with failpoints.listening(fail), pytest.raises(OSError, match="an error"):
        publisher.publish(counts_of(2))
    publisher.publish(counts_of(3))
    assert come(topics, [1, 2, 3] if step == "publish.committed" else [1, 3])
    assert not has_open_transaction(topics)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["publish.begin", "publish.sent"])
def test_of_an_older_settler_nothing_comes_any_more(
    topics: KafkaSettings, make: Callable[..., Publisher], step: str
) -> None:
    older, newer = make(), make()
    older.publish(counts_of(1))

    def take_over(heard: str) -> None:
        if heard == step:
            newer.start()

    with failpoints.listening(take_over), pytest.raises(KafkaError) as error:
        older.publish(counts_of(2))
    assert is_fenced(error.value)
    newer.publish(counts_of(3))
    assert come(topics, [1, 3])


@pytest.mark.slow
def test_to_start_ends_what_a_dead_settler_has_left_open(topics: KafkaSettings, make: Callable[..., Publisher]) -> None:
    """At once, and not only when the transaction's time is over: workers wait for it."""

    class Dead(BaseException):
        pass

    def die(heard: str) -> None:
        if heard == "publish.sent":
            raise Dead

    dead, newer = make(transaction_timeout_s=600.0), make()
    with failpoints.listening(die), pytest.raises(Dead):
        dead.publish(counts_of(1))
    assert has_open_transaction(topics)
    assert published(topics) == []
    newer.start()
    wait_until(lambda: not has_open_transaction(topics))
    newer.publish(counts_of(2))
    assert come(topics, [2])


@pytest.mark.slow
def test_a_transaction_that_was_open_for_too_long_is_made_again(
    topics: KafkaSettings, make: Callable[..., Publisher]
) -> None:
    publisher = make(transaction_timeout_s=2.0, request_timeout_s=1.0)
    publisher.publish(counts_of(1))
    wait_until(lambda: not has_open_transaction(topics))  # of the first

    def stand_still(heard: str) -> None:
        if heard == "publish.sent":
            assert has_open_transaction(topics)
            wait_until(lambda: not has_open_transaction(topics))

    with failpoints.listening(stand_still), pytest.raises(KafkaError) as error:
        publisher.publish(counts_of(2))
    assert is_fenced(error.value)
    publisher.publish(counts_of(3))
    assert come(topics, [1, 3])
