"""How likely a pair is kept, over all seeds: what may be told of any pair, as it says nothing of its draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_curate.balance import keep_probability
from stream_curate.final_rule import FinalDecisions, accept_probabilities


@dataclass(frozen=True)
class Chances:
    """Of provisional decisions, to be kept when the table is settled at these counts.

    Attributes:
        entry_counts: int64[n_entries].
        threshold: t.
    """

    entry_counts: np.ndarray
    threshold: int

    @property
    def tail_count(self) -> int:
        """Up to so many matches an entry is in the tail, whose pairs are all kept."""
        return self.threshold

    def of_entries(self, entry_ids: np.ndarray) -> np.ndarray:
        """The probability that each of these entries by itself keeps a pair that matches it: float64[n]."""
        chances: np.ndarray = np.minimum(1.0, self.threshold / np.maximum(self.entry_counts[entry_ids], 1))
        return chances

    def of_pair(self, entry_ids: np.ndarray) -> float:
        """The probability that a pair is kept that matches these entries."""
        return keep_probability(self.entry_counts[entry_ids], self.threshold)


@dataclass(frozen=True)
class FinalChances(Chances):
    """Of final decisions, to be accepted if it came next.

    Attributes:
        entry_counts: int64[n_entries], of all pairs decided so far.
        threshold: t.
        coins: int64[n_entries], the coins won by each.
        n_decided: pairs decided so far.
        final: what the threshold belongs to.
    """

    coins: np.ndarray
    n_decided: int
    final: FinalDecisions

    @property
    def tail_count(self) -> int:
        return self.final.tail_count(self.n_decided, self.threshold)

    def of_entries(self, entry_ids: np.ndarray) -> np.ndarray:
        counts, coins = self.entry_counts[entry_ids], self.coins[entry_ids]
        return accept_probabilities(counts, coins, self.n_decided, self.threshold, self.final)

    def of_pair(self, entry_ids: np.ndarray) -> float:
        return float(1.0 - np.prod(1.0 - self.of_entries(entry_ids)))
