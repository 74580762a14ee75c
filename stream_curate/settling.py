"""What stays in the table when it is settled at a cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from stream_curate.balance import EVICTED, outlook
from stream_curate.curator import matches_of
from stream_curate.draws import bases
from stream_curate.pairs import PAIR_ID
from stream_curate.rule import Rule
from stream_curate.seen import ExactSeen
from stream_curate.table.curated_table import Outlook


def settling_outlook(rule: Rule, seed: int, entry_keys: np.ndarray, entry_counts: np.ndarray) -> Outlook | None:
    """The rule at these counts, and each pair_id once; None when that cannot evict anything.

    Args:
        rule: its threshold and dedup count here.
        seed: of the draws.
        entry_keys: uint64[n_entries].
        entry_counts: int64[n_entries], the counts at the cut.
    """
    seen = ExactSeen() if rule.dedup == "none" else None
    if seen is None and entry_counts.max(initial=0) <= rule.threshold:
        return None

    def classes(batch: pa.RecordBatch) -> np.ndarray:
        base = bases(batch.column("pair_id").cast(PAIR_ID), seed)
        found = outlook(base, matches_of(batch), entry_keys, entry_counts, rule.threshold)
        if seen is not None:
            kept = np.flatnonzero(found != EVICTED)
            found[kept[~seen.add(base[kept])]] = EVICTED
        return found

    return classes
