"""What a worker knows of the counts when it decides on the pairs of one partition: the *view*.

It is the last published counts, at their cut C, and on top of them what this partition itself has counted from C on. So
it is never above the counts at any later cut that contains the pair, which is what deciding early rests on. What the
worker's other partitions have counted must not be added: a cut need not contain it.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from consumers.published_counts import PublishedCounts

MAX_OWN_DELTAS = 16_000_000


class View:
    """The counts as they are known to one partition.

    Attributes:
        cut: C, that of the last published counts; 0 everywhere before the first.
        counts: int64[n_entries].
    """

    def __init__(self, partition: int, n_partitions: int, n_entries: int) -> None:
        self.cut: tuple[int, ...] = (0,) * n_partitions
        self.counts = np.zeros(n_entries, np.int64)
        self._partition = partition
        self._own: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self._n_own = 0

    def add(self, first: int, entry_ids: np.ndarray, increments: np.ndarray) -> None:
        """Take in what came of a range of this partition that begins at `first`."""
        if first < self.cut[self._partition]:
            return  # the published counts have it
        if not len(entry_ids):
            return
        self.counts[entry_ids] += increments
        # copies, since what is given may be a small part of something large, such as a whole ledger record
        self._own.append((first, entry_ids.copy(), increments.copy()))
        self._n_own += len(entry_ids)
        # what is forgotten will be missing after the next published counts: less is known then, which only admits more
        while self._n_own > MAX_OWN_DELTAS:
            self._n_own -= len(self._own.popleft()[1])

    def rebase(self, published: PublishedCounts) -> None:
        """Go over to newer published counts."""
        self.cut = published.cut
        self.counts = published.entry_counts.copy()
        own, self._own, self._n_own = self._own, deque(), 0
        while own:
            self.add(*own.popleft())
