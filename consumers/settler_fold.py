"""What the settler has made of the ledger so far: the counts and numbers, and the curated table with the pairs.

It is all in the state of the table's checkpoints, and so is where the ledger goes on: in doubt it is thrown away, and
opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog

from consumers.ledger import NO_COINS, RuleHeader
from consumers.messages import offset_and_row
from consumers.published_counts import PublishedCounts
from consumers.settings import TopicNames
from consumers.settler_ledger import Commit, LedgerPosition
from stream_curate.checked_file import DamagedFile
from stream_curate.counting import Counts, CountsAndCoins, empty_counts
from stream_curate.errors import OutputError
from stream_curate.failpoints import reach
from stream_curate.final_curator import warn_beyond_pool
from stream_curate.settling import SettlingOutlook
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import FROM_KAFKA
from stream_curate.table.state import (
    Settled,
    SourcePosition,
    State,
    counts_path,
    read_counts,
    settled_counts_path,
)

log = structlog.get_logger()


@dataclass(frozen=True)
class FoldingRule:
    """By what the settler settles: the header of its settings, their seed, and the keys of the entries."""

    header: RuleHeader
    seed: int
    entry_keys: np.ndarray


class Fold:
    """The ledger folded up to the ends of some commits, its *frontier*.

    Args:
        table: opened; it is closed with this.
        topics: the names that its sources have.
        rule: of the settings.
        published: the counts that were published when the settler started.

    Attributes:
        numbers: what became of all records below the frontier.
        n_received: how many of these records had been forwarded.
        threshold: t, the lowest in the settings, the table, and every record below the frontier.

    Raises:
        OutputError: from `fold`, `checkpoint` and `settle`; the table is then broken.
    """

    def __init__(
        self, table: CuratedTable, topics: TopicNames, rule: FoldingRule, published: PublishedCounts | None
    ) -> None:
        state = table.state
        self.table = table
        self.numbers = replace(state.numbers, rejected=dict(state.numbers.rejected))
        self.n_received = state.n_received
        self.threshold = min(rule.header.rule.threshold, state.rule.threshold)
        self._rule = rule
        partitions = range(rule.header.n_partitions)
        self._pairs = [f"kafka:{topics.pairs}/{partition}" for partition in partitions]
        self._ledger = [f"kafka:{topics.ledger}/{partition}" for partition in partitions]
        self._all_ids = np.arange(len(rule.entry_keys), dtype=np.int32)
        folded = {source.uri: source.n_rows for source in state.sources}
        self._positions = [
            LedgerPosition(folded.get(ledger, 0), folded.get(pairs, 0))
            for ledger, pairs in zip(self._ledger, self._pairs, strict=True)
        ]
        # no cut below one that pairs were decided with: those below the frontier with these or older ones
        self._needed = [0] * len(partitions)
        if published is not None:
            self._need(published.cut)
        if state.settled is not None:
            self._need(self._cut_of(state.settled))
        self._counts = self._restore_counts()
        self._last_settled: tuple[tuple[int, ...], int] | None = None  # cut and n_read; of final decisions
        if rule.header.rule.final is None:
            table.expect = lambda: self._outlook(self._counts.estimates(self._all_ids))

    @property
    def positions(self) -> list[LedgerPosition]:
        """Of each partition, where to read on."""
        return list(self._positions)

    @property
    def frontier(self) -> tuple[int, ...]:
        """Of each partition, the position of `pairs` up to which it is folded."""
        return tuple(position.position for position in self._positions)

    @property
    def is_settled(self) -> bool:
        """Whether the table's last settled version is that of this frontier and t.

        Where decisions are final: whether `settle` was called at this frontier.
        """
        if self._rule.header.rule.final is not None:
            return self._last_settled is not None and self._last_settled[0] == self.frontier
        settled = self.table.state.settled
        if settled is None:
            return False
        return self._cut_of(settled) == self.frontier and settled.threshold == self.threshold

    @property
    def may_settle(self) -> bool:
        """Whether no pair below the frontier was decided with counts of beyond it, nor were such counts published."""
        return all(at >= needed for at, needed in zip(self.frontier, self._needed, strict=True))

    def beyond_words(self) -> str:
        """Where something was decided with counts of beyond the frontier."""
        ahead = [
            f"partition {partition} is folded up to offset {offset_and_row(at)[0]} and the counts to "
            f"{offset_and_row(needed)[0]}"
            for partition, (at, needed) in enumerate(zip(self.frontier, self._needed, strict=True))
            if at < needed
        ]
        return ", ".join(ahead)

    @property
    def n_read_at_settle(self) -> int:
        """Records below the cut of the last settled version; where decisions are final, at the last `settle`."""
        if self._rule.header.rule.final is not None:
            return self._last_settled[1] if self._last_settled is not None else 0
        settled = self.table.state.settled
        return settled.n_read if settled is not None else 0

    def fold(self, commit: Commit) -> None:
        """Take in a commit, the next of its partition."""
        reach("fold.begin")
        n_unique = self.numbers.n_unique
        for record in commit.records:
            if len(record.entry_ids):
                self._counts.add(record.entry_ids, record.increments)
            if isinstance(self._counts, CountsAndCoins):
                self._counts.coins[record.entry_ids] += record.coins
            if len(record.admitted):
                source = pa.repeat(self._pairs[commit.partition], len(record.admitted))
                self.table.append(record.admitted.append_column("source", source))
            self.numbers.add(record.numbers)
            self.n_received += record.n_received
            self.threshold = min(self.threshold, record.header.rule.threshold)
            self._need(record.view_cut)
        self._positions[commit.partition] = commit.after
        if self._rule.header.rule.final is not None:
            warn_beyond_pool(self._rule.header.rule.final, n_unique, self.numbers.n_unique)
        reach("fold.commit_folded")

    def checkpoint(self) -> None:
        """Commit to the table what was folded since the last time, if anything was."""
        state = self._state()
        if state.sources != self.table.state.sources or state.rule != self.table.state.rule:
            self.table.checkpoint(state, self._counts.to_bytes)

    def settle(self) -> None:
        """Take the table down to the offline subset of all below the frontier. Only when `may_settle`.

        Where decisions are final it has that already: then this is a checkpoint, the counts of which can be published.
        """
        if not self.may_settle:
            raise RuntimeError("a settle below a cut that pairs were decided with")
        self.checkpoint()
        if self._rule.header.rule.final is not None:
            self._last_settled = self.frontier, self.numbers.n_read
            self._need(self.frontier)
            return
        entry_counts = self._counts.estimates(self._all_ids)
        self.table.settle(self._outlook(entry_counts), entry_counts, self._counts.to_bytes)
        self.numbers.n_evicted = self.table.state.numbers.n_evicted
        self._need(self.frontier)
        pa.default_memory_pool().release_unused()

    def to_publish(self, published: PublishedCounts | None) -> PublishedCounts | None:
        """The counts of the table's last settled version; None if these, or later ones, are published.

        What is published is read back from the table: the cut is one that a commit of the table holds.
        """
        settled = self.table.state.settled
        if settled is None:
            return None
        cut = self._cut_of(settled)
        if not any(cut):
            return None  # nothing is known, and a mistake in the settings not either
        if published is not None:
            if any(at < known for at, known in zip(cut, published.cut, strict=True)):
                return None
            if cut == published.cut and settled.threshold >= published.header.rule.threshold:
                return None
        try:
            entry_counts, entry_coins = self.counts_at(settled)
        except DamagedFile as error:
            log.warning(
                "the counts of the last settled version cannot be read; the next are published", error=str(error)
            )
            return None
        return PublishedCounts(
            self._rule.header.replace_threshold(settled.threshold), cut, settled.n_unique, entry_counts, entry_coins
        )

    def counts_at(self, settled: Settled) -> tuple[np.ndarray, np.ndarray]:
        """The counts at the cut of the table's last settled version, and the coins: both int64[n_entries].

        Raises:
            DamagedFile: when they cannot be read.
        """
        if self._rule.header.rule.final is None:
            return self.table.entry_counts_at(settled), NO_COINS
        data = read_counts(self.table.folder.own, settled.checkpoint, settled.writer)
        try:
            counts = CountsAndCoins.from_bytes(data, len(self._rule.entry_keys))
        except ValueError as error:
            raise DamagedFile(str(error)) from error
        return counts.counts, counts.coins

    def counts_path(self, settled: Settled) -> Path:
        """The file that `counts_at` reads."""
        path = settled_counts_path if self._rule.header.rule.final is None else counts_path
        return path(self.table.folder.own, settled.checkpoint, settled.writer)

    def close(self) -> None:
        """Let go of the table. What came after the last checkpoint is forgotten, to be folded again."""
        self.table.close()

    def _need(self, cut: Sequence[int]) -> None:
        self._needed = [max(each) for each in zip(self._needed, cut, strict=True)]

    def _cut_of(self, settled: Settled) -> tuple[int, ...]:
        return tuple(settled.cut.get(uri, 0) for uri in self._pairs)

    def _outlook(self, entry_counts: np.ndarray) -> SettlingOutlook:
        rule = replace(self._rule.header.rule, threshold=self.threshold)
        return SettlingOutlook(rule, self._rule.seed, self._rule.entry_keys, entry_counts)

    def _state(self) -> State:
        known = self.table.state
        ends = zip(self._pairs, self._ledger, self._positions, strict=True)
        sources = [
            source
            for pairs, ledger, position in ends
            for source in (
                SourcePosition(pairs, None, n_rows=position.position),
                SourcePosition(ledger, None, n_rows=position.offset),
            )
        ]
        return replace(
            known,
            rule=replace(self._rule.header.rule, threshold=self.threshold),
            numbers=replace(self.numbers, rejected=dict(self.numbers.rejected)),
            sources=sources,
            n_received=self.n_received,
        )

    def _restore_counts(self) -> Counts:
        rule, n_entries = self._rule.header.rule, len(self._rule.entry_keys)
        data = self.table.take_counts()
        if data is None:
            return empty_counts(rule.counter, n_entries) if rule.final is None else CountsAndCoins(n_entries)
        try:
            return rule.load_counts(n_entries, data)
        except ValueError as error:
            raise OutputError(f"{self.table.folder.root}: the saved counts cannot be used: {error}") from error


def origin_of(topics: TopicNames, n_partitions: int) -> str:
    """What feeds a table: see `Identity.origin`."""
    return f"{FROM_KAFKA}{topics.pairs},{topics.ledger}/{n_partitions}"
