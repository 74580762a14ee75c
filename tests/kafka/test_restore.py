"""A ledger read to its end gives the state of the one who wrote it; one that is not whole is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_messages import Message
from kafka import TopicPartition
from kafka_reference import read_ledger
from kafka_workers import SEED, header_of, made_metadata, made_pairs, read_batch, transaction

from consumers.clients import make_admin, make_consumer
from consumers.decision import Decider
from consumers.errors import KafkaProblem
from consumers.ledger import DamagedRecord, LedgerRecord, RuleHeader
from consumers.ledger_cache import LedgerCache
from consumers.messages import encode_json, position
from consumers.partition_state import UNREAD, PartitionState
from consumers.restore import Restore
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.checked_file import DamagedFile
from stream_curate.errors import ConfigError
from stream_curate.final_rule import FinalDecisions
from stream_curate.rule import Dedup

pytestmark = pytest.mark.slow

METADATA = made_metadata()
HEADER = header_of(METADATA, n_partitions=3)


@pytest.fixture
def consumer(topics: KafkaSettings) -> Iterator[Any]:
    made = make_consumer(topics)
    yield made
    made.close()


def new_state(header: RuleHeader = HEADER) -> PartitionState:
    return PartitionState(header, 1, len(METADATA))


def commits(
    n: int, first: int = 0, n_pairs: int = 20, header: RuleHeader = HEADER
) -> tuple[PartitionState, list[LedgerRecord]]:
    """The records of so many commits, and the state that they come to."""
    state = new_state(header)
    state.next = position(first)
    decider = Decider(header, METADATA, SEED)
    records = []
    for k in range(first, first + n * n_pairs, n_pairs):
        values = encode_json(made_pairs(n_pairs, k))
        batch = read_batch([Message(k + i, value) for i, value in enumerate(values)], 1)
        records += decider.ledger_records(decider.decide(batch, state), state, position(k + n_pairs))
        state.next = position(k + n_pairs)
    return state, records


def write(topics: KafkaSettings, values: list[bytes | None], *, commit: bool = True) -> None:
    with transaction(topics, "ledger", commit=commit) as producer:
        for value in values:
            producer.send(topics.topics.ledger, value, b"" if value is None else None, partition=1)


def restore(consumer: Any, topics: KafkaSettings, cache: LedgerCache | None = None) -> Restore:
    made = Restore(consumer, topics.topics.ledger, new_state, cache)
    while not made.go_on(10.0):
        pass
    return made


def assert_same(found: PartitionState, wanted: PartitionState, records: list[LedgerRecord]) -> None:
    assert found.next == wanted.next
    assert len(found.seen) == len(wanted.seen)
    assert not found.seen.add(np.concatenate([record.seen for record in records])).any()
    assert (found.view.counts == wanted.view.counts).all()


def test_of_an_empty_ledger_nothing_is_known(topics: KafkaSettings, consumer: Any) -> None:
    assert restore(consumer, topics).state.next == UNREAD
    write(topics, [commits(1)[1][0].encode()], commit=False)
    assert restore(consumer, topics).state.next == UNREAD


def test_it_is_the_state_of_the_one_who_wrote(topics: KafkaSettings, consumer: Any) -> None:
    """With aborted transactions between, and one at the end."""
    state, records = commits(30)
    values: list[bytes | None] = [record.encode() for record in records]
    write(topics, values[:10])
    write(topics, values[:7], commit=False)
    write(topics, values[10:])
    write(topics, values, commit=False)
    restored = restore(consumer, topics)

    assert restored.n_records == 30
    assert_same(restored.state, state, records)


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_coins_pairs_and_what_was_given_out_are_known_again_from_cache_and_ledger(
    topics: KafkaSettings, consumer: Any, tmp_path: Path, dedup: Dedup
) -> None:
    """So that a worker that goes on decides as the one before would have."""
    header = header_of(METADATA, n_partitions=3, final=FinalDecisions(600), dedup=dedup)
    state, records = commits(20, header=header)
    values: list[bytes | None] = [record.encode() for record in records]
    write(topics, values[:15])
    for n_read in (15, 5):  # the second time the cache has the first part
        cache = LedgerCache.open(tmp_path, topics.topics.ledger, 1, header)
        assert cache is not None
        restored = Restore(consumer, topics.topics.ledger, lambda: new_state(header), cache)
        while not restored.go_on(10.0):
            pass
        cache.close()
        assert restored.n_records == n_read
        if n_read == 15:
            write(topics, values[15:])

    assert state.view.coins.sum() > 0
    assert_same(restored.state, state, records)
    assert (restored.state.view.coins == state.view.coins).all()
    assert restored.state.view.n_unique == restored.state.view.n_own == state.view.n_unique > 0


def test_it_is_done_in_slices(topics: KafkaSettings, consumer: Any) -> None:
    state, records = commits(200)
    write(topics, [record.encode() for record in records])
    restored = Restore(consumer, topics.topics.ledger, new_state, None)
    n_slices = 1
    while not restored.go_on(0.0001):
        n_slices += 1
        assert n_slices < 1_000
        assert restored.n_steps <= 200

    assert restored.n_steps == 200
    assert n_slices > 3
    assert_same(restored.state, state, records)


def test_a_ledger_that_does_not_begin_at_its_beginning_is_told(topics: KafkaSettings, consumer: Any) -> None:
    _, records = commits(5)
    write(topics, [record.encode() for record in records])
    delete_before(topics, 2)

    with pytest.raises(KafkaProblem, match=r"ledger, partition 1 begins at offset 2, not at 0: .* replay"):
        Restore(consumer, topics.topics.ledger, new_state, None)


def delete_before(topics: KafkaSettings, offset: int) -> None:
    admin = make_admin(topics)
    try:
        admin.delete_records({TopicPartition(topics.topics.ledger, 1): offset})
    finally:
        admin.close()


def test_a_gap_is_told_with_its_offset(topics: KafkaSettings, consumer: Any) -> None:
    _, records = commits(5)
    write(topics, [record.encode() for record in (*records[:2], *records[3:])])

    with pytest.raises(KafkaProblem, match=r"partition 1, offset 2 tells of the input from offset 60 .* ended at 40"):
        restore(consumer, topics)


@pytest.mark.parametrize("value", [None, b"", b"other"])
def test_what_is_no_record_is_told_with_its_offset(topics: KafkaSettings, consumer: Any, value: bytes | None) -> None:
    write(topics, [commits(1)[1][0].encode(), value])

    with pytest.raises(DamagedRecord, match=r"ledger, partition 1, offset 1 is no record of stream-curate"):
        restore(consumer, topics)


def test_a_ledger_of_another_rule_is_refused(topics: KafkaSettings, consumer: Any) -> None:
    record = commits(1)[1][0]
    write(topics, [replace(record, header=header_of(METADATA, n_partitions=3, seed=8)).encode()])

    with pytest.raises(
        ConfigError, match=r"partition 1, offset 0 was written by a process with other settings:\n.*seed"
    ):
        restore(consumer, topics)


def test_another_threshold_is_no_other_rule(topics: KafkaSettings, consumer: Any) -> None:
    record = commits(1)[1][0]
    write(topics, [replace(record, header=HEADER.replace_threshold(77)).encode()])

    assert restore(consumer, topics).state.next == record.next


# --- with a cache


@contextmanager
def cache_in(topics: KafkaSettings, folder: Path) -> Iterator[LedgerCache]:
    cache = LedgerCache.open(folder, topics.topics.ledger, 1, HEADER)
    assert cache is not None
    try:
        yield cache
    finally:
        cache.close()


@pytest.fixture
def warm(topics: KafkaSettings, consumer: Any, tmp_path: Path) -> tuple[PartitionState, list[LedgerRecord]]:
    """A cache of the first 20 commits, and a ledger of 30; the state at the end."""
    state, records = commits(30)
    values: list[bytes | None] = [record.encode() for record in records]
    write(topics, values[:20])
    with cache_in(topics, tmp_path) as cache:
        assert restore(consumer, topics, cache).n_records == 20
    write(topics, values[20:])
    return state, records


def test_what_is_cached_is_not_read_again(
    topics: KafkaSettings, consumer: Any, tmp_path: Path, warm: tuple[PartitionState, list[LedgerRecord]]
) -> None:
    for n_new in (10, 0):
        with cache_in(topics, tmp_path) as cache:
            restored = restore(consumer, topics, cache)
        assert restored.n_records == n_new
        assert restored.n_steps > n_new  # parts of the cache, too
        assert_same(restored.state, *warm)


def change_seen(folder: Path) -> None:
    (path,) = folder.rglob("seen.u64")
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")


def remove_deltas(folder: Path) -> None:
    for path in folder.rglob("deltas-*"):
        path.unlink()


@pytest.mark.parametrize("damage", [change_seen, remove_deltas, shutil.rmtree])
def test_a_damaged_cache_only_costs_time(
    topics: KafkaSettings,
    consumer: Any,
    tmp_path: Path,
    warm: tuple[PartitionState, list[LedgerRecord]],
    damage: Callable[[Path], None],
) -> None:
    damage(tmp_path)
    with cache_in(topics, tmp_path) as cache:
        restored = restore(consumer, topics, cache)
    assert restored.n_records == 30
    assert_same(restored.state, *warm)

    with cache_in(topics, tmp_path) as cache:
        assert restore(consumer, topics, cache).n_records == 0


def test_a_cache_that_changes_while_it_is_read_only_costs_time(
    topics: KafkaSettings,
    consumer: Any,
    tmp_path: Path,
    warm: tuple[PartitionState, list[LedgerRecord]],
) -> None:
    """It was whole when it was opened; `load` finds out at the end."""
    with cache_in(topics, tmp_path) as cache:
        change_seen(tmp_path)
        restored = restore(consumer, topics, cache)
    assert restored.n_records == 30
    assert_same(restored.state, *warm)


@pytest.mark.parametrize("n_commits", [0, 3, 25])
def test_a_cache_of_a_topic_that_was_made_anew_only_costs_time(
    topics: KafkaSettings,
    kafka: Callable[..., KafkaSettings],
    tmp_path: Path,
    warm: tuple[PartitionState, list[LedgerRecord]],
    n_commits: int,
) -> None:
    """Whether the new ledger is shorter than the cache or longer."""
    admin = make_admin(topics)
    admin.delete_topics([topics.topics.ledger])
    admin.close()
    create_topics(topics)
    state, records = commits(n_commits, first=7)
    if records:
        write(topics, [record.encode() for record in records])
    consumer = make_consumer(topics)
    try:
        with cache_in(topics, tmp_path) as cache:
            restored = restore(consumer, topics, cache)
    finally:
        consumer.close()

    assert len(read_ledger(topics)[1]) == n_commits
    if records:
        assert_same(restored.state, state, records)
    else:
        assert restored.state.next == UNREAD
        assert len(restored.state.seen) == 0
    assert restored.n_records == n_commits


def test_damage_is_an_error_of_its_own() -> None:
    """What `Restore` catches of the cache is not what it raises for the ledger."""
    assert not issubclass(DamagedRecord, DamagedFile)
