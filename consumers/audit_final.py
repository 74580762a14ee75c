"""Final decisions as an audit looks at them: made again, pair by pair, and held against what others were told.

Each record of the ledger names the cut of its view, and all that lies below a cut stands in the ledger too: so what the
view knew can be added up again, and the rule that `stream_curate.final_rule` tells in words be applied to it here, by
code of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from consumers.audit_ledger import LedgerRange
from consumers.audit_recount import Recount
from consumers.audit_report import AuditReport, CheckName
from stream_curate.final_rule import FinalDecisions
from stream_curate.offline import draw

_CONSTANTS = {"known": (1.0, 0.0, 0.15), "endless": (0.0, 1.0, 1.0)}


@dataclass(frozen=True)
class _Record:
    """Of a record of the ledger what its own decisions, and later ones, come from.

    `pairs` are the indices in the pool of the unique ones; None of a range that is taken at its word.
    """

    where: str
    first: int
    next: int
    view_cut: tuple[int, ...]
    n_unique: int
    entry_ids: np.ndarray
    increments: np.ndarray
    coins: np.ndarray
    accepted: list[bytes]
    pairs: range | None


@dataclass
class Sums:
    """What some records of the ledger come to.

    Attributes:
        counts: int64[n_entries].
        coins: int64[n_entries].
        n_unique: pairs.
    """

    counts: np.ndarray
    coins: np.ndarray
    n_unique: int = 0

    def copy(self) -> Sums:
        return Sums(self.counts.copy(), self.coins.copy(), self.n_unique)

    def add(self, record: _Record) -> None:
        np.add.at(self.counts, record.entry_ids, record.increments)
        np.add.at(self.coins, record.entry_ids, record.coins)
        self.n_unique += record.n_unique


class FinalRecount:
    """All that was accepted, and why.

    Memory: 20 bytes for each distinct entry of each record, and some 60 for each accepted pair.

    Args:
        recount: of the input.
        n_partitions: P.
        threshold: t.
        final: what it belongs to.
    """

    def __init__(self, recount: Recount, n_partitions: int, threshold: int, final: FinalDecisions) -> None:
        self._recount = recount
        self._threshold = threshold
        self._final = final
        self._records: list[list[_Record]] = [[] for _ in range(n_partitions)]

    def take(self, partition: int, record: LedgerRange, pairs: range | None) -> None:
        """Take in the next record of a partition, with the pairs that were found in its range."""
        is_entry = (record.entry_ids >= 0) & (record.entry_ids < len(self._recount.metadata))
        self._records[partition].append(
            _Record(
                record.where,
                record.first,
                record.next,
                record.view_cut,
                record.numbers["n_unique"],
                record.entry_ids[is_entry],
                record.increments[is_entry],
                record.coins[is_entry],
                record.admitted.column("pair_id").to_pylist(),
                pairs,
            )
        )

    def accepted(self, partition: int) -> list[bytes]:
        """The pair_ids that the ledger has accepted, in their order."""
        return [pair_id for record in self._records[partition] for pair_id in record.accepted]

    def below(self, cut: Sequence[int]) -> Sums:
        """The sums at a cut."""
        n_entries = len(self._recount.metadata)
        sums = Sums(np.zeros(n_entries, np.int64), np.zeros(n_entries, np.int64))
        for at, records in zip(cut, self._records, strict=True):
            for record in records:
                if record.next <= at:
                    sums.add(record)
        return sums

    def compare(self, report: AuditReport) -> None:
        """Make all decisions again; nothing without the seed."""
        if self._recount.base(bytes(16)) is None:
            return
        n_partitions = len(self._records)
        for cut in sorted({record.view_cut for records in self._records for record in records}):
            if len(cut) != n_partitions:
                continue  # told of elsewhere
            below = self.below(cut)
            for partition, records in enumerate(self._records):
                if any(record.view_cut == cut for record in records):
                    self._compare_partition(report, records, cut, below.copy(), cut[partition])

    def _compare_partition(
        self, report: AuditReport, records: Sequence[_Record], cut: tuple[int, ...], sums: Sums, begin: int
    ) -> None:
        """The records with this view cut; `sums` is what lies below it, and the partition's own cut is `begin`."""
        given_out: set[bytes] = set()
        for record in records:
            if record.view_cut == cut and record.pairs is not None:
                self._compare_record(report, record, sums, given_out)
            # as the ledger has it, so that one difference is told once
            if record.first >= begin:
                sums.add(record)
            given_out.update(record.accepted)

    def _compare_record(self, report: AuditReport, record: _Record, sums: Sums, given_out: set[bytes]) -> None:
        pairs = record.pairs if record.pairs is not None else range(0)
        report.compare(CheckName.DECISIONS, len(pairs))
        coins: dict[int, int] = {}
        here: dict[bytes, int] = {}
        wanted: set[bytes] = set()
        for index, won in zip(pairs, self._coins_won(pairs, sums), strict=True):
            for entry_id in won:
                coins[entry_id] = coins.get(entry_id, 0) + 1
            pair_id = self._recount.pool.pair_ids[index]
            here.setdefault(pair_id, index)
            if won and pair_id not in given_out:
                wanted.add(pair_id)
        found = set(record.accepted)
        for pair_id, index in here.items():
            if (pair_id in wanted) != (pair_id in found):
                has, should = ("dropped", "accepts") if pair_id in wanted else ("accepted", "drops")
                report.differ(
                    CheckName.DECISIONS,
                    f"{record.where}: {self._recount.in_words(index)} was {has}, and with what its view knew the rule "
                    f"{should} it",
                )
        in_ledger = dict(zip(record.entry_ids.tolist(), record.coins.tolist(), strict=True))
        for entry_id in sorted(set(in_ledger) | set(coins)):
            words = f"{record.where}: the coins won by entry {entry_id} are"
            report.expect(CheckName.DECISIONS, in_ledger.get(entry_id, 0), coins.get(entry_id, 0), words)

    def _coins_won(self, pairs: range, sums: Sums) -> Iterator[list[int]]:
        """Of each pair the entries that win a coin by it; the rule accepts it if there are any."""
        pool, metadata = self._recount.pool, self._recount.metadata
        z, a, beta = _CONSTANTS[self._final.horizon]
        pool_size = float(self._final.pool_size)
        n, counts, coins = float(sums.n_unique), dict[int, int](), dict[int, int]()
        for index in pairs:
            base = self._recount.base(pool.pair_ids[index]) or 0
            end = max(pool_size, n * (1.0 + beta) + 1.0)
            goal = self._threshold * end / pool_size
            won = []
            matched = list(pool.matched(index))
            for entry_id in matched:
                count = int(sums.counts[entry_id]) + counts.get(entry_id, 0)
                sure = max(0.0, count - a - z * math.sqrt(count))
                to_come = 1.0 + (end - n - 1.0) * (sure / n) if n else 1.0
                left = goal - (int(sums.coins[entry_id]) + coins.get(entry_id, 0))
                if draw(base, metadata.entry(entry_id)) < left / to_come:
                    won.append(entry_id)
            for entry_id in won:
                coins[entry_id] = coins.get(entry_id, 0) + 1
            for entry_id in matched:
                counts[entry_id] = counts.get(entry_id, 0) + 1
            n += 1.0
            yield won


