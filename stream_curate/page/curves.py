"""Head and tail before and after balancing, and how far what was curated is from the target min(c, t)."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_curate.agreement import total_variation
from stream_curate.metadata import Metadata
from stream_curate.printable import printable

N_ENTRIES_SHOWN = 12
MAX_ENTRY_BYTES = 120
_N_EVEN = 120
_N_TOWARDS_HEAD = 80
_N_RANKS = 72


def balance_of(metadata: Metadata, entry_counts: np.ndarray, curated: np.ndarray, threshold: int) -> dict[str, Any]:
    """What balancing did to the distribution of entries.

    Args:
        metadata: the entries.
        entry_counts: int64[n_entries], c_e at the settled cut.
        curated: int64[n_entries], in how many settled pairs each entry is matched.
        threshold: t of that cut.
    """
    target = np.minimum(entry_counts, threshold)
    is_tail = entry_counts <= threshold
    return {
        "n_seen": int(np.count_nonzero(entry_counts)),
        "n_never_seen": int(np.count_nonzero(entry_counts == 0)),
        "n_head": int(np.count_nonzero(~is_tail)),
        "matches_before": int(entry_counts.sum()),
        "matches_after": int(curated.sum()),
        "matches_target": int(target.sum()),
        "tail_share_before": _share(entry_counts, is_tail),
        "tail_share_after": _share(curated, is_tail),
        "tail_share_target": _share(target, is_tail),
        "distance_before": total_variation(entry_counts, target),
        "distance_after": total_variation(curated, target),
        "cumulative": _cumulative(entry_counts, curated, target),
        "ranks": _ranks(entry_counts, curated, target),
        "most_cut": _rows(metadata, _most_cut(entry_counts, curated), entry_counts, curated, target),
        "least_seen": _rows(metadata, _least_seen(metadata, entry_counts), entry_counts, curated, target),
    }


def _share(counts: np.ndarray, chosen: np.ndarray) -> float:
    total = int(counts.sum())
    return float(counts[chosen].sum() / total) if total else 0.0


def _cumulative(entry_counts: np.ndarray, curated: np.ndarray, target: np.ndarray) -> dict[str, list[int]]:
    """MetaCLIP's picture (arXiv 2309.16671, figure 2): matches added up over the entries, from the tail to the head.

    A few hundred of the entries that were seen at all, denser towards the head. `n_entries` is how many are added up.
    """
    order = np.argsort(entry_counts, kind="stable")
    order = order[np.searchsorted(entry_counts[order], 1) :]
    n = len(order)
    if n == 0:
        return {"n_entries": [], "before": [], "after": [], "target": []}
    even = np.linspace(0, n, _N_EVEN)
    towards_head = n - np.geomspace(1, n, _N_TOWARDS_HEAD)
    at = np.unique(np.concatenate([even, towards_head, [n]]).astype(np.int64))
    return {
        "n_entries": at.tolist(),
        **{
            name: np.concatenate([[0], np.cumsum(counts[order])])[at].tolist()
            for name, counts in (("before", entry_counts), ("after", curated), ("target", target))
        },
    }


def _ranks(entry_counts: np.ndarray, curated: np.ndarray, target: np.ndarray) -> dict[str, list[float]]:
    """The mean count of the entries around each rank; rank 1 is the entry that was matched most."""
    order = np.argsort(-entry_counts, kind="stable")[: np.count_nonzero(entry_counts)]
    if len(order) == 0:
        return {"rank": [], "before": [], "after": [], "target": []}
    first = np.unique(np.geomspace(1, len(order) + 1, _N_RANKS + 1).astype(np.int64)) - 1
    first = first[first < len(order)]
    n = np.diff([*first, len(order)])
    return {
        "rank": (first + (n + 1) / 2).tolist(),
        **{
            name: (np.add.reduceat(counts[order], first) / n).tolist()
            for name, counts in (("before", entry_counts), ("after", curated), ("target", target))
        },
    }


def _most_cut(entry_counts: np.ndarray, curated: np.ndarray) -> np.ndarray:
    cut = entry_counts - curated
    most = np.argsort(-cut, kind="stable")[:N_ENTRIES_SHOWN]
    return np.asarray(most[cut[most] > 0])


def _least_seen(metadata: Metadata, entry_counts: np.ndarray) -> np.ndarray:
    """Of the entries seen least, an arbitrary choice that stays the same: by their keys, as their order is a list's."""
    seen = np.flatnonzero(entry_counts)
    if len(seen) == 0:
        return seen
    order = np.lexsort((metadata.keys[seen], entry_counts[seen]))
    return np.asarray(seen[order[:N_ENTRIES_SHOWN]])


def _rows(
    metadata: Metadata, rows: np.ndarray, entry_counts: np.ndarray, curated: np.ndarray, target: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "entry": printable(metadata.entry(row), MAX_ENTRY_BYTES),
            "count": int(entry_counts[row]),
            "target": int(target[row]),
            "curated": int(curated[row]),
        }
        for row in rows.tolist()
    ]
