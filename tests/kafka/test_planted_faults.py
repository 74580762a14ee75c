"""The checker is checked: with a fault planted in the protocol, what looks at the outcome must say so.

Each scenario first runs as it is, and nothing is found. Then the protocol is broken on purpose, in one place, and the
same scenario must find what comes of it, and not just anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import IsolationLevel
from kafka_scenarios import Bench, bench_of, early_decisions, failing_commit, finding, restart, stalled_owner

from consumers.clients import make_producer
from consumers.decision import Decider
from consumers.inbox import Inbox
from consumers.messages import offset_and_row, position
from consumers.partition_state import PartitionState
from consumers.restore import Restore
from consumers.settings import KafkaSettings
from consumers.view import View
from consumers.worker import _Worker

# the same at each run: that other input shows no trace of a fault would be no news
INPUT_SEED = 7

pytestmark = [pytest.mark.slow, pytest.mark.timeout(45)]


@pytest.fixture
def seed() -> int:
    return INPUT_SEED


@pytest.fixture
def bench(kafka: Callable[..., KafkaSettings], tmp_path: Path, seed: int) -> Iterator[Bench]:
    with bench_of(kafka, tmp_path, seed) as bench:
        yield bench


# --- two owners


@pytest.mark.parametrize("continues", ["before", "after"])
def test_a_stalled_owner_does_no_harm(bench: Bench, continues: str) -> None:
    stalled_owner(bench, continues)


def test_one_transactional_id_for_a_worker_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    n_workers = 0

    def of_worker(settings: KafkaSettings, *, transactional_id: str) -> Any:
        nonlocal n_workers
        n_workers += 1
        return make_producer(settings, transactional_id=f"{settings.topics.ledger}-of-worker-{n_workers}")

    monkeypatch.setattr("consumers.owned_partition.make_producer", of_worker)
    with finding("plain, ranges", "plain, unique: .* new twice", "audit, ledger ranges: "):
        stalled_owner(bench, "after")


def test_a_ledger_read_before_init_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def initialised_late(settings: KafkaSettings, *, transactional_id: str) -> Any:
        producer = make_producer(settings, transactional_id=transactional_id)
        init, begin = producer.init_transactions, producer.begin_transaction
        is_done: list[bool] = []

        def begin_transaction() -> None:
            if not is_done:
                init()
                is_done.append(True)
            begin()

        producer.init_transactions, producer.begin_transaction = lambda: None, begin_transaction
        return producer

    monkeypatch.setattr("consumers.owned_partition.make_producer", initialised_late)
    with finding("plain, ranges", "plain, unique: .* new twice", "audit, ledger ranges: "):
        stalled_owner(bench, "before")


# --- a commit that fails


@pytest.mark.parametrize("step", ["commit.begin", "commit.ledger_sent", "commit.ending", "commit.done"])
def test_a_commit_that_fails_loses_nothing_and_does_nothing_twice(bench: Bench, step: str) -> None:
    failing_commit(bench, step)


def test_a_ledger_read_uncommitted_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Restore.__init__

    def uncommitted(self: Restore, consumer: Any, *args: Any) -> None:
        consumer._fetcher._isolation_level = IsolationLevel.READ_UNCOMMITTED
        made(self, consumer, *args)

    monkeypatch.setattr(Restore, "__init__", uncommitted)
    with finding("plain, ranges", "plain, unique: .* are lost", "audit, ledger ranges: "):
        failing_commit(bench)


def test_no_rewind_after_an_abort_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def go_on(self: _Worker, partition: int, error: BaseException) -> None:
        self._owned[partition]._producer.abort_transaction()

    monkeypatch.setattr(_Worker, "failed", go_on)
    with finding("plain, outcomes: ", "plain, unique: .* are lost", "audit, recount of the input: "):
        failing_commit(bench)


def test_a_rewind_to_the_message_and_not_to_the_row_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Inbox.__init__

    def at_message(self: Inbox, *args: Any) -> None:
        *others, next_position = args
        made(self, *others, position(offset_and_row(next_position)[0]))

    monkeypatch.setattr(Inbox, "__init__", at_message)
    with finding("plain, outcomes: ", "audit, recount of the input: "):
        failing_commit(bench, nth=5)


def outside_of_transactions(topic: Callable[[KafkaSettings], str]) -> Callable[..., Any]:
    """A `make_producer` whose producers send to one topic at once, whatever becomes of the transaction."""

    def make(settings: KafkaSettings, *, transactional_id: str) -> Any:
        producer, plain = make_producer(settings, transactional_id=transactional_id), make_producer(settings)
        inside, closed = producer.send, producer.close

        def send(to: str, *args: Any, **named: Any) -> Any:
            if to != topic(settings):
                return inside(to, *args, **named)
            future = plain.send(to, *args, **named)
            plain.flush()
            return future

        def close(*args: Any, **named: Any) -> None:
            closed(*args, **named)
            plain.close()

        producer.send, producer.close = send, close
        return producer

    return make


@pytest.fixture
def multiset(kafka: Callable[..., KafkaSettings], tmp_path: Path, seed: int) -> Iterator[Bench]:
    with bench_of(kafka, tmp_path, seed, dedup="none") as bench:
        yield bench


@pytest.mark.parametrize("step", ["commit.forwards_sent", "commit.ending"])
def test_a_commit_that_fails_does_nothing_twice_without_dedup(multiset: Bench, step: str) -> None:
    failing_commit(multiset, step, nth=1)


def test_forwards_outside_of_the_transaction_are_caught(multiset: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make = outside_of_transactions(lambda settings: settings.topics.pairs)
    monkeypatch.setattr("consumers.owned_partition.make_producer", make)
    with finding(r"plain, forwards: \d+ were passed on and \d+ have arrived", "audit, forwarded pairs: "):
        failing_commit(multiset, nth=1)


def test_dead_letters_outside_of_the_transaction_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make = outside_of_transactions(lambda settings: settings.topics.dlq)
    monkeypatch.setattr("consumers.owned_partition.make_producer", make)
    with finding(r"plain, dead letters: .* [1-9]\d* of them again", "audit, dead letters: .* twice"):
        failing_commit(bench, nth=4)


# --- a worker after another


def test_a_restart_forgets_nothing(bench: Bench) -> None:
    restart(bench)


def test_seen_pairs_that_are_not_restored_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    restored = PartitionState.restore

    def without_seen(self: PartitionState, next_position: int, seen: Any) -> None:
        restored(self, next_position, seen[:0])

    monkeypatch.setattr(PartitionState, "restore", without_seen)
    with finding("plain, unique: .* new twice", "audit, recount of the input: "):
        restart(bench)


# --- deciding early


def test_early_decisions_miss_nothing(seed: int) -> None:
    early_decisions(seed)


def test_a_view_with_the_deltas_of_all_own_partitions_is_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    views: list[View] = []
    made, add = View.__init__, View.add

    def remembered(self: View, *args: Any) -> None:
        made(self, *args)
        views.append(self)

    def add_to_all(self: View, first: int, entry_ids: Any, increments: Any, *others: Any) -> None:
        add(self, first, entry_ids, increments, *others)
        for view in views:
            if view is not self:
                view.counts[entry_ids] += increments

    monkeypatch.setattr(View, "__init__", remembered)
    monkeypatch.setattr(View, "add", add_to_all)
    with finding("plain, cut: .* pairs that offline keeps are missing"):
        early_decisions(seed)


def test_a_view_newer_than_the_cut_that_it_states_is_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = Decider.ledger_records

    def with_old_cut(self: Decider, *args: Any) -> Any:
        return [replace(record, view_cut=(0, 0)) for record in decided(self, *args)]

    monkeypatch.setattr(Decider, "ledger_records", with_old_cut)
    with finding("plain, cut: .* pairs that offline keeps are missing"):
        early_decisions(seed)
