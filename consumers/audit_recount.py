"""The slow recount of the input: record by record with the plain reference, and held against the ledger.

With workers and settler it shares what a message and a valid pair are, and nothing else: matches, pairs seen, keyed
hashes and the rule are those of `stream_curate.offline`.
"""

from __future__ import annotations

from array import array
from collections import Counter as Multiset
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from consumers.audit_forwards import Forwards
from consumers.audit_ledger import LedgerRange
from consumers.audit_reading import position_in_words
from consumers.audit_report import AuditReport, CheckName
from consumers.messages import MAX_ARROW_ROWS, ReadBatch, offset_and_row
from stream_curate.counting import empty_counts
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, siphash_2_4
from stream_curate.pairs import Records, pair_ids, validate
from stream_curate.rule import Rule


@dataclass
class Outcome:
    """What came of some consecutive records of a partition.

    Attributes:
        pairs: the indices in the pool of the unique ones.
        n_forwarded: valid pairs that were not at home.
        rejected: position -> reason and SHA-256 of the original bytes.
        n_received: records whose message had been forwarded.
    """

    pairs: range
    n_duplicate: int = 0
    n_forwarded: int = 0
    rejected: dict[int, tuple[str, str]] = field(default_factory=dict)
    n_received: int = 0

    @property
    def n_read(self) -> int:
        """All the records."""
        return len(self.pairs) + self.n_duplicate + self.n_forwarded + len(self.rejected)


@dataclass(frozen=True)
class Expected:
    """What a settled version must hold, as indices in the pool.

    Attributes:
        kept: pairs that are kept for certain.
        undecided: pairs on which only the seed could decide; none if it is known.
    """

    kept: list[int]
    undecided: list[int]


@dataclass
class _Taken:
    """A range of a partition that was recounted, or that is taken at the ledger's word."""

    next: int
    n_read: int
    n_unique: int
    word: tuple[np.ndarray, np.ndarray] | None = None  # entry ids and increments, of a range beyond checking


