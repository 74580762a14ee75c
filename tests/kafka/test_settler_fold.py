"""Folding: whatever the order of the partitions and wherever it begins again, it comes to the offline subset."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hostile_messages import Message
from kafka_ledgers import Curation, Row, estimates_at, many_rows
from kafka_workers import SEED, header_of, made_metadata, made_pairs, read_batch
from structlog.testing import capture_logs

from consumers.decision import Decider
from consumers.ledger import LedgerRecord, RuleHeader, admitted_schema
from consumers.messages import encode_json, home, position
from consumers.partition_state import PartitionState
from consumers.published_counts import PublishedCounts
from consumers.settings import KafkaSettings, TopicNames
from consumers.settler_fold import Fold, FoldingRule, origin_of
from consumers.settler_ledger import Commit, LedgerPosition
from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.draws import bases
from stream_curate.errors import ConfigError, OutputError
from stream_curate.final_rule import FinalDecisions
from stream_curate.matching.automaton import AutomatonMatcher
from stream_curate.metadata import Metadata
from stream_curate.pairs import PAIR_ID, Records, Rejection, validate
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import Identity
from stream_curate.table.state import Numbers, settled_counts_path
from stream_curate.table.view import TableView

N_PARTITIONS = 3
TOPICS = TopicNames()
NOWHERE = (0,) * N_PARTITIONS


class Workers:
    """Workers that let in every matched pair, as they may: what is too much is evicted by a settle."""

    def __init__(self, curation: Curation) -> None:
        self.curation = curation
        self.positions = [0] * N_PARTITIONS
        self._offsets = [0] * N_PARTITIONS
        self._seen: list[set[bytes]] = [set() for _ in self.positions]
        self._matcher = AutomatonMatcher(curation.metadata.entries)

    def add(self, n_rows: int, first: int = 0) -> None:
        """New input, each row at home."""
        for url, text in many_rows(n_rows, first):
            pairs, _ = pairs_in([(url, text)])
            partition = int(home(pairs.column("pair_id").cast(PAIR_ID), N_PARTITIONS)[0]) if len(pairs) else 0
            self.curation.rows[partition].append((url, text))

    def commit(
        self, partition: int, n_rows: int, n_records: int = 1, view_cut: tuple[int, ...] = NOWHERE, t: int | None = None
    ) -> Commit:
        """What comes of the next rows, as the ledger has it."""
        start = self.positions[partition]
        stop = self.positions[partition] = min(start + n_rows, len(self.curation.rows[partition]))
        ends = np.linspace(start, stop, n_records + 1).astype(int).tolist()
        records = [self._record(partition, *range_, view_cut, t) for range_ in pairwise(ends)]
        records[-1] = replace(records[-1], is_last=True)
        self._offsets[partition] += n_records + 1  # and the marker
        return Commit(partition, records, LedgerPosition(self._offsets[partition] - 1, position(stop)))

    def all_commits(self, rng: np.random.Generator) -> list[Commit]:
        """Commits of all that is left, of random sizes, the partitions in a random order."""
        commits = []
        while left := [p for p in range(N_PARTITIONS) if self.positions[p] < len(self.curation.rows[p])]:
            commits.append(self.commit(int(rng.choice(left)), int(rng.integers(1, 30)), int(rng.integers(1, 4))))
        return commits

    def _record(self, partition: int, start: int, stop: int, view_cut: tuple[int, ...], t: int | None) -> LedgerRecord:
        curation = self.curation
        rows = curation.rows[partition][start:stop]
        pairs, rejections = pairs_in(rows, start)
        numbers = Numbers(rejected=dict(Multiset(each.reason.value for each in rejections)))
        new = []
        for row in pairs.to_pylist():
            if curation.dedup == "exact" and row["pair_id"] in self._seen[partition]:
                numbers.n_duplicate += 1
                continue
            self._seen[partition].add(row["pair_id"])
            new.append(row)
        matched = self._matcher.match(pa.array([row["text"] for row in new], pa.string()))
        ids = [matched.entry_ids[a:b].tolist() for a, b in pairwise(matched.offsets.tolist())] if new else []
        admitted = [
            row | {"entry_ids": its, "source_row": position(row["source_row"])}
            for row, its in zip(new, ids, strict=True)
            if its
        ]
        entry_ids, increments = np.unique(np.array(list(chain(*ids)), np.int32), return_counts=True)
        numbers.n_unique = len(new)
        numbers.n_matched = numbers.n_admitted = len(admitted)
        numbers.n_matches = int(increments.sum())
        schema = admitted_schema(())
        return LedgerRecord(
            header=curation.header.replace_threshold(t or curation.threshold),
            partition=partition,
            first=position(start),
            next=position(stop),
            is_last=False,
            view_cut=view_cut,
            numbers=numbers,
            n_received=0,
            entry_ids=entry_ids,
            increments=increments,
            seen=bases(pa.array([row["pair_id"] for row in new], pa.binary(16)), curation.seed),
            admitted=pa.RecordBatch.from_pylist(
                [{name: row.get(name) for name in schema.names} for row in admitted], schema
            ),
        )


def pairs_in(rows: Sequence[Row], start: int = 0) -> tuple[pa.RecordBatch, list[Rejection]]:
    """The valid pairs, and the rest."""
    columns = (pa.array([row[i] for row in rows], pa.binary()) for i in (0, 1))
    return validate(Records("", start, *columns))


@pytest.fixture
def curation(tmp_path: Path) -> Curation:
    return Curation(KafkaSettings(partitions=N_PARTITIONS, topics=TOPICS), tmp_path)


@pytest.fixture
def workers(curation: Curation) -> Workers:
    workers = Workers(curation)
    workers.add(300)
    return workers


@contextmanager
def folding(
    curation: Curation, published: PublishedCounts | None = None, threshold: int | None = None
) -> Iterator[Fold]:
    """The table of this curation, opened, made if it is not there."""
    header = curation.header
    table = CuratedTable.open(
        curation.folder / "t",
        Identity(header.rule, (), origin_of(TOPICS, N_PARTITIONS)),
        curation.metadata,
        takeover="test",
    )
    rule = FoldingRule(header.replace_threshold(threshold or curation.threshold), curation.seed, curation.metadata.keys)
    try:
        fold = Fold(table, TOPICS, rule, published)
        yield fold
    finally:
        table.close()


def fold_all(fold: Fold, commits: list[Commit]) -> None:
    for commit in commits:
        fold.fold(commit)


def assert_settled(curation: Curation, cut: tuple[int, ...] | None = None, threshold: int | None = None) -> None:
    view = TableView(curation.folder / "t")
    assert view.digest() == curation.offline_digest(cut, threshold)
    assert view.n_pending == 0


# --- final decisions


def final_commits(header: RuleHeader, metadata: Metadata, n: int) -> list[Commit]:
    """So many commits of each partition in turn, as workers decide that know of nothing but their own."""
    decider = Decider(header, metadata, SEED)
    states = [PartitionState(header, partition, len(metadata)) for partition in range(N_PARTITIONS)]
    commits = []
    for k in range(n):
        for partition, state in enumerate(states):
            state.next = position(500 * k)
            pairs = made_pairs(60, 60 * (k * N_PARTITIONS + partition))
            batch = read_batch([Message(500 * k + i, value) for i, value in enumerate(encode_json(pairs))], partition)
            records = decider.ledger_records(decider.decide(batch, state), state, position(500 * k + 500))
            commits.append(Commit(partition, records, LedgerPosition(2 * k + 1, position(500 * k + 500))))
    return commits


def test_what_was_accepted_for_good_stays_and_its_coins_are_published(tmp_path: Path) -> None:
    """A settle evicts nothing; a restart goes on with the coins, and publishes those of the last commit."""
    metadata = made_metadata()
    header = header_of(metadata, n_partitions=N_PARTITIONS, final=FinalDecisions(2_000))
    rule = FoldingRule(header, SEED, metadata.keys)
    identity = Identity(header.rule, (), origin_of(TOPICS, N_PARTITIONS))
    commits = final_commits(header, metadata, 8)
    coins, counts, n_unique = np.zeros(len(metadata), np.int64), np.zeros(len(metadata), np.int64), 0
    accepted: list[bytes] = []
    published: PublishedCounts | None = None
    for start in range(0, len(commits), len(commits) // 2):
        table = CuratedTable.open(tmp_path / "t", identity, metadata, takeover="test")
        try:
            fold = Fold(table, TOPICS, rule, published)
            assert (fold.to_publish(None) is None) == (start == 0)
            for commit in commits[start : start + len(commits) // 2]:
                fold.fold(commit)
                for record in commit.records:
                    counts[record.entry_ids] += record.increments
                    coins[record.entry_ids] += record.coins
                    n_unique += record.numbers.n_unique
                    accepted += record.admitted.column("pair_id").to_pylist()
            assert not fold.is_settled
            fold.settle()
            assert fold.is_settled
            made = fold.to_publish(published)
            assert made is not None
            assert (made.cut, made.n_unique) == (fold.frontier, n_unique)
            assert made.entry_counts.tolist() == counts.tolist()
            assert made.entry_coins.tolist() == coins.tolist()
            assert coins.sum() >= len(accepted) > 0
            published = PublishedCounts.decode(made.encode(), "here")
            assert fold.to_publish(published) is None
        finally:
            table.close()
        view = TableView(tmp_path / "t")
        rows = [pair_id for batch in view.read_settled(["pair_id"]) for pair_id in batch["pair_id"].to_pylist()]
        assert sorted(rows) == sorted(accepted)
        assert (view.state.numbers.n_evicted, view.n_pending) == (0, 0)


# --- what it comes to


@pytest.mark.parametrize("dedup", ["exact", "none"])
@pytest.mark.parametrize("counter", [Counter("exact"), Counter("count-min", 2, 4)], ids=["exact", "count-min"])
def test_it_comes_to_the_offline_subset(tmp_path: Path, rng: np.random.Generator, counter: Counter, dedup: str) -> None:
    curation = Curation(KafkaSettings(partitions=N_PARTITIONS), tmp_path, counter=counter, dedup=dedup)
    workers = Workers(curation)
    workers.add(300)
    commits = workers.all_commits(rng)
    numbers = Numbers()
    for commit in commits:
        for record in commit.records:
            numbers.add(record.numbers)
    with folding(curation) as fold:
        for n, commit in enumerate(commits):
            fold.fold(commit)
            if rng.random() < 0.2:
                fold.checkpoint()
            if n == len(commits) // 2:  # and not only at the end
                fold.settle()
                assert_settled(curation, fold.frontier)
                assert fold.is_settled
        assert not fold.is_settled
        fold.settle()
        assert fold.frontier == tuple(position(len(rows)) for rows in curation.rows)
        assert fold.numbers.n_read == 300
        assert replace(fold.numbers, n_evicted=0) == numbers
        assert fold.numbers == fold.table.state.numbers
        counts = fold.to_publish(None)
        assert counts is not None
        assert counts.entry_counts.tolist() == estimates_at(curation, fold.frontier).tolist()
        assert (counts.cut, counts.n_unique) == (fold.frontier, numbers.n_unique)
    assert_settled(curation)


class Crash(BaseException):
    """Ends all at once."""


def test_wherever_it_is_thrown_away_it_goes_on_from_the_last_checkpoint(
    curation: Curation, workers: Workers, rng: np.random.Generator
) -> None:
    """With what is read again: the commits behind the positions that it has then."""
    commits = workers.all_commits(rng)
    n_crashes = 0

    def crash(_: str) -> None:
        nonlocal n_crashes
        if n_crashes < 12 and rng.random() < 0.03:
            n_crashes += 1
            raise Crash

    def go_on() -> bool:
        with folding(curation) as fold:
            offsets = [each.offset for each in fold.positions]
            left = [each for each in commits if each.after.offset > offsets[each.partition]]
            with failpoints.listening(crash):
                for commit in left:
                    fold.fold(commit)
                    if rng.random() < 0.3:
                        fold.checkpoint()
                    if rng.random() < 0.1:
                        fold.settle()
                fold.settle()
            assert fold.numbers.n_read == 300
        return True

    for _ in range(100):
        try:
            if go_on():
                break
        except Crash:
            continue
    print(f"{n_crashes} crashes")
    assert_settled(curation)
    assert TableView(curation.folder / "t").state.numbers.n_read == 300


def test_a_checkpoint_holds_all_that_is_needed(curation: Curation, workers: Workers) -> None:
    commits = [workers.commit(0, 40, 3), workers.commit(2, 25)]
    commits[0] = replace(commits[0], records=[replace(each, n_received=2) for each in commits[0].records])
    with folding(curation) as fold:
        assert fold.positions == [LedgerPosition()] * N_PARTITIONS
        fold_all(fold, commits)
        fold.checkpoint()
        frontier, numbers, positions = fold.frontier, deepcopy(fold.numbers), fold.positions
        fold.fold(workers.commit(1, 10))  # is forgotten
    assert frontier == (position(40), 0, position(25))
    assert positions == [LedgerPosition(3, position(40)), LedgerPosition(), LedgerPosition(1, position(25))]
    with folding(curation) as fold:
        assert (fold.frontier, fold.numbers, fold.positions) == (frontier, numbers, positions)
        assert fold.n_received == 6
        assert not fold.is_settled
        assert fold.n_read_at_settle == 0
        version = fold.table.state.version
        fold.checkpoint()
        assert fold.table.state.version == version, "a commit of nothing new"
        fold.settle()
        assert fold.n_read_at_settle == 65
        assert fold.table.state.settled is not None
        assert fold.table.state.settled.cut == {
            "kafka:pairs/0": position(40),
            "kafka:pairs/1": 0,
            "kafka:pairs/2": position(25),
            "kafka:ledger/0": 3,
            "kafka:ledger/1": 0,
            "kafka:ledger/2": 1,
        }
    assert_settled(curation, frontier)


def test_the_source_of_a_pair_is_its_place_in_pairs(curation: Curation, workers: Workers) -> None:
    with folding(curation) as fold:
        fold_all(fold, [workers.commit(partition, 50) for partition in range(N_PARTITIONS)])
        fold.settle()
    batches = TableView(curation.folder / "t").read_settled(["pair_id", "source", "source_row"])
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows
    for row in rows:
        partition = int(row["source"].removeprefix("kafka:pairs/"))
        offset = row["source_row"] // position(1)
        (pair,) = pairs_in([curation.rows[partition][offset]])[0].to_pylist()
        assert pair["pair_id"] == row["pair_id"]


# --- where it may settle


def published_at(curation: Curation, cut: tuple[int, ...], threshold: int | None = None) -> PublishedCounts:
    header = curation.header.replace_threshold(threshold or curation.threshold)
    return PublishedCounts(header, cut, 1, np.zeros(len(curation.metadata), np.int64))


def test_not_below_a_cut_that_a_pair_was_decided_with(curation: Curation, workers: Workers) -> None:
    with folding(curation) as fold:
        assert fold.may_settle
        fold.fold(workers.commit(0, 20, view_cut=(position(10), position(5), 0)))
        assert not fold.may_settle
        with pytest.raises(RuntimeError):
            fold.settle()
        fold.fold(workers.commit(1, 4, view_cut=(0, position(6), 0)))
        assert not fold.may_settle
        fold.fold(workers.commit(1, 1))
        assert not fold.may_settle
        fold.fold(workers.commit(1, 1))
        assert fold.may_settle
        fold.settle()
        assert_settled(curation, fold.frontier)


def test_not_below_a_cut_that_was_published(curation: Curation, workers: Workers) -> None:
    published = published_at(curation, (0, position(3), position(1)))
    with folding(curation, published) as fold:
        assert not fold.may_settle
        fold_all(fold, [workers.commit(0, 20), workers.commit(1, 3)])
        assert not fold.may_settle
        fold.checkpoint()
    with folding(curation, published) as fold:
        assert not fold.may_settle
        fold.fold(workers.commit(2, 1))
        assert fold.may_settle


def test_a_table_that_was_settled_may_be_settled_from_there_on(curation: Curation, workers: Workers) -> None:
    """The cuts that its pairs were decided with are below that of the table, and need not be known any more."""
    with folding(curation) as fold:
        fold_all(fold, [workers.commit(0, 20), workers.commit(1, 9, view_cut=(position(20), position(9), 0))])
        fold.settle()
    with folding(curation) as fold:
        assert fold.may_settle
        assert fold.is_settled
        fold.fold(workers.commit(0, 1))
        assert fold.may_settle
        assert not fold.is_settled


# --- t


def test_t_is_the_lowest_of_all(curation: Curation, workers: Workers) -> None:
    with folding(curation) as fold:
        fold.fold(workers.commit(0, 50))
        fold.settle()
        assert fold.threshold == 3
        fold.fold(workers.commit(1, 50, t=2))
        assert fold.threshold == 2
        fold.fold(workers.commit(2, 50, t=3))  # a worker that has not heard of it
        assert fold.threshold == 2
        fold.settle()
        cut = fold.frontier
    assert_settled(curation, cut, threshold=2)
    with folding(curation) as fold:  # that of the table stays
        assert fold.threshold == 2
        assert fold.is_settled
    with folding(curation, threshold=1) as fold:  # that of the settings is lower still: nothing but t is new
        assert fold.threshold == 1
        assert not fold.is_settled
        fold.checkpoint()
        assert fold.table.state.rule.threshold == 1
        fold.settle()
        assert fold.is_settled
    view = TableView(curation.folder / "t")
    assert view.settled.threshold == 1


# --- what is to be published


def test_what_is_to_be_published(curation: Curation, workers: Workers) -> None:
    with folding(curation) as fold:
        assert fold.to_publish(None) is None
        fold.fold(workers.commit(0, 50))
        fold.checkpoint()
        assert fold.to_publish(None) is None
        fold.settle()
        first = fold.to_publish(None)
        assert first is not None
        assert first.cut == (position(50), 0, 0)
        assert first.header == curation.header
        fold.fold(workers.commit(1, 10))
        fold.checkpoint()
        again = fold.to_publish(None)
        assert again is not None
        assert (again.cut, again.n_unique) == (first.cut, first.n_unique), "of the settled version, not of now"

    def of_the_table(published: PublishedCounts | None) -> PublishedCounts | None:
        with folding(curation) as fold:
            return fold.to_publish(published)

    assert of_the_table(first) is None
    for cut in [(position(51), 0, 0), (position(50), 1, 0), (position(49), 0, 1)]:
        assert of_the_table(published_at(curation, cut)) is None
    assert of_the_table(published_at(curation, (position(50), 0, 0), threshold=2)) is None
    for published in [None, published_at(curation, (position(49), 0, 0)), published_at(curation, first.cut, 4)]:
        found = of_the_table(published)
        assert found is not None
        assert found.encode() == first.encode()


def test_counts_that_cannot_be_read_are_not_published(curation: Curation, workers: Workers) -> None:
    with folding(curation) as fold:
        fold.fold(workers.commit(0, 50))
        fold.settle()
        settled = fold.table.state.settled
        assert settled is not None
        settled_counts_path(fold.table.folder.own, settled.checkpoint, settled.writer).write_bytes(b"damaged")
        with capture_logs() as logs:
            assert fold.to_publish(None) is None
        assert [line["log_level"] for line in logs] == ["warning"]
        fold.fold(workers.commit(1, 50))
        fold.settle()
        assert fold.to_publish(None) is not None
        cut = fold.frontier
    assert_settled(curation, cut)


# --- what goes wrong


def test_saved_counts_of_another_size_are_told(curation: Curation, workers: Workers) -> None:
    with folding(curation) as fold:
        fold.fold(workers.commit(0, 5))
        fold.table.checkpoint(replace(fold.table.state, numbers=fold.numbers), lambda: b"too few")
    with pytest.raises(OutputError, match="the saved counts cannot be used"), folding(curation):
        pass


@pytest.mark.parametrize("write", [Fold.checkpoint, Fold.settle])
def test_a_disk_that_is_gone_is_told(curation: Curation, workers: Workers, write: Callable[[Fold], None]) -> None:
    with folding(curation) as fold:
        fold.fold(workers.commit(0, 50))
        (curation.folder / "t").rename(curation.folder / "elsewhere")
        with pytest.raises(OutputError, match="cannot be read or written"):
            write(fold)


def test_a_table_of_other_topics_is_refused(curation: Curation) -> None:
    with folding(curation):
        pass
    other = origin_of(TopicNames(pairs="other"), N_PARTITIONS)
    assert other == "kafka:other,ledger/3"
    with pytest.raises(ConfigError, match="is fed from kafka:pairs,ledger/3"):
        CuratedTable.open(
            curation.folder / "t", Identity(curation.header.rule, (), other), curation.metadata, takeover="test"
        )
