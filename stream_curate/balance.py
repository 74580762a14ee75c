"""The rule that balances: which pairs are kept, given the counts of their matched entries.

A pair is kept iff some matched entry e has `draw(e) * c_e < t` (MetaCLIP, arXiv 2309.16671, one coin for each matched
entry). As counts grow that can only turn from true to false, so any lower bound on later counts keeps a superset.
"""

from __future__ import annotations

import numpy as np

from stream_curate.draws import draw
from stream_curate.kernels import kernel
from stream_curate.matching import Matches


def keep(
    base: np.ndarray, matches: Matches, entry_keys: np.ndarray, entry_counts: np.ndarray, threshold: int
) -> np.ndarray:
    """Which pairs the rule keeps: bool[n_pairs].

    Args:
        base: uint64[n_pairs], the keyed hash of each pair_id.
        matches: the matched entry ids of each pair.
        entry_keys: uint64[n_entries].
        entry_counts: int64[n_entries], c_e; only those of matched entries are read.
        threshold: t.
    """
    kept = np.zeros(len(matches), np.bool_)
    _keep(base, matches.offsets, matches.entry_ids, entry_keys, entry_counts, np.float64(threshold), kept)
    return kept


EVICTED = -1
_OUTLOOKS = (0.8, 0.5, 0.25)
N_OUTLOOKS = len(_OUTLOOKS) + 1


def outlook(
    base: np.ndarray, matches: Matches, entry_keys: np.ndarray, entry_counts: np.ndarray, threshold: int
) -> np.ndarray:
    """How long pairs can expect to be kept: int8[n_pairs]. The arguments are those of `keep`.

    EVICTED where `keep` is false. Else a class from 0 to N_OUTLOOKS - 1 by the smallest `draw(e) * c_e` in parts of t:
    above 0.8, 0.5, 0.25, or below. As counts grow with the stream, a pair at 0.5 is kept until about twice as much has
    been read. Nothing is decided by the class: it says which rows are worth keeping apart.
    """
    smallest = np.full(len(matches), np.inf)
    _smallest_products(base, matches.offsets, matches.entry_ids, entry_keys, entry_counts, smallest)
    classes = np.zeros(len(matches), np.int8)
    for part in _OUTLOOKS:
        classes += smallest <= part * threshold
    classes[~(smallest < threshold)] = EVICTED
    return classes


def keep_probability(entry_counts: np.ndarray, threshold: int) -> float:
    """P(keep) of a pair whose matched entries have these counts: `1 - prod(1 - min(1, t / c_e))`.

    >>> keep_probability(np.array([40, 80]), threshold=20)
    0.625
    >>> keep_probability(np.array([], np.int64), threshold=20)
    0.0
    """
    counts = np.maximum(np.asarray(entry_counts, np.float64), 1.0)
    return float(1.0 - np.prod(1.0 - np.minimum(1.0, threshold / counts)))


@kernel
def _keep(
    base: np.ndarray,
    offsets: np.ndarray,
    entry_ids: np.ndarray,
    entry_keys: np.ndarray,
    entry_counts: np.ndarray,
    threshold: float,
    kept: np.ndarray,
) -> None:
    for i in range(len(kept)):
        for k in range(offsets[i], offsets[i + 1]):
            entry_id = entry_ids[k]
            count = np.float64(entry_counts[entry_id])
            # a draw is below 1, so that a tail entry keeps its pairs whatever the draw
            if count <= threshold or draw(base[i], entry_keys[entry_id]) * count < threshold:
                kept[i] = True
                break


@kernel
def _smallest_products(
    base: np.ndarray,
    offsets: np.ndarray,
    entry_ids: np.ndarray,
    entry_keys: np.ndarray,
    entry_counts: np.ndarray,
    smallest: np.ndarray,
) -> None:
    for i in range(len(smallest)):
        for k in range(offsets[i], offsets[i + 1]):
            entry_id = entry_ids[k]
            product = draw(base[i], entry_keys[entry_id]) * np.float64(entry_counts[entry_id])
            smallest[i] = min(smallest[i], product)
