"""The audit of a curation made by hand: clean when it is right, and every planted fault is found where it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import Outcome, run
from deltalake import DeltaTable
from kafka import KafkaProducer, TopicPartition
from kafka_topics import environment, read_partition
from kafka_transactions import end_transaction

from consumers.audit import audit
from consumers.audit_report import OF_FINAL_DECISIONS, AuditReport, CheckName
from consumers.clients import end_producer, make_admin, make_producer
from consumers.ledger import LedgerRecord, RuleHeader, admitted_schema
from consumers.messages import ARROW_HEADERS, MessageReader, encode_arrow, encode_json, home, position
from consumers.published_counts import COUNTS_KEY, PublishedCounts
from consumers.settings import AllSettings, KafkaSettings
from consumers.topics import create_topics
from stream_curate.balance import EVICTED, Guard, Prospects
from stream_curate.counting import Counter, Counts, empty_counts
from stream_curate.errors import ConfigError, UsageError
from stream_curate.matching.automaton import AutomatonMatcher
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, siphash_2_4
from stream_curate.pairs import Records, make_pairs
from stream_curate.rule import Dedup, Rule
from stream_curate.table.append_file import Mark
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import Identity
from stream_curate.table.state import Numbers, SourcePosition, State

pytestmark = pytest.mark.slow

ENTRIES = ["dog", "cat", "in the", "park", "zebra", "blue", "red", "a", "hot dog"]
TEXTS = ["a dog in the park", "a blue cat", "hot dog , red", "a dog", "no match", "a red dog in the park"]
SEED = 7
THRESHOLD = 5
P = 2
COMMIT_MESSAGES = 12


@dataclass
class Commit:
    """What one transaction writes: a fault changes it before it is written."""

    records: list[LedgerRecord]
    forwards: list[tuple[int, bytes, list[tuple[str, bytes]]]]
    letters: list[tuple[bytes | None, list[tuple[str, bytes]]]]


@dataclass
class Truth:
    """The unique pairs so far, and the numbers."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # partition, columns of an admitted pair
    numbers: Numbers = field(default_factory=Numbers)
    next: list[int] = field(default_factory=lambda: [0] * P)


Fault = Callable[[Commit], object]


@dataclass
class _WithoutFirst:
    """An `Outlook` by which the first `n` rows that are shown go, and all others stay."""

    n: int
    is_ordered: bool = True

    def keeps_all(self, guard: Guard | None) -> bool:
        return False

    def of(self, batch: pa.RecordBatch) -> Prospects:
        n_gone = min(self.n, len(batch))
        self.n -= n_gone
        classes = np.array([EVICTED] * n_gone + [0] * (len(batch) - n_gone), np.int8)
        return Prospects(classes, np.zeros(len(batch), np.int32), np.zeros(len(batch)))

    as_it_looks = of


