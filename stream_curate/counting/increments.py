"""From a batch's matches to what is added to the counts."""

from __future__ import annotations

import numpy as np

from stream_curate.kernels import kernel
from stream_curate.matching import Matches


def increments_of(matches: Matches, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct entries among `matches`, in the order they first come, and how often each is there.

    Args:
        matches: of a batch.
        scratch: int64[n_entries], all zero; it is zero again afterwards.

    Returns:
        int32[n_distinct] entry ids, int64[n_distinct] increments.
    """
    distinct = np.empty(min(len(matches.entry_ids), len(scratch)), np.int32)
    increments = np.empty(len(distinct), np.int64)
    n_distinct = _group(matches.entry_ids, scratch, distinct, increments)
    return distinct[:n_distinct], increments[:n_distinct]


@kernel
def _group(entry_ids: np.ndarray, scratch: np.ndarray, distinct: np.ndarray, increments: np.ndarray) -> int:
    n_distinct = 0
    for k in range(len(entry_ids)):
        entry_id = entry_ids[k]
        if scratch[entry_id] == 0:
            distinct[n_distinct] = entry_id
            n_distinct += 1
        scratch[entry_id] += 1
    for i in range(n_distinct):
        increments[i] = scratch[distinct[i]]
        scratch[distinct[i]] = 0
    return n_distinct
