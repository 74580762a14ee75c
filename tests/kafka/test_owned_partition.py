"""A partition taken over and committed to: all of a commit is there or nothing of it, whoever dies or comes late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_messages import Message, arrow
from kafka.errors import KafkaError
from kafka_reference import check_ledger, read_ledger
from kafka_topics import read_partition
from kafka_workers import ENTRIES, commit_now, made_metadata, made_pairs, owner, read_batch

from consumers.dead_letters import read_dead_letter
from consumers.messages import FORWARDED_FROM, MessageReader, encode_json, home, position
from consumers.owned_partition import OwnedPartition
from consumers.published_counts import PublishedCounts
from consumers.settings import KafkaSettings
from stream_curate.failpoints import InjectedFault, listening

pytestmark = pytest.mark.slow

METADATA = made_metadata()
N_BAD = 3


def messages(n: int = 30, first: int = 0) -> list[Message]:
    """Pairs of all partitions, and before them what is no pair: JSON, an Arrow message with a bad row, nothing."""
    bad = [
        Message(first, b"no json"),
        Message(first + 1, arrow(url=["http://x.org/1", "ftp://x.org"], text=["no match", "a dog"])),
        Message(first + 2, None),
    ]
    return bad + [Message(first + 3 + k, value) for k, value in enumerate(encode_json(made_pairs(n, first)))]


def commit_messages(owned: OwnedPartition, n: int = 30) -> dict[int, int]:
    first = owned.state.next // 65_536
    return commit_now(owned, read_batch(messages(n, first), owned.partition), position(first + n + N_BAD))


def all_records(topics: KafkaSettings) -> dict[str, list[list[Any]]]:
    names = (topics.topics.ledger, topics.topics.pairs, topics.topics.dlq)
    return {name: [read_partition(topics, name, p) for p in range(topics.partitions)] for name in names}


@contextmanager
def failing_at(step: str) -> Iterator[None]:
    def fail(reached: str) -> None:
        if reached == step:
            raise InjectedFault(step)

    with listening(fail), pytest.raises(InjectedFault):
        yield


def state_of(owned: OwnedPartition) -> tuple[int, int, list[int], tuple[int, ...]]:
    state = owned.state
    return state.next, len(state.seen), state.view.counts.tolist(), state.view.cut


def test_a_commit_is_its_ledger_record_its_forwards_and_its_letters(topics: KafkaSettings) -> None:
    with owner(topics, METADATA, 1) as owned:
        reached = commit_messages(owned)
    found = all_records(topics)

    (record,) = check_ledger(topics)[1]
    assert (record.first, record.next, record.is_last) == (0, position(33), True)
    assert record.numbers.rejected == {"bad_json": 1, "url_scheme": 1, "null_value": 1}
    assert record.numbers.n_read == 34
    homes = home(made_pairs(30).column("pair_id"), 3)
    assert record.numbers.n_unique == np.count_nonzero(homes == 1) + int(home_of_1() == 1)
    forwarded = 0
    for partition, records in enumerate(found[topics.topics.pairs]):
        for each in records:
            assert dict(each.headers)[FORWARDED_FROM] == b"1"
            pairs, rejections = next(MessageReader("pairs", partition).read([each])).validate()
            assert not rejections
            assert (home(pairs.column("pair_id"), 3) == partition).all()
            forwarded += len(pairs)
            assert reached[partition] == position(each.offset + 1)
    assert forwarded == record.numbers.n_forwarded > 0
    assert not found[topics.topics.pairs][1]
    letters = [read_dead_letter(each) for each in found[topics.topics.dlq][1]]
    assert [(each.reason, each.offset, each.row) for each in letters if each] == [
        ("bad_json", 0, 0),
        ("url_scheme", 1, 1),
        ("null_value", 2, 0),
    ]
    assert [each.value for each in letters if each][::2] == [b"no json", None]


def home_of_1() -> int:
    pairs, _ = read_batch([messages()[1]]).validate()
    return int(home(pairs.column("pair_id"), 3)[0])


@pytest.mark.parametrize(
    "step",
    [
        "commit.begin",
        "commit.ledger_sent",
        "commit.forwards_sent",
        "commit.letters_sent",
        "commit.flushed",
        "commit.ending",
    ],
)
def test_what_is_given_up_before_its_end_is_not_there(topics: KafkaSettings, step: str) -> None:
    """Not for those who read what is committed; and the next owner goes on as if it had never been."""
    with owner(topics, METADATA, 1) as owned:
        commit_messages(owned)
        before = state_of(owned)
        with failing_at(step):
            commit_messages(owned)
    found = all_records(topics) if step == "commit.flushed" else None
    with owner(topics, METADATA, 1) as owned:
        assert state_of(owned) == before
        commit_messages(owned)
    records = check_ledger(topics)[1]

    assert [(record.first, record.next) for record in records] == [(0, position(33)), (position(33), position(66))]
    if found is not None:
        assert [len(partition) for partition in found[topics.topics.dlq]] == [0, 3, 0]
        assert len(found[topics.topics.ledger][1]) == 1


def test_what_was_committed_is_there_although_its_owner_died_at_once(topics: KafkaSettings) -> None:
    with owner(topics, METADATA, 1) as owned, failing_at("commit.done"):
        commit_messages(owned)
    with owner(topics, METADATA, 1) as owned:
        assert owned.state.next == position(33)
        commit_messages(owned)
    assert len(check_ledger(topics)[1]) == 2


def test_an_owner_that_was_followed_can_write_no_more(topics: KafkaSettings) -> None:
    """Wherever in its commit it is."""
    with ExitStack() as owners:
        older = owners.enter_context(owner(topics, METADATA, 1))
        commit_messages(older)
        newer = owners.enter_context(owner(topics, METADATA, 1))
        with pytest.raises(KafkaError):
            commit_messages(older)
        commit_messages(newer)

        def follow(step: str) -> None:
            if step == "commit.flushed":
                listeners.close()
                owners.enter_context(owner(topics, METADATA, 1))

        with ExitStack() as listeners:
            listeners.enter_context(listening(follow))
            with pytest.raises(KafkaError):
                commit_messages(newer)

    found = all_records(topics)
    assert [record.first for record in check_ledger(topics)[1]] == [0, position(33)]
    assert len(found[topics.topics.dlq][1]) == 6


def test_a_commit_is_prepared_while_the_one_before_is_not_written(topics: KafkaSettings) -> None:
    """As if they came one after the other; and when the first is not written, nothing of either is there."""
    n = 30 + N_BAD
    batches = [read_batch(messages(30, first), 1) for first in (0, n, 2 * n)]
    with owner(topics, METADATA, 1) as owned:
        first, second, third = (owned.prepare(batch, position(k * n)) for k, batch in enumerate(batches, 1))
        assert owned.committed <= 0
        for commit in (first, second):
            owned.write(commit)
            owned.take_note(commit)
        assert owned.committed == position(2 * n)
        assert owned.numbers.n_read == 68
        with failing_at("commit.flushed"):
            owned.write(third)
    with owner(topics, METADATA, 1) as owned:
        assert owned.committed == owned.state.next == position(2 * n)
    records = check_ledger(topics)[1]
    assert [(record.first, record.next) for record in records] == [(0, position(n)), (position(n), position(2 * n))]


def test_a_commit_of_nothing_moves_the_position(topics: KafkaSettings) -> None:
    with owner(topics, METADATA, 2) as owned:
        assert commit_now(owned, read_batch([]), position(9)) == {}
    with owner(topics, METADATA, 2) as owned:
        assert owned.state.next == position(9)


def test_a_large_commit_is_several_records_in_one_transaction(
    topics: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.decision._MAX_COLUMN_BYTES", 500)
    with owner(topics, METADATA, 1) as owned, failing_at("commit.flushed"):
        commit_messages(owned, 200)
    with owner(topics, METADATA, 1) as owned:
        assert owned.state.next == 0
        commit_messages(owned, 200)
        after = state_of(owned)
    records = check_ledger(topics)[1]
    assert len(records) > 2
    assert [record.is_last for record in records] == [False] * (len(records) - 1) + [True]
    with owner(topics, METADATA, 1) as owned:
        assert state_of(owned) == after


def test_published_counts_are_taken_on_before_and_after_it_is_ready(topics: KafkaSettings) -> None:
    counts = np.arange(len(ENTRIES)) * 100
    with owner(topics, METADATA, 1) as owned:
        commit_messages(owned)
        own = owned.state.view.counts.copy()
        published = PublishedCounts(owned.state.header, (0, 0, 0), 0, counts)
        owned.rebase(published)
        assert (owned.state.view.counts == counts + own).all()
        owned.rebase(PublishedCounts(owned.state.header, (0, position(33), 5), 0, counts * 7))
        assert (owned.state.view.counts == counts * 7).all()
        commit_messages(owned)
    assert [record.view_cut for record in read_ledger(topics)[1]] == [(0, 0, 0), (0, position(33), 5)]


def test_another_program_s_open_transaction_on_the_ledger_is_ended_first(topics: KafkaSettings) -> None:
    """That of an owner who died, with the same transactional id."""
    with owner(topics, METADATA, 1) as owned:
        with failing_at("commit.flushed"):
            commit_messages(owned)
        with owner(topics, METADATA, 1) as newer:  # the transaction is still open
            assert newer.state.next == 0
            commit_messages(newer)
    assert len(check_ledger(topics)[1]) == 1


def test_numbers_count_what_was_committed_by_this_owner(topics: KafkaSettings) -> None:
    with owner(topics, METADATA, 1) as owned:
        commit_messages(owned)
        commit_messages(owned)
        assert owned.numbers.n_read == 68
        assert owned.numbers.n_rejected == 6
        assert owned.n_restored == 0  # it is ready
        with failing_at("commit.flushed"):
            commit_messages(owned)
        assert owned.numbers.n_read == 68


def test_with_a_cache_the_next_owner_reads_one_record(topics: KafkaSettings, tmp_path: Path) -> None:
    settings = topics.model_copy(update={"cache_dir": tmp_path})
    slices: list[str] = []
    with owner(settings, METADATA, 1) as owned:
        for _ in range(4):
            commit_messages(owned)
        after = state_of(owned)
    with listening(slices.append), owner(settings, METADATA, 1) as owned:
        assert state_of(owned) == after
        assert not owned.state.seen.add(np.concatenate([r.seen for r in read_ledger(topics)[1]])).any()
    assert "cache.save" not in slices  # nothing new
