"""The ledger as the settler reads it: whole commits, each once, in the order of their partition, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kafka import TopicPartition
from kafka_transactions import end_transaction
from kafka_workers import header_of, made_metadata

from consumers.clients import end_producer, make_admin, make_producer
from consumers.errors import KafkaProblem
from consumers.ledger import DamagedRecord, LedgerRecord, admitted_schema
from consumers.messages import position
from consumers.settings import KafkaSettings
from consumers.settler_ledger import Commit, LedgerFollower, LedgerPosition
from stream_curate.errors import ConfigError
from stream_curate.table.state import Numbers

pytestmark = pytest.mark.slow  # a real broker

N_PARTITIONS = 3
HEADER = header_of(made_metadata(), n_partitions=N_PARTITIONS)
BEGINNING = [LedgerPosition()] * N_PARTITIONS
LIMIT_S = 30.0


def record(partition: int, first: int, stop: int, **changes: Any) -> LedgerRecord:
    """Of the input's rows `[first, stop)`, with nothing admitted."""
    plain = LedgerRecord(
        header=HEADER,
        partition=partition,
        first=position(first),
        next=position(stop),
        is_last=True,
        view_cut=(0,) * N_PARTITIONS,
        numbers=Numbers(n_unique=stop - first),
        n_received=0,
        entry_ids=np.zeros(0, np.int32),
        increments=np.zeros(0, np.int64),
        seen=np.zeros(0, np.uint64),
        admitted=pa.RecordBatch.from_pylist([], admitted_schema(())),
    )
    return replace(plain, **changes)