def compare_topic(
    report: AuditReport,
    place: str,
    accepted: Sequence[bytes],
    n_at_least: int,
    read: Sequence[bytes],
    n_at_most: int,
    *,
    begins_at: int,
) -> None:
    """Hold what stands in a partition of the topic of accepted pairs against the ledger.

    Args:
        report: where differences go.
        place: the partition, in words.
        accepted: pair_ids, in the order of the ledger.
        n_at_least: how many of them must stand in the topic: those of records that were there before it was read.
        read: pair_ids, in the order of the topic.
        n_at_most: how many of these must stand in the ledger: those that were there before it was read.
        begins_at: the first offset that the topic still has.
    """
    report.compare(CheckName.ACCEPTED, len(read))
    n_gone = 0
    if begins_at > 0:
        n_gone = accepted.index(read[0]) if read and read[0] in accepted else (0 if read else len(accepted))
        report.beyond_checking.append(f"{place}: {n_gone:,} accepted pairs that retention has removed")
    n_both = min(len(accepted) - n_gone, len(read))
    for k in range(n_both):
        if read[k] != accepted[n_gone + k]:
            report.differ(
                CheckName.ACCEPTED,
                f"{place}: pair {k:,} is {read[k].hex()}, where the ledger has accepted {accepted[n_gone + k].hex()}",
            )
            return
    for pair_id in read[n_both:n_at_most]:
        report.differ(CheckName.ACCEPTED, f"{place}: the pair {pair_id.hex()} is one more than the ledger has accepted")
    for pair_id in accepted[n_gone + n_both : n_at_least]:
        report.differ(CheckName.ACCEPTED, f"{place}: the accepted pair {pair_id.hex()} is missing")
