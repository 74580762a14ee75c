"""What a worker knows of the counts when it decides on the pairs of one partition: the *view*.

It is the last published counts, at their cut C, and on top of them what this partition itself has counted from C on. So
it is never above the counts at any later cut that contains the pair, which is what deciding early rests on. What the
worker's other partitions have counted must not be added: a cut need not contain it.

Where decisions are final it has the coins and the number of pairs in the same way, all from the same cut. What others
did since is then missing from all three alike, so that what is still to be won and the matches that are still to come
stay in proportion: a view that is old says less, and nothing crooked.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Self

import numpy as np

from consumers.ledger import NO_COINS, LedgerRecord
from consumers.published_counts import PublishedCounts

MAX_OWN_DELTAS = 16_000_000


class Delta(NamedTuple):
    """What came of a range of a partition that begins at `first`.

    Attributes:
        entry_ids: int32[n].
        increments: int64[n].
        coins: int64[n]; NO_COINS where decisions are provisional.
        n_unique: pairs of the range; 0 where decisions are provisional, which do not depend on it.
    """

    first: int
    entry_ids: np.ndarray
    increments: np.ndarray
    coins: np.ndarray = NO_COINS
    n_unique: int = 0

    @classmethod
    def of(cls, record: LedgerRecord) -> Self:
        """What a record of the ledger adds to the view of its partition."""
        is_final = record.header.rule.final is not None
        n_unique = record.numbers.n_unique if is_final else 0
        return cls(record.first, record.entry_ids, record.increments, record.coins, n_unique)


class View:
    """The counts as they are known to one partition.

    Attributes:
        cut: C, that of the last published counts; 0 everywhere before the first.
        counts: int64[n_entries].
        coins: int64[n_entries], where decisions are final.
        n_unique: likewise, the number of pairs that counts and coins are of.
        n_own: likewise, how many of them are this partition's own, from C on.
    """

    def __init__(self, partition: int, n_partitions: int, n_entries: int) -> None:
        self.cut: tuple[int, ...] = (0,) * n_partitions
        self.counts = np.zeros(n_entries, np.int64)
        self.coins = np.zeros(n_entries, np.int64)
        self.n_unique = self.n_own = 0
        self._partition = partition
        self._own: deque[Delta] = deque()
        self._n_own_deltas = 0

    def add(
        self,
        first: int,
        entry_ids: np.ndarray,
        increments: np.ndarray,
        coins: np.ndarray = NO_COINS,
        n_unique: int = 0,
    ) -> None:
        """Take in what came of a range of this partition; see `Delta`."""
        if first < self.cut[self._partition]:
            return  # the published counts have it
        self.counts[entry_ids] += increments
        if len(coins):
            self.coins[entry_ids] += coins
        self.remember(Delta(first, entry_ids, increments, coins, n_unique))

    def remember(self, delta: Delta) -> None:
        """`add`, of what `counts` and `coins` have already, as it was counted while it was decided on."""
        first, entry_ids, increments, coins, n_unique = delta
        if not len(entry_ids) and not n_unique:
            return
        self.n_unique += n_unique
        self.n_own += n_unique
        # copies, since what is given may be a small part of something large, such as a whole ledger record
        self._own.append(Delta(first, entry_ids.copy(), increments.copy(), coins.copy(), n_unique))
        self._n_own_deltas += len(entry_ids)
        # what is forgotten will be missing after the next published counts: less is known then, which only admits more
        while self._n_own_deltas > MAX_OWN_DELTAS:
            self._n_own_deltas -= len(self._own.popleft().entry_ids)

    def is_alone(self, at_least: int) -> bool:
        """Whether newer counts are overdue: this partition alone has had more pairs since the cut than all have below.

        Args:
            at_least: with fewer pairs of its own nothing is overdue yet.
        """
        return self.n_own > max(self.n_unique - self.n_own, at_least)

    def rebase(self, published: PublishedCounts) -> None:
        """Go over to newer published counts."""
        self.cut = published.cut
        self.counts = published.entry_counts.copy()
        if len(published.entry_coins):
            self.coins = published.entry_coins.copy()
        self.n_unique, self.n_own = published.n_unique, 0
        own, self._own, self._n_own_deltas = self._own, deque(), 0
        while own:
            self.add(*own.popleft())