class Ledger:
    """The topic, written to by one who owns all partitions."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.kafka = kafka
        self.name = kafka.topics.ledger
        self._producer = make_producer(kafka, transactional_id=f"{self.name}-test")
        self._producer.init_transactions()

    def commit(self, *records: LedgerRecord) -> None:
        self.send([(each.partition, each.encode()) for each in records])

    def send(self, values: Sequence[tuple[int, bytes | None]], *, commits: bool = True) -> None:
        """One transaction."""
        self._producer.begin_transaction()
        for partition, value in values:
            self._producer.send(self.name, value, b"" if value is None else None, partition=partition)
        self._producer.flush(timeout=20)
        end_transaction(self._producer, self.kafka, commits=commits)

    def remove_before(self, partition: int, offset: int) -> None:
        """What retention would do."""
        admin = make_admin(self.kafka)
        try:
            admin.delete_records({TopicPartition(self.name, partition): offset})
        finally:
            admin.close()

    def close(self) -> None:
        assert end_producer(self._producer)


@pytest.fixture
def ledger(topics: KafkaSettings) -> Iterator[Ledger]:
    made = Ledger(topics)
    yield made
    made.close()


@contextmanager
def following(ledger: Ledger, positions: Sequence[LedgerPosition] = BEGINNING) -> Iterator[LedgerFollower]:
    follower = LedgerFollower(ledger.kafka, HEADER)
    try:
        follower.seek(positions)
        yield follower
    finally:
        follower.close()


def wait_until(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come to that"


def read(follower: LedgerFollower, n_commits: int) -> list[Commit]:
    """So many commits, and see that there are no more."""
    commits: list[Commit] = []

    def all_are_there() -> bool:
        commits.extend(follower.poll(100))
        return len(commits) >= n_commits and follower.n_behind() == 0

    wait_until(all_are_there)
    assert len(commits) == n_commits
    return commits


def ranges(commits: Sequence[Commit]) -> list[tuple[int, int, int]]:
    """(partition, first, next) of all records."""
    return [(each.partition, each.first, each.next) for commit in commits for each in commit.records]


def positions_after(commits: Sequence[Commit]) -> list[LedgerPosition]:
    positions = list(BEGINNING)
    for commit in commits:
        positions[commit.partition] = commit.after
    return positions


# --- what is read


def test_commits_come_whole_and_once_from_wherever_one_goes_on(ledger: Ledger, rng: np.random.Generator) -> None:
    ends = [0] * N_PARTITIONS
    written: list[list[list[LedgerRecord]]] = [[] for _ in ends]
    for _ in range(40):
        partition = int(rng.integers(N_PARTITIONS))
        records = []
        for _ in range(int(rng.integers(1, 5))):
            stop = ends[partition] + int(rng.integers(0, 9))  # empty ranges are allowed
            records.append(record(partition, ends[partition], stop, is_last=False))
            ends[partition] = stop
        records[-1] = replace(records[-1], is_last=True)
        written[partition].append(records)
        ledger.commit(*records)

    def expected(partition: int, n_before: int) -> list[list[tuple[int, int, int]]]:
        return [[(partition, each.first, each.next) for each in records] for records in written[partition][n_before:]]

    with following(ledger) as follower:
        commits = read(follower, 40)
        for partition in range(N_PARTITIONS):
            assert [ranges([each]) for each in commits if each.partition == partition] == expected(partition, 0)
        assert [each.position for each in positions_after(commits)] == [position(end) for end in ends]

        # thrown away and read on, from the ends of any commits
        for _ in range(5):
            n_before = int(rng.integers(len(commits) + 1))
            before = commits[:n_before]
            follower.seek(positions_after(before))
            again = read(follower, 40 - n_before)
            for partition in range(N_PARTITIONS):
                n_known = sum(each.partition == partition for each in before)
                found = [ranges([each]) for each in again if each.partition == partition]
                assert found == expected(partition, n_known)

    with following(ledger, positions_after(commits)) as follower:
        assert read(follower, 0) == []


def test_a_commit_is_given_when_its_last_record_is_there(ledger: Ledger) -> None:
    ledger.commit(record(1, 0, 3, is_last=False), record(1, 3, 4, is_last=False))
    ledger.commit(record(2, 0, 5))
    with following(ledger) as follower:
        assert ranges(read(follower, 1)) == [(2, 0, position(5))]
        ledger.commit(record(1, 4, 9))
        (commit,) = read(follower, 1)
        assert ranges([commit]) == [
            (1, 0, position(3)),
            (1, position(3), position(4)),
            (1, position(4), position(9)),
        ]
        assert commit.after == LedgerPosition(4, position(9))  # with the marker of the first transaction

        # the beginning of a commit is forgotten with a seek, and read again
        ledger.commit(record(0, 0, 1, is_last=False))
        ledger.commit(record(2, 5, 6))
        read(follower, 1)
        follower.seek([LedgerPosition(), commit.after, LedgerPosition(1, position(5))])
        ledger.commit(record(0, 1, 2))
        found = read(follower, 2)
        assert sorted(ranges(found)) == [
            (0, 0, position(1)),
            (0, position(1), position(2)),
            (2, position(5), position(6)),
        ]


def test_what_was_aborted_or_is_still_open_is_not_read(ledger: Ledger) -> None:
    ledger.commit(record(0, 0, 2))
    ledger.send([(0, record(0, 2, 4).encode())], commits=False)
    ledger.commit(record(0, 2, 3))
    other = make_producer(ledger.kafka, transactional_id=f"{ledger.name}-other")
    try:
        other.init_transactions()
        other.begin_transaction()
        other.send(ledger.name, record(0, 3, 9).encode(), partition=0).get(timeout=20)
        ledger.commit(record(1, 0, 1))
        with following(ledger) as follower:
            commits = read(follower, 3)
            assert sorted(ranges(commits)) == [
                (0, 0, position(2)),
                (0, position(2), position(3)),
                (1, 0, position(1)),
            ]
            end_transaction(other, ledger.kafka)
            assert ranges(read(follower, 1)) == [(0, position(3), position(9))]
    finally:
        assert end_producer(other)


def test_a_ledger_may_begin_anywhere(ledger: Ledger) -> None:
    """Where retention had begun; but only its first range."""
    ledger.commit(record(0, 7, 9))
    ledger.commit(record(0, 9, 12))
    with following(ledger) as follower:
        assert [each.after.position for each in read(follower, 2)] == [position(9), position(12)]


def test_a_lowered_t_is_no_other_rule(ledger: Ledger) -> None:
    ledger.commit(record(0, 0, 1, header=HEADER.replace_threshold(1)))
    with following(ledger) as follower:
        (commit,) = read(follower, 1)
        assert commit.records[0].header.rule.threshold == 1


def test_how_far_it_is_behind(ledger: Ledger) -> None:
    with following(ledger) as follower:
        assert follower.n_behind() == 0
        ledger.commit(record(0, 0, 1))
        ledger.commit(record(2, 0, 1, is_last=False), record(2, 1, 2))
        wait_until(lambda: follower.n_behind() == 5)  # two markers among them
        read(follower, 2)
        assert follower.n_behind() == 0
        assert follower.read_to() == [2, 0, 3]


def test_a_commit_tells_when_it_was_written(ledger: Ledger) -> None:
    ledger.commit(record(0, 0, 1))
    with following(ledger) as follower:
        (commit,) = read(follower, 1)
        assert abs(time.time() - commit.written_s) < 600


# --- what is refused


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            record(1, 0, 5),
            record(1, 8, 9),
            "from offset 8 to offset 9, and the record before ended at offset 5: input would be lost",
        ),
        (record(1, 0, 5, is_last=False), record(1, 8, 9), "from offset 8 to offset 9"),
        (record(1, 0, 5), record(1, 0, 5), "from offset 0 to offset 5, and the record before ended at offset 5"),
        (record(1, 0, 5), record(1, 3, 9), "from offset 3 to offset 9"),
        (record(1, 0, 5), record(1, 5, 4), "from offset 5 to offset 4"),
        (record(1, 0, 5), replace(record(1, 5, 9), first=position(5) + 2), "from offset 5, row 2 to offset 9"),
    ],
    ids=["gap", "gap in a commit", "again", "overlap", "backwards", "row"],
)
def test_ranges_that_do_not_follow_each_other(
    ledger: Ledger, first: LedgerRecord, second: LedgerRecord, words: str
) -> None:
    ledger.commit(first)
    ledger.commit(second)
    with following(ledger) as follower, pytest.raises(KafkaProblem) as problem:
        read(follower, 2)
    # at 2: behind the record and the marker of the first transaction
    assert f"{ledger.name}, partition 1, offset 2 tells of the input {words}" in str(problem.value)
    assert "stream-curate audit" in str(problem.value)


def test_a_gap_behind_where_one_goes_on(ledger: Ledger) -> None:
    ledger.commit(record(1, 0, 5))
    ledger.commit(record(1, 5, 6))
    positions = [LedgerPosition(), LedgerPosition(1, position(4)), LedgerPosition()]
    with following(ledger, positions) as follower, pytest.raises(KafkaProblem, match="ended at offset 4"):
        read(follower, 1)


@pytest.mark.parametrize(
    "odd",
    [record(2, 0, 1), record(1, 0, 1, view_cut=(0, 0))],
    ids=["of another partition", "of another number of partitions"],
)
def test_records_of_another_curation(ledger: Ledger, odd: LedgerRecord) -> None:
    ledger.send([(1, odd.encode())])
    words = rf"partition 1, offset 0 is a record of partition {odd.partition} of {len(odd.view_cut)}: another program"
    with following(ledger) as follower, pytest.raises(KafkaProblem, match=words):
        read(follower, 1)


def test_records_of_another_rule(ledger: Ledger) -> None:
    ledger.commit(record(1, 0, 1, header=header_of(made_metadata(), n_partitions=3, dedup="none")))
    words = rf"{ledger.name}, partition 1, offset 0 was written by a process with other settings:\n +dedup: none there"
    with following(ledger) as follower, pytest.raises(ConfigError, match=words):
        read(follower, 1)


@pytest.mark.parametrize("value", [b"no record", None], ids=["bytes", "nothing"])
def test_what_is_no_record(ledger: Ledger, value: bytes | None) -> None:
    ledger.commit(record(0, 0, 1))
    ledger.send([(0, value)])
    words = f"{ledger.name}, partition 0, offset 2 is no record of stream-curate"
    with following(ledger) as follower, pytest.raises(DamagedRecord, match=words):
        read(follower, 2)


def test_another_ledger_than_the_one_that_was_read(ledger: Ledger) -> None:
    ledger.commit(record(0, 0, 1))
    positions = [LedgerPosition(100, position(1)), LedgerPosition(), LedgerPosition()]
    follower = LedgerFollower(ledger.kafka, HEADER)
    try:
        with pytest.raises(KafkaProblem, match=r"partition 0 ends at offset \d, and the table has folded it up to 100"):
            follower.seek(positions)
    finally:
        follower.close()


def test_a_ledger_whose_beginning_was_removed(ledger: Ledger) -> None:
    for first in range(4):
        ledger.commit(record(2, first, first + 1))
    with following(ledger) as follower:
        ledger.remove_before(2, 4)
        with pytest.raises(KafkaProblem, match="what was to be read next is gone"):
            read(follower, 4)
        with pytest.raises(KafkaProblem, match="partition 2 begins at offset 4, not at 0: its beginning was removed"):
            follower.seek([LedgerPosition(), LedgerPosition(), LedgerPosition(6, position(3))])
