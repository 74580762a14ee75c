"""The published counts: what was written is read, the newest of it, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_workers import header_of, made_metadata, transaction

from consumers.clients import MAX_MESSAGE_BYTES, make_consumer
from consumers.ledger import DamagedRecord, encode_row
from consumers.published_counts import COUNTS_KEY, CountsReader, PublishedCounts, check_size
from consumers.settings import KafkaSettings
from stream_curate.errors import ConfigError
from stream_curate.final_rule import FinalDecisions

HEADER = header_of(made_metadata())
FINAL_HEADER = header_of(made_metadata(), final=FinalDecisions(1_000))
COUNTS = PublishedCounts(HEADER, (5, 65_536 * 9 + 3), 17, np.array([0, 1, 2**62], np.int64))
VALUE = COUNTS.encode()


def test_what_is_written_is_read() -> None:
    read = PublishedCounts.decode(VALUE, "here")

    assert (read.header, read.cut, read.n_unique) == (HEADER, COUNTS.cut, 17)
    assert read.entry_counts.dtype == np.int64
    assert read.entry_counts.tolist() == [0, 1, 2**62]


@given(st.data())
def test_damaged_bytes_are_told_as_such(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(VALUE) - 1))
    flipped = data.draw(st.integers(1, 255))
    for value in (VALUE[:place], VALUE[:place] + bytes([VALUE[place] ^ flipped]) + VALUE[place + 1 :]):
        with suppress(DamagedRecord):  # and nothing else
            PublishedCounts.decode(value, "here")


def test_no_value_and_another_version_are_told() -> None:
    with pytest.raises(DamagedRecord, match="here is no record of stream-curate"):
        PublishedCounts.decode(None, "here")
    counts = pa.ListArray.from_arrays(pa.array([0, 0], pa.int32()), pa.array([], pa.int64()))
    with pytest.raises(DamagedRecord, match="here is of format 3; this program reads formats 1 and 2"):
        PublishedCounts.decode(encode_row(["entry_counts"], [counts], {"format": 3}), "here")


def test_final_decisions_come_with_their_coins() -> None:
    """As many as counts, from the same cut."""
    counts, coins = np.array([0, 7, 2**62]), np.array([0, 7, 2**40])
    made = PublishedCounts(FINAL_HEADER, (5, 9), 17, counts, coins)
    read = PublishedCounts.decode(made.encode(), "here")

    assert (read.header, read.cut, read.n_unique) == (FINAL_HEADER, (5, 9), 17)
    assert (read.entry_counts.tolist(), read.entry_coins.tolist()) == (counts.tolist(), coins.tolist())
    for crooked in (replace(made, entry_coins=coins[:2]), replace(made, header=HEADER)):
        value = crooked.encode()
        if crooked.header is HEADER:
            assert len(PublishedCounts.decode(value, "here").entry_coins) == 0
        else:
            with pytest.raises(DamagedRecord, match="3 counts with 2 coins"):
                PublishedCounts.decode(value, "here")


@pytest.fixture
def reader(topics: KafkaSettings) -> Iterator[CountsReader]:
    made = CountsReader(make_consumer(topics), topics)
    yield made
    made.consumer.close()


def publish(topics: KafkaSettings, n_unique: int, *, commit: bool = True) -> None:
    value = PublishedCounts(HEADER, (0, n_unique), n_unique, np.zeros(3, np.int64)).encode()
    with transaction(topics, "settler", commit=commit) as producer:
        producer.send(topics.topics.counts, value, COUNTS_KEY, partition=0)


@pytest.mark.slow
def test_the_newest_is_read_and_then_what_comes(
    topics: KafkaSettings, reader: CountsReader, soon: Callable[[Callable[[], object]], object]
) -> None:
    assert reader.newest() is None
    assert reader.newer() is None
    for n_unique in (1, 2):
        publish(topics, n_unique)
    newest = reader.newest()
    assert newest is not None
    assert newest.n_unique == 2
    assert reader.newer() is None

    publish(topics, 3)
    newer = soon(reader.newer)
    assert isinstance(newer, PublishedCounts)
    assert newer.cut == (0, 3)


@pytest.mark.slow
def test_what_was_not_committed_is_not_read(topics: KafkaSettings, reader: CountsReader) -> None:
    publish(topics, 1)
    publish(topics, 2, commit=False)
    newest = reader.newest()

    assert newest is not None
    assert newest.n_unique == 1
    publish(topics, 3, commit=False)
    for _ in range(20):
        assert reader._last_of_poll(50) is None


@pytest.fixture
def soon() -> Callable[[Callable[[], object]], object]:
    """Asks again and again until there is an answer."""
    from kafka_workers import wait_for

    def ask(question: Callable[[], object]) -> object:
        answers: list[object] = []

        def found() -> bool:
            answers.append(question())
            return answers[-1] is not None

        wait_for(found)
        return answers[-1]

    return ask


def test_a_list_is_refused_whose_counts_fit_into_no_message() -> None:
    largest = 2_064_384
    check_size(largest, HEADER.rule)
    assert len(PublishedCounts(HEADER, (0,) * 1_000, 0, np.zeros(largest, np.int64)).encode()) < MAX_MESSAGE_BYTES
    with pytest.raises(ConfigError, match=r"2,064,385 entries, and the counts of 2,064,384 at most"):
        check_size(largest + 1, HEADER.rule)
    check_size(largest // 2, FINAL_HEADER.rule)
    with pytest.raises(ConfigError, match=r"1,032,193 entries, and the counts and coins of 1,032,192 at most"):
        check_size(largest // 2 + 1, FINAL_HEADER.rule)