class Curation:
    """A small curation in one process: what workers and a settler leave behind, written down plainly.

    Args:
        kafka: topics that are there, with P partitions.
        out: for the table.
        faults: the number of a commit, from 0 on -> what changes it before it is written.
        counter, dedup, seed: settings of the rule.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        out: Path,
        faults: Mapping[int, Fault] | None = None,
        *,
        counter: Counter = Counter("exact"),  # noqa: B008 (a frozen value)
        dedup: Dedup = "exact",
        seed: int = SEED,
    ) -> None:
        self.kafka, self.out, self.faults = kafka, out, faults or {}
        self.dedup, self.counter, self.seed = dedup, counter, seed
        self.metadata = Metadata.from_entries(ENTRIES)
        self.rule = Rule.of(self.metadata, threshold=THRESHOLD, seed=seed, counter=counter, dedup=dedup)
        self.header = RuleHeader(self.rule, P)
        self.truth = Truth()
        self.n_commits = 0
        self.view_cut = (0,) * P
        self._seen: set[bytes] = set()
        self._matcher = AutomatonMatcher(self.metadata.entries)
        self._producer: KafkaProducer = make_producer(kafka, transactional_id=f"{kafka.topics.ledger}-test")
        self._producer.init_transactions()
        self.table = CuratedTable.open(out, Identity(self.rule, ()), self.metadata)

    def close(self) -> None:
        """Let go of the table and the producer."""
        end_producer(self._producer)
        self.table.close()

    @property
    def settings(self) -> AllSettings:
        return AllSettings(kafka=self.kafka, seed=str(self.seed))

    def produce(self, first: int, n_pairs: int) -> None:
        """JSON at home, away, twice and bad; and Arrow messages of mixed pairs."""
        numbers = range(first, first + n_pairs)
        pairs = make_pairs([f"http://x.org/{i}" for i in numbers], [TEXTS[i * i % 11 % len(TEXTS)] for i in numbers])
        homes = home(pairs.column("pair_id"), P).tolist()
        self._producer.begin_transaction()
        for index, (value, at_home) in enumerate(zip(encode_json(pairs), homes, strict=True)):
            partition = at_home if index % 5 else (at_home + 1) % P
            self._send_pairs(value, partition)
            if index % 9 == 0:
                self._send_pairs(value, at_home)
        for partition in range(P):
            self._send_pairs(encode_arrow(pairs.slice(n_pairs // 2, 7)), partition, ARROW_HEADERS)
            for bad in (b"{", None, b'{"url": "ftp://x.org/1", "text": "a dog"}'):
                self._send_pairs(bad, partition)
        end_transaction(self._producer, self.kafka)

    def _send_pairs(self, value: bytes | None, partition: int, headers: list[tuple[str, bytes]] | None = None) -> None:
        # kafka-python sends no null value without a key
        self._producer.send(self.kafka.topics.pairs, value, b"key", headers=headers or [], partition=partition)

    def work(self) -> None:
        """Bring what stands in `pairs` to the ledger, until nothing is left."""
        is_done = False
        while not is_done:
            is_done = True
            for partition in range(P):
                messages = [
                    message
                    for message in read_partition(self.kafka, self.kafka.topics.pairs, partition)
                    if position(message.offset) >= self.truth.next[partition]
                ]
                for start in range(0, len(messages), COMMIT_MESSAGES):
                    self.write(self._decide(partition, messages[start : start + COMMIT_MESSAGES]))
                    is_done = False

    def write(self, commit: Commit) -> None:
        """One transaction, with whatever the fault has made of it."""
        topics = self.kafka.topics
        if self.n_commits in self.faults:
            self.faults[self.n_commits](commit)
        self.n_commits += 1
        partition = commit.records[0].partition if commit.records else 0
        self._producer.begin_transaction()
        for record in commit.records:
            self._producer.send(topics.ledger, record.encode(), partition=partition)
        for at_home, value, headers in commit.forwards:
            self._producer.send(topics.pairs, value, headers=headers, partition=at_home)
        for letter, headers in commit.letters:
            self._producer.send(topics.dlq, letter, b"key", headers=headers, partition=partition)
        end_transaction(self._producer, self.kafka)

    def _decide(self, partition: int, messages: list[Any]) -> Commit:
        """The commit of some messages as it should be: two records, if there is enough for two."""
        half = len(messages) // 2
        parts = [messages[:half], messages[half:]] if half else [messages]
        commit = Commit([], [], [])
        for part in parts:
            self._decide_part(partition, part, commit, is_last=part is parts[-1])
        return commit

    def _decide_part(self, partition: int, messages: list[Any], commit: Commit, *, is_last: bool) -> None:
        first, next_ = self.truth.next[partition], position(messages[-1].offset + 1)
        (batch,) = MessageReader(self.kafka.topics.pairs, partition).read(messages)
        pairs, rejections = batch.validate()
        numbers = Numbers()
        rows: list[dict[str, Any]] = []
        counts: dict[int, int] = {}
        unique = []
        away: dict[int, list[int]] = {}
        for index, row in enumerate(pairs.to_pylist()):
            at_home = int.from_bytes(row["pair_id"][:8], "big") % P
            if at_home != partition:
                away.setdefault(at_home, []).append(index)
                numbers.n_forwarded += 1
            elif self.dedup == "exact" and row["pair_id"] in self._seen:
                numbers.n_duplicate += 1
            else:
                self._seen.add(row["pair_id"])
                unique.append(row["pair_id"])
                matched = self._matcher.match(pa.array([row["text"]])).entry_ids.tolist()
                numbers.n_unique += 1
                numbers.n_matched += bool(matched)
                numbers.n_matches += len(matched)
                for entry_id in matched:
                    counts[entry_id] = counts.get(entry_id, 0) + 1
                names = ("pair_id", "url", "text", "source_row", "uid")
                rows.append({name: row.get(name) for name in names} | {"entry_ids": matched})
                self.truth.rows.append((partition, rows[-1]))
        admitted = [row for row in rows if row["entry_ids"]]
        numbers.n_admitted = len(admitted)
        for rejection in rejections:
            reason = str(rejection.reason)
            numbers.rejected[reason] = numbers.rejected.get(reason, 0) + 1
            index = int(np.searchsorted(batch.positions, rejection.source_row))
            value = next(m.value for m in messages if position(m.offset) == rejection.source_row)
            offset, row_number = divmod(rejection.source_row, 65_536)
            said = {
                "reason": reason,
                "source": rejection.source,
                "offset": offset,
                "row": row_number,
                "sha256": rejection.sha256,
            }
            assert (batch.records.raw[index] or b"") == (value or b"")
            commit.letters.append((value, [(name, str(of).encode()) for name, of in said.items()]))
        for at_home, indices in away.items():
            value = encode_arrow(pairs.take(pa.array(indices)))
            commit.forwards.append((at_home, value, [*ARROW_HEADERS, ("forwarded-from", b"%d" % partition)]))
        received = [m for m in messages if any(name == "forwarded-from" for name, _ in m.headers)]
        n_received = sum(
            len(MessageReader(self.kafka.topics.pairs, partition).decode(m.value, m.headers)) for m in received
        )
        seen = [siphash_2_4(self.seed.to_bytes(16, "little"), pair_id) for pair_id in unique]
        commit.records.append(
            LedgerRecord(
                header=self.header,
                partition=partition,
                first=first,
                next=next_,
                is_last=is_last,
                view_cut=self.view_cut,
                numbers=numbers,
                n_received=n_received,
                entry_ids=np.array(list(counts), np.int32),
                increments=np.array(list(counts.values()), np.int64),
                seen=np.array(seen if self.dedup == "exact" else [], np.uint64),
                admitted=pa.RecordBatch.from_pylist(admitted, schema=admitted_schema(())),
            )
        )
        self.truth.numbers.add(numbers)
        self.truth.next[partition] = next_

    # --- the settler

    def kept(self) -> tuple[list[tuple[int, dict[str, Any]]], Counts]:
        """The rows that a settled table holds now, each pair_id once, and the counts of now."""
        pool = OfflinePool(self.metadata, self.dedup)
        urls, texts = (
            pa.array([row[name].encode() for _, row in self.truth.rows], pa.binary()) for name in ("url", "text")
        )
        pool.add(Records("test", 0, urls, texts))
        entry_ids = np.arange(len(ENTRIES), dtype=np.int32)
        counts = empty_counts(self.counter, len(ENTRIES))
        true_counts = np.bincount(
            [entry_id for _, row in self.truth.rows for entry_id in row["entry_ids"]], minlength=len(ENTRIES)
        )
        counts.add(entry_ids[true_counts > 0], true_counts[true_counts > 0])
        estimates = dict(enumerate(counts.estimates(entry_ids).tolist()))
        by_id = {pool.pair_ids[index]: self.truth.rows[index] for index in pool.kept(estimates, THRESHOLD, self.seed)}
        return list(by_id.values()), counts

    def settle(self, change: Callable[[list[dict[str, Any]]], None] = lambda rows: None, *, cut: Any = None) -> None:
        """A settled version of what is in the ledger, made from the truth; `change` is a fault in its rows."""
        kept, counts = self.kept()
        rows = [row | {"source": f"kafka:{self.kafka.topics.pairs}/{partition}"} for partition, row in kept]
        change(rows)
        self.table.append(pa.RecordBatch.from_pylist(rows, schema=_table_schema()))
        numbers = dataclasses.replace(self.truth.numbers, n_admitted=self.truth.numbers.n_admitted)
        sources = [
            SourcePosition(f"kafka:{self.kafka.topics.pairs}/{partition}", None, at)
            for partition, at in enumerate(self.truth.next if cut is None else cut)
        ]
        n_before = len(self.table.state.files)
        state = State(0, 0, self.rule, numbers, sources, Mark(), Mark(), None)
        self.table.checkpoint(state, counts.to_bytes)
        # what an earlier version had goes, so that each version is just the rows that it was given
        outlook = _WithoutFirst(sum(file.n_rows for file in self.table.state.files[:n_before]))
        self.table.settle(outlook, counts.estimates(np.arange(len(ENTRIES), dtype=np.int32)), counts.to_bytes)

    def publish(self, change: Callable[[PublishedCounts], PublishedCounts] = lambda published: published) -> None:
        """The counts of now."""
        _, counts = self.kept()
        estimates = counts.estimates(np.arange(len(ENTRIES), dtype=np.int32))
        self.view_cut = tuple(self.truth.next)
        published = PublishedCounts(self.header, self.view_cut, self.truth.numbers.n_unique, estimates)
        self._producer.begin_transaction()
        self._producer.send(self.kafka.topics.counts, change(published).encode(), COUNTS_KEY, partition=0)
        end_transaction(self._producer, self.kafka)

    def run(self) -> None:
        """All of it, twice: so that there are two settled versions, and records with a view."""
        for first in (0, 60):
            self.produce(first, 60)
            self.work()
            self.settle()
            self.publish()


def _table_schema() -> pa.Schema:
    return admitted_schema(()).append(pa.field("source", pa.string()))


@pytest.fixture
def curation(kafka: Callable[..., KafkaSettings], tmp_path: Path) -> Iterator[Callable[..., Curation]]:
    """Makes a curation with topics of its own."""
    made: list[Curation] = []

    def make(*arguments: Any, **changes: Any) -> Curation:
        settings = kafka(partitions=P)
        create_topics(settings)
        made.append(Curation(settings, tmp_path / "t", *arguments, **changes))
        return made[-1]

    yield make
    for each in made:
        each.close()


def problems(report: AuditReport) -> dict[str, list[str]]:
    """The words of each check that has any."""
    return {str(name): check.differences for name, check in report.checks.items() if check.n_differences}


# --- what is right


@pytest.mark.parametrize(("counter", "dedup"), [(Counter("exact"), "exact"), (Counter("count-min", 2, 5), "none")])
def test_what_is_right_is_clean(curation: Callable[..., Curation], counter: Counter, dedup: Dedup) -> None:
    made = curation(counter=counter, dedup=dedup)
    made.run()
    report = audit(made.settings, made.out, versions="all")

    assert problems(report) == {}
    assert report.beyond_checking == []
    truth = made.truth.numbers
    assert report.numbers["n_read"] == truth.n_read == report.checks[CheckName.RECOUNT].n_compared
    assert report.numbers["n_unique"] == truth.n_unique
    assert report.numbers["n_forwarded"] == truth.n_forwarded > 20
    assert report.numbers["n_versions_compared"] == 2
    assert report.checks[CheckName.ADMITTED].n_compared == truth.n_admitted
    assert report.checks[CheckName.FORWARDS].n_compared == truth.n_forwarded
    assert report.checks[CheckName.DEAD_LETTERS].n_compared == truth.n_rejected == 12
    assert report.checks[CheckName.SEEN].n_compared == (truth.n_unique if dedup == "exact" else 0)
    assert 0 < len(made.kept()[0]) < truth.n_admitted


def test_without_the_seed_it_says_what_it_cannot_check(curation: Callable[..., Curation]) -> None:
    made = curation(seed=99)
    made.run()
    report = audit(AllSettings(kafka=made.kafka), made.out)

    assert problems(report) == {}
    assert report.checks[CheckName.SEEN].n_compared == 0
    assert report.checks[CheckName.TABLE].n_compared == len(made.kept()[0])
    assert "the seed was not given" in report.beyond_checking[0]
    with pytest.raises(ConfigError, match="give its own with --seed-file"):
        audit(AllSettings(kafka=made.kafka, seed="8"), made.out)


def test_a_table_that_is_not_settled_yet_and_one_that_is_not_there(
    curation: Callable[..., Curation], tmp_path: Path
) -> None:
    made = curation()
    empty = audit(made.settings, made.out)
    assert problems(empty) == {}
    assert empty.checks[CheckName.RANGES].n_compared == 0

    made.produce(0, 40)
    made.work()
    report = audit(made.settings, made.out)
    assert problems(report) == {}
    assert report.checks[CheckName.ADMITTED].n_compared == made.truth.numbers.n_admitted
    assert "has not been settled yet" in report.beyond_checking[0]
    with pytest.raises(ConfigError, match="no curated table"):
        audit(made.settings, tmp_path / "nothing")


def test_one_version_or_all(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.run()
    newest, older = made.table.state.version, made.table.state.version - 2
    assert audit(made.settings, made.out).numbers["settled_version"] == newest
    assert audit(made.settings, made.out, versions=older).numbers["settled_version"] == older
    with pytest.raises(UsageError, match=f"is no settled version that is known. Settled: {older}, {newest}"):
        audit(made.settings, made.out, versions=older + 1)

    for name in _files_of(made.out, older):
        (made.out / name).unlink()
    report = audit(made.settings, made.out, versions="all")
    assert problems(report) == {}
    assert report.numbers["n_versions_compared"] == 1
    assert report.beyond_checking == [
        f"of the table, version {older}: data files were removed when later versions were settled"
    ]


def test_removed_input_is_taken_at_the_ledgers_word(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.run()
    remove_before(made, 0, 40)
    report = audit(made.settings, made.out, versions="all")

    assert problems(report) == {}
    assert report.checks[CheckName.RECOUNT].n_compared < made.truth.numbers.n_read
    (words,) = (words for words in report.beyond_checking if "it was removed" in words)
    assert words.startswith(f"the input before {made.kafka.topics.pairs}, partition 0, offset ")


def test_removed_input_does_not_hide_a_fault_in_the_rest(curation: Callable[..., Curation]) -> None:
    fault = change_record(lambda record: _more(record, n_duplicate=1))
    made = curation(dict.fromkeys(range(6, 99), fault))
    made.run()
    remove_before(made, 0, 30)
    found = problems(audit(made.settings, made.out))
    assert all("n_duplicate is" in words for words in found["recount of the input"])


# --- planted faults


def change_record(change: Callable[[LedgerRecord], LedgerRecord]) -> Fault:
    """A fault in the last record of a commit."""

    def fault(commit: Commit) -> None:
        commit.records[-1] = change(commit.records[-1])

    return fault


def _more(record: LedgerRecord, **changes: int) -> LedgerRecord:
    """A record with more in its numbers."""
    numbers = {name: getattr(record.numbers, name) + n for name, n in changes.items()}
    return dataclasses.replace(record, numbers=dataclasses.replace(record.numbers, **numbers))


def drop_commit(commit: Commit) -> None:
    commit.records.clear()


def overlap(record: LedgerRecord) -> LedgerRecord:
    return dataclasses.replace(record, first=record.first - 65_536)


def half(record: LedgerRecord) -> LedgerRecord:
    return dataclasses.replace(record, is_last=False)


def wrong_delta(record: LedgerRecord) -> LedgerRecord:
    increments = record.increments.copy()
    increments[0] += 1
    return _more(dataclasses.replace(record, increments=increments), n_matches=1)


def other_rule(record: LedgerRecord) -> LedgerRecord:
    return dataclasses.replace(
        record, header=dataclasses.replace(record.header, rule=dataclasses.replace(record.header.rule, dedup="none"))
    )


def other_text(record: LedgerRecord) -> LedgerRecord:
    rows = record.admitted.to_pylist()
    rows[0] |= {"text": rows[0]["text"] + " and more"}
    return dataclasses.replace(record, admitted=pa.RecordBatch.from_pylist(rows, schema=record.admitted.schema))


def other_entries(record: LedgerRecord) -> LedgerRecord:
    rows = record.admitted.to_pylist()
    rows[0] |= {"entry_ids": [8]}
    return dataclasses.replace(record, admitted=pa.RecordBatch.from_pylist(rows, schema=record.admitted.schema))


def none_admitted(record: LedgerRecord) -> LedgerRecord:
    record = _more(record, n_admitted=-len(record.admitted))
    return dataclasses.replace(record, admitted=record.admitted.slice(0, 0))


def other_seen(record: LedgerRecord) -> LedgerRecord:
    seen = record.seen.copy()
    seen[0] ^= np.uint64(1)
    return dataclasses.replace(record, seen=seen)


def view_ahead(record: LedgerRecord) -> LedgerRecord:
    return dataclasses.replace(record, view_cut=(5, 5))


RECORD_FAULTS: list[list[tuple[Fault, str, str]]] = [
    [
        (drop_commit, "ledger ranges", "a gap: nothing tells of the input from"),
        (change_record(overlap), "ledger ranges", "an overlap: its range begins at"),
        (change_record(half), "ledger ranges", "half a commit"),
        (change_record(other_rule), "rule headers", 'its rule header has dedup "none", where the table has "exact"'),
    ],
    [
        (change_record(wrong_delta), "recount of the input", "the delta of entry"),
        (change_record(lambda record: _more(record, n_unique=1)), "ledger numbers", "seen hashes:"),
        (change_record(lambda record: _more(record, n_duplicate=1)), "recount of the input", "n_duplicate is"),
        (change_record(lambda record: _more(record, n_forwarded=-1)), "recount of the input", "n_forwarded is"),
        (change_record(view_ahead), "view cuts", "is no end of a commit in the ledger"),
    ],
    [
        (change_record(other_text), "admitted pairs", "has another url or text than its message"),
        (change_record(other_entries), "admitted pairs", "has entry_ids [8], where it matches"),
        (change_record(other_seen), "seen pairs", "is of no pair of the range"),
        (change_record(none_admitted), "admitted pairs", "the rule keeps it at the cut of"),
    ],
]


@pytest.mark.parametrize("faults", RECORD_FAULTS, ids=["ranges", "numbers", "pairs"])
def test_each_fault_in_the_ledger_is_found_where_it_is(
    curation: Callable[..., Curation], faults: list[tuple[Fault, str, str]]
) -> None:
    left = [fault for fault, _, _ in faults]

    def next_fault(commit: Commit) -> None:
        if left and len(commit.records[-1].admitted):
            left.pop(0)(commit)

    made = curation(dict.fromkeys(range(1, 99, 2), next_fault))
    made.run()
    assert not left
    found = problems(audit(made.settings, made.out))

    for _, check, words in faults:
        matching = [each for each in found.get(check, []) if words in each]
        assert matching, (words, found)
        assert matching[0].startswith((f"{made.kafka.topics.ledger}, partition ", f"{made.kafka.topics.pairs}, part"))
        assert "offset " in matching[0]


def test_forwards_that_never_arrived_or_did_twice_are_found(curation: Callable[..., Curation]) -> None:
    def lose(commit: Commit) -> None:
        lost.extend(commit.forwards)
        commit.forwards.clear()

    lost: list[Any] = []
    made = curation({0: lose, 3: lambda commit: commit.forwards.extend(commit.forwards)})
    made.run()
    found = problems(audit(made.settings, made.out))
    assert list(found) == ["forwarded pairs"]
    (never, *_), (twice, *_) = (
        [each for each in found["forwarded pairs"] if words in each]
        for words in (f"home is partition {lost[0][0]} never arrived there", "and does not, or came before")
    )
    assert never.startswith(f"{made.kafka.topics.pairs}, partition {1 - lost[0][0]}, offset ")
    assert twice.startswith(f"{made.kafka.topics.pairs}, partition ")


def change_letter(name: str, value: bytes) -> Fault:
    def fault(commit: Commit) -> None:
        letter, headers = commit.letters[0]
        commit.letters[0] = (letter, [*headers, (name, value)])

    return fault


LETTER_FAULTS: list[tuple[Fault, str]] = [
    (change_letter("reason", b"bad_row"), "the reason is bad_row, where it should be"),
    (change_letter("sha256", b"0" * 64), "sha256 is 000"),
    (change_letter("row", b"3"), "no record that is rejected stands there"),
    (change_letter("source", b"kafka:other/0"), "this dead letter is of kafka:other/0"),
    (lambda commit: commit.letters.pop(), "and there is no dead letter"),
    (lambda commit: commit.letters.extend(commit.letters), "it stands there twice"),
]


def test_each_fault_in_the_dead_letters_is_found(curation: Callable[..., Curation]) -> None:
    left = list(LETTER_FAULTS)

    def next_fault(commit: Commit) -> None:
        if commit.letters and left:
            left.pop(0)[0](commit)

    made = curation(dict.fromkeys(range(99), next_fault))
    for first in range(0, 400, 40):
        if left:
            made.produce(first, 20)
            made.work()
    assert not left
    found = problems(audit(made.settings, made.out))
    assert list(found) == ["dead letters"]
    for _, words in LETTER_FAULTS:
        assert any(words in each for each in found["dead letters"]), (words, found)


def test_each_fault_in_the_table_is_found(curation: Callable[..., Curation]) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        never = make_pairs(["http://x.org/never"], ["a dog"]).to_pylist()[0]
        rows.append(rows[0] | {name: never[name] for name in ("pair_id", "url", "text")})
        rows.append(dict(rows[0]))
        del rows[1]
        rows[2]["source_row"] += 1
        rows[3]["text"] = "a cat"
        rows[4]["uid"] = "u"
        rows[5]["entry_ids"] = [0]

    made = curation()
    made.produce(0, 40)
    made.work()
    made.settle(change)
    found = problems(audit(made.settings, made.out))
    assert list(found) == ["curated table"]
    for words in (
        "n_curated is",
        "is in it, and offline does not keep it",
        "stands in it twice",
        "and it is not in it",
        "has the place",
        "has another url or text than its pair_id says",
        "has other kept columns than",
        "has entry_ids [0], where it matches",
    ):
        (each,) = (each for each in found["curated table"] if words in each) if words != "n_curated is" else [words]
        assert each == words or each.startswith(f"version {made.table.state.version} of the table: ")


def test_a_cut_inside_a_commit_is_found(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.produce(0, 40)
    made.work()
    made.settle(cut=[made.truth.next[0], made.truth.next[1] - 65_536])
    found = problems(audit(made.settings, made.out))
    assert any("is no end of a commit in the ledger" in words for words in found["settled cuts"])


def test_a_version_settled_below_a_view_or_an_earlier_cut_is_found(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.run()
    before = tuple(made.truth.next)
    made.produce(200, 20)
    made.work()
    made.settle(cut=[made.truth.next[0], 0])
    found = problems(audit(made.settings, made.out))
    assert any(f"is below {before} of version" in words for words in found["settled cuts"]), found
    assert any("is below the view cut" in words for words in found["settled cuts"])


def test_counts_that_are_ahead_of_the_table_are_found(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.run()
    made.produce(200, 20)
    made.work()
    made.publish()
    found = problems(audit(made.settings, made.out))
    assert list(found) == ["published counts"]
    (words,) = found["published counts"]
    assert words.startswith(f"{made.kafka.topics.counts}, partition 0, offset ")
    assert "no settled version of the table holds it" in words


COUNTS_FAULTS: list[tuple[Callable[[PublishedCounts], PublishedCounts], str]] = [
    (lambda one: dataclasses.replace(one, entry_counts=one.entry_counts + 1), "the count of entry 0 is"),
    (lambda one: dataclasses.replace(one, n_unique=one.n_unique + 1), "n_unique is"),
    (lambda one: dataclasses.replace(one, header=one.header.replace_threshold(3)), "has the threshold 3"),
    (lambda one: dataclasses.replace(one, header=RuleHeader(one.header.rule, 9)), "n_partitions 9"),
]


def test_each_fault_in_the_counts_is_found(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.produce(0, 40)
    made.work()
    made.settle()
    for change, words in COUNTS_FAULTS:
        made.publish(change)
        found = problems(audit(made.settings, made.out))
        assert list(found) == ["published counts"]
        assert words in found["published counts"][0]


def test_a_transaction_that_stays_open_is_found_and_one_that_ends_is_not(curation: Callable[..., Curation]) -> None:
    made = curation()
    topics = made.kafka.topics
    forgotten = make_producer(
        made.kafka.model_copy(update={"transaction_timeout_s": 60.0}), transactional_id="forgotten"
    )
    forgotten.init_transactions()
    forgotten.begin_transaction()
    forgotten.send(topics.ledger, b"x", partition=1).get(timeout=10)
    try:
        found = problems(audit(_with_short_timeout(made), made.out, transaction_grace_s=0.0))
        assert list(found) == ["open transactions"]
        (words,) = found["open transactions"]
        assert words.startswith(f"{topics.ledger}, partition 1, offset 0: a transaction is open here")
        assert "transactional id forgotten" in words
        end_transaction(forgotten, made.kafka, commits=False)
        assert problems(audit(made.settings, made.out)) == {}
    finally:
        end_producer(forgotten)


def _with_short_timeout(made: Curation) -> AllSettings:
    kafka = made.kafka.model_copy(update={"transaction_timeout_s": 1.5, "request_timeout_s": 1.0})
    return AllSettings(kafka=kafka, seed=str(SEED))


def test_what_is_no_record_of_ours_is_found(curation: Callable[..., Curation]) -> None:
    made = curation()
    topics = made.kafka.topics
    foreign = make_producer(made.kafka)
    for topic in (topics.ledger, topics.counts):
        foreign.send(topic, b"hello", b"key", partition=0).get(timeout=10)
    end_producer(foreign)
    found = problems(audit(made.settings, made.out))
    assert found["ledger ranges"][0].startswith(
        f"{topics.ledger}, partition 0, offset 0: this is no record of a ledger"
    )
    assert found["published counts"][0].startswith(f"{topics.counts}, partition 0, offset 0: this is no record of coun")


# --- the command


def command(made: Curation, *flags: object, **changes: str) -> Outcome:
    """`stream-curate audit`."""
    variables = {**environment(made.kafka), "STREAM_CURATE_SEED": str(SEED), **changes}
    return run("audit", "--out", made.out, *flags, environment=variables)


def test_the_command_says_what_it_compared(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.run()
    shown = command(made, "--all-versions").ended(0)
    assert "Audit: clean" in shown.words
    for name in CheckName:
        assert (f"{name} " in shown.words) == (name not in OF_FINAL_DECISIONS)
    report = command(made, "--json", "--version", made.table.state.version).ended(0).json
    assert report["clean"]
    assert report["numbers"]["n_curated"] == len(made.kept()[0])


def test_the_command_ends_with_5_and_shows_the_first_differences(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.produce(0, 40)
    made.work()
    made.settle(lambda rows: rows.clear())
    shown = command(made).ended(5)
    n_kept = len(made.kept()[0])
    assert f"Audit: {n_kept} differences" in shown.words
    assert f"curated table: version {made.table.state.version} of the table: offline keeps" in shown.words
    assert f"and {n_kept - 10} more" in shown.words


def test_what_cannot_be_done_is_told_in_words(curation: Callable[..., Curation]) -> None:
    made = curation()
    assert "give one of them" in command(made, "--version", "1", "--all-versions").ended(2).err
    assert "made with a seed of fingerprint" in command(made, STREAM_CURATE_SEED="8").ended(3).err
    away = {
        "STREAM_CURATE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "STREAM_CURATE_KAFKA__GIVE_UP_AFTER_S": "1",
    }
    assert "no broker answers in time" in command(made, **away).ended(6).words


def remove_before(made: Curation, partition: int, offset: int) -> None:
    """What retention does in time."""
    admin = make_admin(made.kafka)
    try:
        admin.delete_records({TopicPartition(made.kafka.topics.pairs, partition): offset})
    finally:
        admin.close()


def _files_of(out: Path, version: int) -> list[str]:
    actions = pa.table(DeltaTable(str(out), version=version).get_add_actions(flatten=True))
    return [str(path) for path in actions["path"].to_pylist()]


def test_counts_that_go_back_behind_those_before_are_found(curation: Callable[..., Curation]) -> None:
    made = curation()
    made.produce(0, 40)
    made.work()
    made.settle()
    made.publish(lambda one: dataclasses.replace(one, cut=tuple(position(1) + at for at in one.cut)))
    made.publish()
    found = problems(audit(made.settings, made.out))
    assert list(found) == ["published counts"]
    assert "goes back behind" in found["published counts"][0]
