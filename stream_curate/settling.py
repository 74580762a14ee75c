"""What stays in the table when it is settled at a cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from stream_curate.balance import EVICTED, Guard, Prospects, outlook
from stream_curate.curator import matches_of
from stream_curate.draws import bases
from stream_curate.pairs import PAIR_ID
from stream_curate.rule import Rule
from stream_curate.seen import ExactSeen


class SettlingOutlook:
    """The rule at the counts of a cut, and each pair_id once. For one settle: it remembers the pairs it was shown.

    Args:
        rule: its threshold and dedup count here.
        seed: of the draws.
        entry_keys: uint64[n_entries].
        entry_counts: int64[n_entries], the counts at the cut.
    """

    def __init__(self, rule: Rule, seed: int, entry_keys: np.ndarray, entry_counts: np.ndarray) -> None:
        self._threshold = rule.threshold
        self._seed = seed
        self._entry_keys = entry_keys
        self._entry_counts = entry_counts
        self._seen = ExactSeen() if rule.dedup == "none" else None
        self._may_evict = int(entry_counts.max(initial=0)) > rule.threshold

    @property
    def is_ordered(self) -> bool:
        """Whether what `of` says depends on what it was shown before."""
        return self._seen is not None

    def keeps_all(self, guard: Guard | None) -> bool:
        """Whether all rows with this guard stay, so that nobody has to look at them."""
        if self._seen is not None:
            return False
        return not self._may_evict or (guard is not None and guard.holds(self._entry_counts, self._threshold))

    def of(self, batch: pa.RecordBatch) -> Prospects:
        """Of rows with `pair_id` and `entry_ids`, which stay and how long they may; EVICTED the second time, too."""
        base = bases(batch.column("pair_id").cast(PAIR_ID), self._seed)
        found = self._of(base, batch)
        if self._seen is not None:
            kept = np.flatnonzero(found.classes != EVICTED)
            found.classes[kept[~self._seen.add(base[kept])]] = EVICTED
        return found

    def as_it_looks(self, batch: pa.RecordBatch) -> Prospects:
        """`of` for rows that come later than the cut, as a guess; they are not remembered."""
        return self._of(bases(batch.column("pair_id").cast(PAIR_ID), self._seed), batch)

    def _of(self, base: np.ndarray, batch: pa.RecordBatch) -> Prospects:
        return outlook(base, matches_of(batch), self._entry_keys, self._entry_counts, self._threshold)
