"""The way of a batch through the rule: this module is the library's table of contents.

pairs -> identify -> known pairs out -> match -> count -> decide -> admitted pairs
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from stream_curate.balance import keep
from stream_curate.counting import Counter, CounterKind, Counts, empty_counts, increments_of
from stream_curate.draws import bases
from stream_curate.errors import ConfigError
from stream_curate.matching import Matcher, Matches, make_matcher
from stream_curate.metadata import Metadata
from stream_curate.pairs import PAIR_ID
from stream_curate.rule import Dedup, Rule
from stream_curate.seen import ExactSeen, NothingSeen, Seen
from stream_curate.stages import StageClock

MatcherName = Literal["trie", "automaton"]

ENTRY_IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))


@dataclass
class Tally:
    """How many valid pairs ended in which way. `n_unique` counts records under `dedup: none`."""

    n_unique: int = 0
    n_duplicate: int = 0
    n_matched: int = 0
    n_admitted: int = 0


@dataclass(frozen=True)
class NewPairs:
    """What is left of a batch without the pairs that came before.

    Attributes:
        pairs: n rows.
        base: uint64[n], their keyed hashes: what has to be remembered to know them again.
        n_duplicate: how many others there were.
    """

    pairs: pa.RecordBatch
    base: np.ndarray
    n_duplicate: int


@dataclass(frozen=True)
class MatchedPairs:
    """New pairs, and the entries that each of them matches."""

    new: NewPairs
    matches: Matches


class Curator:
    """Decides, batch by batch, which pairs to admit.

    What `observe` admits is, over all batches so far, a superset of what offline MetaCLIP keeps of the same pairs;
    `still_kept` takes it down to exactly that. Neither depends on the order of the pairs nor on how they were cut into
    batches. Source: MetaCLIP, arXiv 2309.16671, section 3.

    Args:
        metadata: the entries.
        threshold: t, the number of pairs near which each entry is capped; at least 1.
        seed: of the draws, 0 <= seed < 2^128. Keep it secret in production.
        counter: `count-min`, `exact`, or a `Counter` with sizes of your own.
        dedup: `exact` drops a pair that came before; `none` counts it again.
        matcher: `trie`, or the slower `automaton` that finds the same.

    Raises:
        ConfigError: for a setting out of range.

    >>> from stream_curate import Metadata, make_pairs
    >>> curator = Curator(Metadata.from_entries(["dog", "cat"]), threshold=1, seed=7)
    >>> batch = make_pairs(["http://x.org/1", "http://x.org/2"], ["a dog", "a bird"])
    >>> curator.observe(batch).column("text").to_pylist()
    ['a dog']
    """

    def __init__(
        self,
        metadata: Metadata,
        *,
        threshold: int = 20_000,
        seed: int = 0,
        counter: Counter | CounterKind = "count-min",
        dedup: Dedup = "exact",
        matcher: MatcherName = "trie",
    ) -> None:
        if not isinstance(counter, Counter):
            counter = Counter(counter)
        self.metadata = metadata
        self.rule = Rule.of(metadata, threshold=threshold, seed=seed, counter=counter, dedup=dedup)
        self.counts: Counts = empty_counts(counter, len(metadata))
        self.seen: Seen = ExactSeen() if dedup == "exact" else NothingSeen()
        self.tally = Tally()
        self.clock = StageClock()
        self.seed = seed
        try:
            self._matcher: Matcher = make_matcher(matcher, metadata.entries)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._keys = metadata.keys  # made here, not with the first batch
        # int64[n_entries], never above the count of now, so that deciding with it admits a superset
        self.known_counts = np.zeros(len(metadata), np.int64)
        self._scratch = np.zeros(len(metadata), np.int64)

    def observe(self, pairs: pa.RecordBatch) -> pa.RecordBatch:
        """Count the pairs of one batch; return those that are admitted.

        It is `identify`, `drop_seen`, `match` and `admit`, one after the other.

        Args:
            pairs: valid pairs, in the columns of `pairs.pair_schema`.

        Returns:
            The admitted pairs in their order, with `entry_ids` (list of int32, ascending) as one more column.
        """
        return self.admit(self.match(self.drop_seen(pairs, self.identify(pairs))))

    def identify(self, pairs: pa.RecordBatch) -> np.ndarray:
        """The keyed hash of each pair: uint64[n]. Threads may do so for several batches at the same time."""
        with self.clock.stage("hash"):
            return bases(pairs.column("pair_id"), self.seed)

    def drop_seen(self, pairs: pa.RecordBatch, base: np.ndarray) -> NewPairs:
        """Those of a batch that have not come before; batch after batch in the order of the stream."""
        with self.clock.stage("seen"):
            is_new = self.seen.add(base)
            n_duplicate = len(base) - int(np.count_nonzero(is_new))
            if n_duplicate:
                pairs, base = pairs.filter(pa.array(is_new)), base[is_new]
        return NewPairs(pairs, base, n_duplicate)

    def match(self, new: NewPairs) -> MatchedPairs:
        """What the new pairs of a batch match. Threads may match several batches at the same time."""
        with self.clock.stage("match"):
            return MatchedPairs(new, self._matcher.match(new.pairs.column("text")))

    def admit(self, matched: MatchedPairs) -> pa.RecordBatch:
        """Count a batch, and return what is admitted of it; batch after batch in the order of `drop_seen`."""
        new, matches = matched.new, matched.matches
        with self.clock.stage("count"):
            self._count(matches)
        with self.clock.stage("decide"):
            admitted = keep(new.base, matches, self._keys, self.known_counts, self.rule.threshold)
        return self._let_in(matched, admitted)

    def _let_in(self, matched: MatchedPairs, admitted: np.ndarray) -> pa.RecordBatch:
        """Tally a batch that was decided on; the pairs that were let in, bool[n] saying which."""
        new, matches = matched.new, matched.matches
        self.tally.n_unique += len(new.base)
        self.tally.n_duplicate += new.n_duplicate
        self.tally.n_matched += int(np.count_nonzero(np.diff(matches.offsets)))
        self.tally.n_admitted += int(np.count_nonzero(admitted))
        with self.clock.stage("write"):
            return with_entry_ids(new.pairs, matches).filter(pa.array(admitted))

    def lower_threshold(self, threshold: int) -> None:
        """Take a lower t from here on. Raising it would need pairs that were already dropped.

        Raises:
            ValueError: when `threshold` is above the present one, or below 1.
        """
        if not 1 <= threshold <= self.rule.threshold:
            raise ValueError(f"the threshold can only be lowered from {self.rule.threshold}, not set to {threshold}")
        self.rule = replace(self.rule, threshold=threshold)

    def entry_counts(self) -> np.ndarray:
        """int64[n_entries]: the count of every entry now, as the rule uses it; 0 for those that were never matched."""
        matched = np.flatnonzero(self.known_counts).astype(np.int32)
        entry_counts = np.zeros(len(self.metadata), np.int64)
        entry_counts[matched] = self.counts.estimates(matched)
        return entry_counts

    def resume(self, counts: Counts, tally: Tally) -> None:
        """Go on with what an earlier curator of the same rule had counted; its seen pairs are added to `seen`."""
        self.counts = counts
        self.tally = tally
        self.known_counts = counts.estimates(np.arange(len(self.metadata), dtype=np.int32))

    def still_kept(self, admitted: pa.RecordBatch, entry_counts: np.ndarray | None = None) -> np.ndarray:
        """Which admitted pairs the rule keeps at the counts of now: bool[n].

        Args:
            admitted: columns `pair_id` and `entry_ids`, as `observe` returned them.
            entry_counts: what `entry_counts()` gives, to save calling it for each batch.
        """
        if entry_counts is None:
            entry_counts = self.entry_counts()
        base = bases(admitted.column("pair_id").cast(PAIR_ID), self.seed)
        return keep(base, matches_of(admitted), self._keys, entry_counts, self.rule.threshold)

    def settle(self, admitted: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Exactly the pairs that offline MetaCLIP keeps of all that was observed.

        Args:
            admitted: everything that `observe` returned so far (or an earlier `settle`, and `observe` since).
        """
        entry_counts = self.entry_counts()
        return [batch.filter(pa.array(self.still_kept(batch, entry_counts))) for batch in admitted]

    def _count(self, matches: Matches) -> None:
        entry_ids, increments = increments_of(matches, self._scratch)
        self.known_counts[entry_ids] = self.counts.add(entry_ids, increments)


def matches_of(admitted: pa.RecordBatch) -> Matches:
    """The matched entry ids that stand in the `entry_ids` column."""
    lists = admitted.column("entry_ids")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Matches(offsets - offsets[0], lists.flatten().to_numpy(zero_copy_only=False))


def with_entry_ids(pairs: pa.RecordBatch, matches: Matches) -> pa.RecordBatch:
    """The pairs with their matched entry ids as one more column."""
    lists = pa.ListArray.from_arrays(
        pa.array(matches.offsets.astype(np.int32)), pa.array(matches.entry_ids), type=ENTRY_IDS
    )
    return pairs.append_column(pa.field("entry_ids", ENTRY_IDS, nullable=False), lists)
