"""What is known of a partition after some of its ledger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hostile_messages import Message
from kafka_workers import header_of, made_metadata, made_pairs, read_batch

from consumers.decision import Decider
from consumers.errors import KafkaProblem
from consumers.ledger import LedgerRecord
from consumers.messages import encode_json, position
from consumers.partition_state import UNREAD, PartitionState, check_header
from consumers.published_counts import PublishedCounts
from stream_curate.errors import ConfigError

METADATA = made_metadata()
HEADER = header_of(METADATA, n_partitions=1)


def new_state(published: PublishedCounts | None = None) -> PartitionState:
    return PartitionState(HEADER, 0, len(METADATA), published)


@pytest.fixture(scope="module")
def records() -> list[LedgerRecord]:
    """Those of 10 commits of 20 pairs each."""
    decider = Decider(HEADER, METADATA, 7)
    state = new_state()
    state.next = 0
    found = []
    for first in range(0, 200, 20):
        values = encode_json(made_pairs(20, first))
        batch = read_batch([Message(first + k, value) for k, value in enumerate(values)])
        found += decider.ledger_records(decider.decide(batch, state), state, position(first + 20))
        state.next = position(first + 20)
    return found


def test_before_the_first_record_nothing_is_known() -> None:
    state = new_state()

    assert (state.next, len(state.seen), state.view.counts.tolist()) == (UNREAD, 0, [0] * len(METADATA))


def test_it_is_where_the_records_come_to(records: list[LedgerRecord]) -> None:
    state = new_state()
    for record in records:
        state.take(record, "here")
    state.finish()

    assert state.next == position(200)
    assert len(state.seen) == 200
    assert not state.seen.add(np.concatenate([record.seen for record in records])).any()
    counts = np.zeros(len(METADATA), np.int64)
    for record in records:
        counts[record.entry_ids] += record.increments
    assert (state.view.counts == counts).all()


def test_published_counts_stand_for_the_records_below_their_cut(records: list[LedgerRecord]) -> None:
    counts = np.arange(len(METADATA)) * 1_000
    state = new_state(PublishedCounts(HEADER, (records[7].first,), 0, counts))
    for record in records:
        state.take(record, "here")

    for record in records[7:]:
        counts[record.entry_ids] += record.increments
    assert (state.view.counts == counts).all()
    assert state.view.cut == (records[7].first,)


def test_a_record_that_does_not_go_on_is_told_with_its_place(records: list[LedgerRecord]) -> None:
    state = new_state()
    state.take(records[0], "ledger, offset 0")
    for wrong in (records[0], records[2]):
        with pytest.raises(KafkaProblem, match=r"ledger, offset 9 .*ended at 20: the ledger is damaged"):
            state.take(wrong, "ledger, offset 9")


def test_the_first_record_may_begin_anywhere(records: list[LedgerRecord]) -> None:
    """Where retention began when the curation did."""
    state = new_state()
    state.take(records[3], "here")

    assert state.next == records[3].next


def test_another_rule_is_refused_and_another_threshold_is_not(records: list[LedgerRecord]) -> None:
    state = new_state()
    for header in (header_of(METADATA, seed=8, n_partitions=1), header_of(METADATA, dedup="none", n_partitions=1)):
        with pytest.raises(ConfigError, match="here was written by a process with other settings"):
            state.take(replace(records[0], header=header), "here")
    assert state.next == UNREAD

    state.take(replace(records[0], header=HEADER.replace_threshold(99)), "here")
    assert state.next == records[0].next


def test_all_that_differs_is_told() -> None:
    other = header_of(METADATA, seed=8, n_partitions=3, kept=("lang",))
    with pytest.raises(ConfigError) as told:
        check_header(HEADER, other, "ledger, partition 0, offset 5")

    words = str(told.value)
    assert "ledger, partition 0, offset 5" in words
    for fingerprint in (HEADER.rule.seed_fingerprint, other.rule.seed_fingerprint):
        assert fingerprint in words
    assert 'kept_columns: ["lang"] there, [] here' in words
    assert "n_partitions: 3 there, 1 here" in words
    assert "threshold" not in words
