"""Workers on a real broker: whatever comes in and whatever happens, the ledger folds to the offline set."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter as Multiset
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_messages import Message, hostile_messages
from kafka import KafkaProducer, TopicPartition
from kafka_reference import Reference, check_ledger, read_ledger
from kafka_topics import read_partition
from kafka_workers import (
    QUICK,
    SEED,
    THRESHOLD,
    WorkerThread,
    commit_now,
    fold,
    made_metadata,
    made_pairs,
    owner,
    read_batch,
    running,
    send,
    send_raw,
    shard_pairs,
    transaction,
    wait_for,
    worker_settings,
)

from consumers import clients, inbox, memory
from consumers.clients import make_admin
from consumers.dead_letters import read_dead_letter
from consumers.dev_broker import DevBroker
from consumers.errors import KafkaProblem
from consumers.memory import MemoryFull
from consumers.messages import encode_json, position
from consumers.published_counts import COUNTS_KEY, PublishedCounts
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from consumers.worker import work
from stream_curate import exit_codes
from stream_curate.draws import seed_fingerprint
from stream_curate.errors import ConfigError
from stream_curate.failpoints import InjectedFault, listening
from stream_curate.metadata import Metadata

pytestmark = pytest.mark.slow


def check_equal(topics: KafkaSettings, metadata: Metadata, threshold: int = THRESHOLD) -> Reference:
    """The ledger, folded, is what offline keeps of all that stands in `pairs`, and its numbers are right."""
    reference = Reference(topics, metadata, threshold=threshold, seed=SEED)
    assert fold(topics, metadata, threshold=threshold) == reference.kept()
    records = [record for partition in read_ledger(topics) for record in partition]
    assert sum(record.numbers.n_unique for record in records) == reference.n_unique()
    assert sum(record.numbers.n_forwarded for record in records) == reference.n_away
    assert sum(record.n_received for record in records) == reference.n_away
    assert sum(record.numbers.n_rejected for record in records) == reference.n_rejected
    return reference


def delete_before(topics: KafkaSettings, partition: int, offset: int) -> None:
    admin = make_admin(topics)
    try:
        admin.delete_records({TopicPartition(topics.topics.pairs, partition): offset})
    finally:
        admin.close()


def to_end(topics: KafkaSettings, **changes: Any) -> Any:
    how = {key: changes.pop(key) for key in ("from_earliest",) if key in changes}
    return WorkerThread(worker_settings(topics, **changes), until_end=True, **how).join(90)


# --- the same set


@pytest.mark.parametrize("arrow", [False, True], ids=["json", "arrow"])
def test_the_ledger_of_one_worker_folds_to_the_offline_set(
    topics: KafkaSettings, golden_metadata: Metadata, arrow: bool
) -> None:
    pairs = shard_pairs(4_000)
    send(topics, pairs, arrow=arrow)
    settings = topics.model_copy(update={"commit_records": 300})
    worked = to_end(settings)

    reference = check_equal(topics, golden_metadata)
    assert not worked.stopped
    assert worked.numbers.n_read == len(pairs)
    assert worked.numbers.n_unique == len(reference.pool)
    assert len(reference.kept()) > 500
    assert max(len(records) for records in read_ledger(topics)) > 2


@pytest.mark.parametrize("n_workers", [1, 3])
def test_input_by_another_partitioner_is_forwarded(
    topics: KafkaSettings, golden_metadata: Metadata, n_workers: int
) -> None:
    """And a run to the end waits for what it forwards; the pairs meet their duplicates at home."""
    pairs = shard_pairs(1_500)
    send(topics, pairs, arrow=True, to=0)
    send(topics, pairs.slice(0, 500))
    settings = topics.model_copy(update={"commit_records": 200})
    with running(worker_settings(settings), n_workers, until_end=True) as workers:
        worked = [worker.join(90) for worker in workers]

    reference = check_equal(topics, golden_metadata)
    assert reference.n_away > 800
    numbers = [each.numbers for each in worked]
    assert sum(each.n_forwarded for each in numbers) == reference.n_away
    assert sum(each.n_read for each in numbers) == 2_000 + reference.n_away
    assert sum(each.n_duplicate for each in numbers) >= 500


def test_workers_that_come_and_go_share_the_work(topics: KafkaSettings, golden_metadata: Metadata) -> None:
    pairs = shard_pairs(3_000)
    settings = worker_settings(topics.model_copy(update={"commit_records": 50}))
    with running(settings, 1) as first:
        for k in range(0, 3_000, 500):
            send(topics, pairs.slice(k, 500), arrow=bool(k % 1_000))
            if k == 500:
                with running(settings, 2) as others:
                    send(topics, pairs.slice(0, 100))
                    wait_for(lambda: any(each.n_read for each in [*others, *first]), 30, [*others, *first])
        first[0].stop()
    to_end(topics)
    check_equal(topics, golden_metadata)


def test_a_second_run_has_nothing_to_do(topics: KafkaSettings) -> None:
    send(topics, made_pairs(100))
    assert to_end(topics).numbers.n_read == 100
    n_before = sum(map(len, read_ledger(topics)))
    assert to_end(topics).numbers.n_read == 0
    assert sum(map(len, read_ledger(topics))) <= n_before + 3


# --- errors on the way


@pytest.mark.parametrize(
    "step", ["init.producer_made", "restore.done", "commit.ledger_sent", "commit.flushed", "commit.done"]
)
def test_an_error_drops_the_partition_and_it_goes_on(
    topics: KafkaSettings, golden_metadata: Metadata, step: str
) -> None:
    pairs = shard_pairs(600)
    send(topics, pairs, to=1)
    times = Multiset[str]()

    def fail(reached: str) -> None:
        times[reached] += 1
        if reached == step and times[step] in (1, 3):
            raise InjectedFault(step)

    with listening(fail):
        to_end(topics.model_copy(update={"commit_records": 100}))
    check_equal(topics, golden_metadata)
    assert times["abort.done"] >= 1


def test_a_producer_that_does_not_end_ends_the_worker(topics: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    send(topics, made_pairs(30))
    end_producer = clients.end_producer
    not_ended: list[KafkaProducer] = []

    def does_not_end(producer: KafkaProducer) -> bool:
        not_ended.append(producer)
        return False

    monkeypatch.setattr(clients, "end_producer", does_not_end)

    def fail(reached: str) -> None:
        if reached == "commit.begin":
            raise InjectedFault(reached)

    with listening(fail), pytest.raises(KafkaProblem, match=r"the producer of partition \d does not end"):
        to_end(topics)
    assert not_ended
    for producer in not_ended:
        assert end_producer(producer)


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[DevBroker]:
    broker = DevBroker(tmp_path / "broker")
    try:
        broker.start()
        yield broker
    finally:
        broker.remove()


def test_a_broker_that_is_away_for_a_while_costs_nothing_but_time(
    own_broker: DevBroker, golden_metadata: Metadata
) -> None:
    topics = KafkaSettings(
        **QUICK, bootstrap_servers=own_broker.bootstrap, partitions=2, replication_factor=1, commit_records=50
    )
    create_topics(topics)
    send(topics, shard_pairs(600))
    with running(worker_settings(topics)) as (worker,):
        wait_for(lambda: worker.n_read >= 100, 60, [worker])
        own_broker.kill()
        gone_s = time.monotonic()
        while time.monotonic() - gone_s < 10:
            assert worker.is_alive
            time.sleep(0.1)
        own_broker.start()
        send(topics, shard_pairs(900))
        wait_for(lambda: sum(r.numbers.n_read for p in read_ledger(topics) for r in p) >= 1_500, 120, [worker])
        worker.stop()
    to_end(topics)
    check_equal(topics, golden_metadata)


# --- retention, and topics that are others


def test_what_retention_removed_before_anything_was_read_is_told(
    topics: KafkaSettings, golden_metadata: Metadata
) -> None:
    send(topics, shard_pairs(300))
    delete_before(topics, 1, 20)
    with pytest.raises(KafkaProblem, match=r"pairs, partition 1: nothing was read .* at offset 20: .*--from-earliest"):
        to_end(topics)

    to_end(topics, from_earliest=True)
    reference = Reference(topics, golden_metadata, threshold=THRESHOLD, seed=SEED)
    records = read_ledger(topics)
    assert records[1][0].first == position(20)
    assert sum(record.numbers.n_unique for partition in records for record in partition) == len(reference.pool)


@pytest.mark.parametrize("is_all_gone", [False, True])
def test_what_retention_removed_before_it_was_read_is_told(topics: KafkaSettings, is_all_gone: bool) -> None:
    """Also where nothing at all is left, and a run to the end would find nothing to do."""
    send(topics, made_pairs(50), to=1)
    to_end(topics)
    send(topics, made_pairs(50, 50), to=1)
    end = read_partition(topics, topics.topics.pairs, 1)[-1].offset + 1
    delete_before(topics, 1, end if is_all_gone else end - 5)

    with pytest.raises(KafkaProblem, match=r"partition 1: the next record to read is at offset \d+, .* replay"):
        to_end(topics)
    assert KafkaProblem("").exit_code == exit_codes.KAFKA


def test_markers_that_retention_removed_are_nothing_lost(
    topics: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand behind the last record, and take offsets."""
    monkeypatch.setattr(inbox, "PASSED_INTERVAL_S", 0.2)
    for k in range(2):
        with transaction(topics, f"{k}") as producer:
            for value in encode_json(made_pairs(20, 20 * k)):
                producer.send(topics.topics.pairs, value, partition=1)
    with transaction(topics, "2", commit=False) as producer:
        producer.send(topics.topics.pairs, b"{}", partition=1)
    # 40 records, 2 markers; a record that was given up, and its marker
    with running(worker_settings(topics)) as (worker,):
        wait_for(lambda: read_ledger(topics)[1] and read_ledger(topics)[1][-1].next >= position(44), 60, [worker])
    delete_before(topics, 1, 44)

    to_end(topics)
    assert len(read_partition(topics, topics.topics.pairs, 1)) == 0
    check_ledger(topics)