class Recount:
    """All unique pairs of the input, as far as it was read, in the order of the partitions.

    Memory: about 210 bytes for each unique pair and 4 for each match, 8 more for each seen hash of removed input.

    Args:
        topic: of the input.
        metadata, rule: of the table; the rule's threshold is not used.
        n_partitions: P.
        seed: None when it is not known: then no keyed hash can be compared.
        forwards: which is shown all pairs.

    Attributes:
        pool: the reference's own; its pairs are in the order in which they were added.
        is_admitted: for each pair of the pool, 1 if the ledger has admitted it.
    """

    def __init__(
        self, topic: str, metadata: Metadata, rule: Rule, n_partitions: int, seed: int | None, forwards: Forwards
    ) -> None:
        self.pool = OfflinePool(metadata, rule.dedup)
        self.is_admitted = bytearray()
        self.metadata = metadata
        self._topic = topic
        self._rule = rule
        self.forwards = forwards
        self._seed = seed
        self._key = None if seed is None else seed.to_bytes(16, "little")
        self._partitions: array[int] = array("i")
        self._positions: array[int] = array("q")
        self._kept_hashes: array[int] = array("Q")
        self._is_recounted = bytearray()  # 0 for pairs of removed input, which the ledger's deltas count
        self._taken: list[list[_Taken]] = [[] for _ in range(n_partitions)]
        self._seen_before: list[set[int]] = [set() for _ in range(n_partitions)]  # of removed input

    # --- taking in the input

    def read(self, partition: int, batches: Iterable[ReadBatch], forwarded_from: Mapping[int, bytes]) -> Outcome:
        """Judge the next records of a partition, and add the unique pairs among them to the pool."""
        start = len(self.pool)
        outcome = Outcome(range(start, start))
        for batch in batches:
            offsets, rows = np.unique(batch.positions // MAX_ARROW_ROWS, return_counts=True)
            received = zip(offsets.tolist(), rows.tolist(), strict=True)
            outcome.n_received += sum(n for offset, n in received if offset in forwarded_from)
            pairs, rejections = batch.validate()
            for rejection in rejections:
                outcome.rejected[rejection.source_row] = (str(rejection.reason), rejection.sha256)
            is_home = self.forwards.take(partition, pairs, kept_hashes(pairs), forwarded_from, is_covered=True)
            outcome.n_forwarded += int(np.count_nonzero(~is_home))
            self._read_home(partition, pairs.filter(pa.array(is_home)), outcome)
        outcome.pairs = range(start, len(self.pool))
        return outcome

    def read_forwards(
        self, partition: int, batches: Iterable[ReadBatch], forwarded_from: Mapping[int, bytes], *, is_covered: bool
    ) -> None:
        """Look for forwarded pairs in the next records of a partition, and leave the rest of them alone."""
        for batch in batches:
            pairs, _ = batch.validate()
            self.forwards.take(partition, pairs, kept_hashes(pairs), forwarded_from, is_covered=is_covered)

    def close_range(self, partition: int, next_position: int, outcome: Outcome) -> None:
        """What was read last is the input of a partition up to `next_position`."""
        self._taken[partition].append(_Taken(next_position, outcome.n_read, len(outcome.pairs)))

    def take_at_its_word(self, partition: int, record: LedgerRange) -> None:
        """Take a range of removed input as the ledger tells it."""
        self._seen_before[partition].update(record.seen.tolist())
        urls, texts = (record.admitted.column(name).cast(pa.binary()) for name in ("url", "text"))
        pairs, _ = validate(Records(f"kafka:{self._topic}/{partition}", 0, urls, texts))
        rows = record.admitted.column("source_row").to_pylist()
        kept = kept_hashes(record.admitted)
        places = [(rows[index], kept[index]) for index in pairs.column("source_row").to_pylist()]
        self._add(partition, pairs, places, is_recounted=False)
        is_entry = (record.entry_ids >= 0) & (record.entry_ids < len(self.metadata))
        word = (record.entry_ids[is_entry], record.increments[is_entry])
        self._taken[partition].append(_Taken(record.next, record.n_read, record.numbers["n_unique"], word))

    def base(self, pair_id: bytes) -> int | None:
        """The keyed hash of a pair, None without the seed."""
        return None if self._key is None else siphash_2_4(self._key, pair_id)

    def _read_home(self, partition: int, pairs: pa.RecordBatch, outcome: Outcome) -> None:
        """Pairs at home: those that came in removed input are duplicates, the others are for the reference to judge."""
        n_home = len(pairs)
        before = self._seen_before[partition]
        if before and self._rule.dedup == "exact":
            is_new = [self.base(pair_id) not in before for pair_id in pairs.column("pair_id").to_pylist()]
            pairs = pairs.filter(pa.array(is_new, pa.bool_()))
        n_pool = len(self.pool)
        places = list(zip(pairs.column("source_row").to_pylist(), kept_hashes(pairs), strict=True))
        self._add(partition, pairs, places, is_recounted=True)
        outcome.n_duplicate += n_home - (len(self.pool) - n_pool)

    def _add(
        self, partition: int, pairs: pa.RecordBatch, places: Sequence[tuple[int, int]], *, is_recounted: bool
    ) -> None:
        """Valid pairs, each with its position and kept columns: those that have not come before are in the pool now."""
        n_pool = len(self.pool)
        urls, texts = (pairs.column(name).cast(pa.binary()) for name in ("url", "text"))
        self.pool.add(Records(f"kafka:{self._topic}/{partition}", 0, urls, texts))
        for index in range(n_pool, len(self.pool)):
            _, row = self.pool.where(index)
            position, kept = places[row]
            self._partitions.append(partition)
            self._positions.append(position)
            self._kept_hashes.append(kept)
            self._is_recounted.append(is_recounted)
            self.is_admitted.append(not is_recounted)

    # --- what was taken in

    def where(self, index: int) -> tuple[int, int]:
        """Partition and position of a pair of the pool."""
        return self._partitions[index], self._positions[index]

    def kept_hash(self, index: int) -> int:
        """Of the kept columns of a pair of the pool."""
        return self._kept_hashes[index]

    def in_words(self, index: int) -> str:
        """A pair of the pool: where it is, and its pair_id."""
        partition, position = self.where(index)
        return f"{position_in_words(self._topic, partition, position)}, pair {self.pool.pair_ids[index].hex()}"

    def below(self, cut: Sequence[int]) -> list[int]:
        """The indices of the pairs below a cut."""
        partitions = np.frombuffer(self._partitions, np.int32)
        is_below = np.frombuffer(self._positions, np.int64) < np.asarray(cut, np.int64)[partitions]
        return [int(index) for index in np.flatnonzero(is_below)]

    def entry_counts(self, cut: Sequence[int]) -> np.ndarray:
        """int64[n_entries]: the count of each entry below a cut as the rule's counter has it; 0 if never matched."""
        true_counts = np.zeros(len(self.metadata), np.int64)
        for index in self.below(cut):
            if self._is_recounted[index]:
                for entry_id in self.pool.matched(index):
                    true_counts[entry_id] += 1
        for partition, ranges in enumerate(self._taken):
            for taken in ranges:
                if taken.word is not None and taken.next <= cut[partition]:
                    np.add.at(true_counts, *taken.word)
        matched = np.flatnonzero(true_counts).astype(np.int32)
        counts = empty_counts(self._rule.counter, len(self.metadata))
        counts.add(matched, true_counts[matched])
        estimates = np.zeros(len(self.metadata), np.int64)
        estimates[matched] = counts.estimates(matched)
        return estimates

    def numbers(self, cut: Sequence[int]) -> tuple[int, int]:
        """n_read and n_unique below a cut that lies at ends of ranges."""
        below = [taken for p, ranges in enumerate(self._taken) for taken in ranges if taken.next <= cut[p]]
        return sum(taken.n_read for taken in below), sum(taken.n_unique for taken in below)

    def expected(self, cut: Sequence[int], entry_counts: np.ndarray, threshold: int) -> Expected:
        """What offline keeps of the pairs below a cut, with the counts at this cut."""
        below = self.below(cut)
        counts = dict(enumerate(entry_counts.tolist()))
        if self._seed is not None:
            return Expected([below[k] for k in self.pool.take(below).kept(counts, threshold, self._seed)], [])
        expected = Expected([], [])
        for index in below:
            matched = self.pool.matched(index)
            if any(counts[entry_id] <= threshold for entry_id in matched):
                expected.kept.append(index)
            elif matched:
                expected.undecided.append(index)
        return expected


def kept_hashes(pairs: pa.RecordBatch) -> list[int]:
    """A hash of the kept columns of each row, by their names: `uid`, and those that were asked for."""
    own = {"pair_id", "url", "text", "entry_ids", "source", "source_row"}
    names = sorted(set(pairs.schema.names) - own)
    if all(pairs.column(name).null_count == len(pairs) for name in names):
        return [_hash([None] * len(names))] * len(pairs)
    rows = zip(*(pairs.column(name).to_pylist() for name in names), strict=True)
    return [_hash(list(row)) for row in rows]


def _hash(values: list[str | None]) -> int:
    return xxhash.xxh3_64_intdigest(orjson.dumps(values))


def compare_range(report: AuditReport, recount: Recount, record: LedgerRange, outcome: Outcome, topic: str) -> None:
    """Hold what the ledger says of a range against what its input is, pair by pair."""
    report.compare(CheckName.RECOUNT, outcome.n_read)
    pool = recount.pool
    matches = [pool.matched(index) for index in outcome.pairs]
    increments = Multiset(entry_id for matched in matches for entry_id in matched)
    for name, n in (
        ("n_unique", len(outcome.pairs)),
        ("n_duplicate", outcome.n_duplicate),
        ("n_forwarded", outcome.n_forwarded),
        ("n_matched", sum(len(matched) > 0 for matched in matches)),
        ("n_matches", increments.total()),
    ):
        report.expect(CheckName.RECOUNT, record.numbers[name], n, f"{_of(record, topic)}: {name} is")
    report.expect(CheckName.RECOUNT, record.n_received, outcome.n_received, f"{_of(record, topic)}: n_received is")
    rejected = Multiset(reason for reason, _ in outcome.rejected.values())
    for reason in sorted(set(rejected) | set(record.rejected)):
        found = record.rejected.get(reason, 0)
        report.expect(CheckName.RECOUNT, found, rejected[reason], f"{_of(record, topic)}: rejected as {reason}:")
    deltas = Multiset(dict(zip(record.entry_ids.tolist(), record.increments.tolist(), strict=False)))
    for entry_id in sorted(set(deltas) | set(increments)):
        if deltas[entry_id] != increments[entry_id]:
            words = f"{_of(record, topic)}: the delta of entry {entry_id} is"
            report.expect(CheckName.RECOUNT, deltas[entry_id], increments[entry_id], words)
    _compare_seen(report, recount, record, outcome, topic)
    _compare_admitted(report, recount, record, outcome, topic)


def _compare_seen(report: AuditReport, recount: Recount, record: LedgerRange, outcome: Outcome, topic: str) -> None:
    if recount.pool.dedup == "none" or recount.base(bytes(16)) is None:
        return
    expected = {recount.base(recount.pool.pair_ids[index]): index for index in outcome.pairs}
    report.compare(CheckName.SEEN, len(expected))
    found = set(record.seen.tolist())
    for base, index in expected.items():
        if base not in found:
            report.differ(CheckName.SEEN, f"{record.where}: the keyed hash of {recount.in_words(index)} is missing")
    for base in found - set(expected):
        report.differ(CheckName.SEEN, f"{_of(record, topic)}: the keyed hash {base:016x} is of no pair of the range")


def _compare_admitted(report: AuditReport, recount: Recount, record: LedgerRange, outcome: Outcome, topic: str) -> None:
    """Each admitted pair must be one of the unique pairs of the range, in all its columns."""
    by_position = {recount.where(index)[1]: index for index in outcome.pairs}
    admitted = record.admitted
    report.compare(CheckName.ADMITTED, len(admitted))
    own_ids = pair_ids(*(admitted.column(name).cast(pa.binary()) for name in ("url", "text"))).to_pylist()
    columns = [admitted.column(name).to_pylist() for name in ("source_row", "pair_id", "entry_ids")]
    for position, pair_id, entry_ids, own_id, kept in zip(*columns, own_ids, kept_hashes(admitted), strict=True):
        words = f"{record.where}: the pair {pair_id.hex()} admitted from"
        index = by_position.get(position)
        if index is None or recount.pool.pair_ids[index] != pair_id:
            where = position_in_words(topic, record.partition, position)
            report.differ(CheckName.ADMITTED, f"{words} {where} is no unique pair that stands there")
            continue
        recount.is_admitted[index] = 1
        words = f"{words} {position_in_words(topic, record.partition, position)}"
        matched = list(recount.pool.matched(index))
        if own_id != pair_id:
            report.differ(CheckName.ADMITTED, f"{words} has another url or text than its message")
        if entry_ids != matched:
            report.differ(CheckName.ADMITTED, f"{words} has entry_ids {entry_ids}, where it matches {matched}")
        if not matched:
            report.differ(CheckName.ADMITTED, f"{words} matches nothing, and is never kept")
        if kept != recount.kept_hash(index):
            report.differ(CheckName.ADMITTED, f"{words} has other kept columns than its message")


def _of(record: LedgerRange, topic: str) -> str:
    """A record of the ledger, with the range it tells of."""
    first, next_ = offset_and_row(record.first), offset_and_row(record.next)
    return (
        f"{record.where} ({topic} from offset {first[0]}, row {first[1]} to offset {next_[0]}, row {next_[1]}; "
        f"positions [{record.first}, {record.next}))"
    )
