"""A curator whose decisions are final."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import structlog

from stream_curate.counting import Counter, Counts, CountsAndCoins
from stream_curate.curator import Curator, MatchedPairs, MatcherName, Tally
from stream_curate.draws import bases
from stream_curate.final_rule import FinalDecisions, decide
from stream_curate.metadata import Metadata
from stream_curate.rule import Dedup, Rule
from stream_curate.seen import ExactSeen, NothingSeen, Seen

log = structlog.get_logger()


class FinalCurator(Curator):
    """Accepts or drops each pair once, as it comes, so that the accepted ones follow offline MetaCLIP's distribution.

    What `observe` returns is accepted for good: there is nothing to settle. It depends on the order of the pairs, and
    on nothing else: not on how they were cut into batches. The rule is that of `final_rule`.

    Args:
        metadata: the entries.
        final: the size of the pool that the threshold belongs to, and whether it ends there.
        threshold: t, the number of pairs near which each entry is capped in such a pool; at least 1.
        seed: of the draws, 0 <= seed < 2^128. Keep it secret in production.
        dedup: `exact` drops a pair that came before; `none` decides on it again, and gives it out once at most.
        matcher: `trie`, or the slower `automaton` that finds the same.

    Raises:
        ConfigError: for a setting out of range.

    >>> from stream_curate import FinalDecisions, Metadata, make_pairs
    >>> curator = FinalCurator(Metadata.from_entries(["dog", "cat"]), FinalDecisions(pool_size=1000), threshold=1)
    >>> batch = make_pairs(["http://x.org/1", "http://x.org/2"], ["a dog", "a bird"])
    >>> curator.observe(batch).column("text").to_pylist()
    ['a dog']
    """

    counts: CountsAndCoins

    def __init__(
        self,
        metadata: Metadata,
        final: FinalDecisions,
        *,
        threshold: int = 20_000,
        seed: int = 0,
        dedup: Dedup = "exact",
        matcher: MatcherName = "trie",
    ) -> None:
        exact = Counter("exact")
        super().__init__(metadata, threshold=threshold, seed=seed, counter=exact, dedup=dedup, matcher=matcher)
        self.rule = Rule.of(metadata, threshold=threshold, seed=seed, counter=exact, dedup=dedup, final=final)
        self.counts = CountsAndCoins(len(metadata))
        self._final = final
        self._given_out: Seen = ExactSeen() if dedup == "none" else NothingSeen()

    def admit(self, matched: MatchedPairs) -> pa.RecordBatch:
        """Decide on a batch, and return what is accepted of it; batch after batch in the order of `drop_seen`."""
        n_before = self.tally.n_unique
        with self.clock.stage("decide"):
            accepted, _ = decide(
                matched.new.base,
                matched.matches,
                self._keys,
                self.counts.counts,
                self.counts.coins,
                n_before,
                self.rule.threshold,
                self._final,
            )
            rows = np.flatnonzero(accepted)
            accepted[rows[~self._given_out.add(matched.new.base[rows])]] = False
        batch = self._let_in(matched, accepted)
        warn_beyond_pool(self._final, n_before, self.tally.n_unique)
        return batch

    def entry_counts(self) -> np.ndarray:
        return self.counts.counts.copy()

    def resume(self, counts: Counts, tally: Tally) -> None:
        if not isinstance(counts, CountsAndCoins):
            raise ValueError("final decisions go on with counts and coins alone")
        self.counts = counts
        self.tally = tally

    def remember_given_out(self, pair_ids: pa.FixedSizeBinaryArray) -> None:
        """Give out these pairs no more, which an earlier curator accepted; only needed under `dedup: none`."""
        self._given_out.add(bases(pair_ids, self.seed))

    def lower_threshold(self, threshold: int) -> None:
        """Raises ValueError: the pairs accepted so far stay, whatever the threshold."""
        raise ValueError("the threshold of final decisions stays as it is")

    def still_kept(self, admitted: pa.RecordBatch, entry_counts: np.ndarray | None = None) -> np.ndarray:
        """All of them: bool[n]."""
        return np.ones(len(admitted), np.bool_)


def warn_beyond_pool(final: FinalDecisions, n_before: int, n_unique: int) -> None:
    """Warn once, when the number of pairs grows beyond a pool size that was said to be known."""
    if final.horizon == "known" and n_before <= final.pool_size < n_unique:
        log.warning(
            "there are more pairs than the pool size says: going on in proportion, as with more than t pairs for "
            "each entry. For a stream without a known end the horizon endless is meant",
            pool_size=final.pool_size,
        )