def make_anew(topics: KafkaSettings, name: str) -> None:
    admin = make_admin(topics)
    admin.delete_topics([name])
    admin.close()
    create_topics(topics)


@pytest.mark.parametrize("n_new", [10, 200], ids=["shorter", "longer"])
def test_a_topic_made_anew_is_told(topics: KafkaSettings, n_new: int) -> None:
    send(topics, made_pairs(60), to=1)
    to_end(topics)
    make_anew(topics, topics.topics.pairs)
    send(topics, made_pairs(n_new), to=1)

    with pytest.raises(KafkaProblem, match=r"another topic of pairs .* made anew, .* make new topics, all of them"):
        WorkerThread(worker_settings(topics)).join(60)


def test_a_topic_made_anew_while_it_is_read_is_told(topics: KafkaSettings) -> None:
    send(topics, made_pairs(60), to=1)
    with running(worker_settings(topics)) as (worker,):
        wait_for(lambda: worker.n_read >= 60, 60, [worker])
        make_anew(topics, topics.topics.pairs)
        send(topics, made_pairs(200), to=1)
        with pytest.raises(KafkaProblem, match=r"cut off or made anew|what was to be read next is not there"):
            worker.join(60)


def test_a_ledger_that_was_cut_off_is_told(topics: KafkaSettings) -> None:
    """What is written to it would look as if it went on."""
    with owner(topics, made_metadata(), 1) as owned:
        owned._ledger_end = 7
        with pytest.raises(KafkaProblem, match=r"had come to offset 7, and goes on at 0: it was cut off or made anew"):
            commit_now(owned, read_batch([Message(0, None)], 1), position(1))
    assert read_ledger(topics)[1] == []


def test_a_worker_says_that_topics_are_missing(kafka: Callable[..., KafkaSettings]) -> None:
    with pytest.raises(KafkaProblem, match=r"there is no topic .*pairs .* stream-curate topics create"):
        work(worker_settings(kafka()))


# --- settings of others


def test_another_seed_is_refused_and_another_threshold_goes_on(
    topics: KafkaSettings, golden_metadata: Metadata
) -> None:
    send(topics, shard_pairs(300))
    to_end(topics)
    send(topics, shard_pairs(600))
    with pytest.raises(ConfigError) as told:
        to_end(topics, seed="8")
    for seed in (7, 8):
        assert seed_fingerprint(seed) in str(told.value)
    assert told.value.exit_code == exit_codes.BAD_INPUT

    to_end(topics, threshold=5)
    check_equal(topics, golden_metadata, threshold=5)
    assert {record.header.rule.threshold for p in read_ledger(topics) for record in p} == {5, THRESHOLD}


def publish(topics: KafkaSettings, published: PublishedCounts) -> None:
    with transaction(topics, "settler") as producer:
        producer.send(topics.topics.counts, published.encode(), COUNTS_KEY, partition=0)


def test_counts_of_another_seed_are_refused_and_others_are_the_view(
    topics: KafkaSettings, golden_metadata: Metadata
) -> None:
    send(topics, shard_pairs(300))
    to_end(topics)
    records = check_ledger(topics)
    counts = np.zeros(len(golden_metadata), np.int64)
    for partition in records:
        for record in partition:
            counts[record.entry_ids] += record.increments
    cut = tuple(partition[-1].next for partition in records)
    publish(topics, PublishedCounts(records[0][0].header, cut, 300, counts))
    with pytest.raises(ConfigError, match=r"the newest record of .*counts was written by a process with other"):
        work(worker_settings(topics, seed="8"))

    other = dataclasses.replace(records[0][0].header, pairs_id="another")
    publish(topics, PublishedCounts(other, cut, 300, counts))
    with pytest.raises(KafkaProblem, match=r"the newest record of .*counts tells of another topic of pairs"):
        work(worker_settings(topics))
    publish(topics, PublishedCounts(records[0][0].header, cut, 300, counts))

    with running(worker_settings(topics)) as (worker,):
        send(topics, shard_pairs(600))
        wait_for(lambda: worker.n_read >= 600, 60, [worker])
    new = [partition[len(before) :] for partition, before in zip(check_ledger(topics), records, strict=True)]
    assert {record.view_cut for partition in new for record in partition} == {cut}
    check_equal(topics, golden_metadata)


# --- bad input, full memory, stopping


def test_dead_letters_are_exact(topics: KafkaSettings, golden_metadata: Metadata, rng: np.random.Generator) -> None:
    hostile = hostile_messages(rng, 120)
    good = [(value, []) for value in encode_json(shard_pairs(500))]
    mixed: list[Any] = [*((each.value, each.headers) for each in hostile), *good]
    mixed = [mixed[place] for place in rng.permutation(len(mixed))]
    for partition in range(3):
        send_raw(topics, mixed[partition::3], partition)
    worked = to_end(topics)

    reasons = sum((each.reasons for each in hostile), Multiset())
    wanted = {str(reason): n for reason, n in reasons.items()}
    letters = [read_dead_letter(each) for p in range(3) for each in read_partition(topics, topics.topics.dlq, p)]
    assert None not in letters
    assert Multiset(letter.reason for letter in letters if letter) == wanted == worked.numbers.rejected
    places = [(letter.source, letter.offset, letter.row) for letter in letters if letter]
    assert len(set(places)) == len(places)
    check_equal(topics, golden_metadata)


def test_full_memory_is_told(topics: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    send(topics, made_pairs(50))
    monkeypatch.setattr(memory, "memory_limit", lambda: 1_000_000)
    monkeypatch.setattr("consumers.worker.LOG_INTERVAL_S", 0.5)
    with pytest.raises(MemoryFull, match="memory is nearly full"):
        WorkerThread(worker_settings(topics)).join(60)
    monkeypatch.undo()

    to_end(topics)
    assert sum(record.numbers.n_unique for p in check_ledger(topics) for record in p) == 50


def test_a_stop_comes_between_commits(topics: KafkaSettings, golden_metadata: Metadata) -> None:
    send(topics, shard_pairs(2_000))
    settings = worker_settings(topics.model_copy(update={"commit_records": 1}))
    with running(settings) as (worker,):
        wait_for(lambda: worker.n_read, 60, [worker])
        worked = worker.stop(20)
    assert worked.stopped
    assert worked.numbers.n_read < 1_000

    to_end(topics)
    check_equal(topics, golden_metadata)


def test_with_a_cache_a_second_worker_goes_on(topics: KafkaSettings, golden_metadata: Metadata, tmp_path: Path) -> None:
    cached = topics.model_copy(update={"cache_dir": tmp_path, "commit_records": 100})
    for n in (400, 800):
        send(topics, shard_pairs(n))
        to_end(cached)
    check_equal(topics, golden_metadata)
    assert len(list(tmp_path.rglob("state.bin"))) == 3


def test_nothing_is_left_running(topics: KafkaSettings) -> None:
    send(topics, made_pairs(30))
    before = threading.active_count()
    to_end(topics)

    wait_for(lambda: threading.active_count() <= before, 10)
