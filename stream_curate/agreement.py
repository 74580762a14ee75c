"""How far two curated sets agree: pure functions on sets of pair_ids and on numbers of matches.

A set of pairs is compared as such (`jaccard`) and by its *entry distribution*: the share of each entry among all the
matches of its pairs, which is what balancing is about. It is given as int64[n_entries]: how often each entry is matched
by the pairs of the set (`matches_per_entry`).
"""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np


def jaccard(a: Set[bytes], b: Set[bytes]) -> float:
    """The share of all pairs in a or b that are in both: 1 iff the sets are equal (two empty ones are).

    >>> jaccard({b"1", b"2"}, {b"2", b"3"})
    0.3333333333333333
    """
    n_either = len(a | b)
    return len(a & b) / n_either if n_either else 1.0


def matches_per_entry(entry_ids: np.ndarray, n_entries: int) -> np.ndarray:
    """int64[n_entries]: how often each entry stands in `entry_ids`, the matched entry ids of all pairs of a set.

    >>> matches_per_entry(np.array([2, 0, 2]), n_entries=4)
    array([1, 0, 2, 0])
    """
    return np.bincount(entry_ids, minlength=n_entries)


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """The total variation distance of two entry distributions: half the sum of the absolute differences of shares.

    The share of matches that would have to move from one entry to another; 0 iff the distributions are equal, at most
    1. Between a set without matches and one with some it is 1.

    Args:
        a: int64[n_entries], how often each entry is matched by the pairs of one set.
        b: the same of the other set.

    >>> total_variation(np.array([1, 1, 0]), np.array([2, 1, 1]))
    0.25
    """
    if not (a.any() and b.any()):
        return float(a.any() != b.any())
    # rounding can take the sum of shares just above 1
    return min(1.0, float(np.abs(a / a.sum() - b / b.sum()).sum() / 2))


def kl_divergence(a: np.ndarray, b: np.ndarray) -> float:
    """The Kullback-Leibler divergence D(a || b) of two entry distributions, in nats.

    An entry with matches in `a` and none in `b` would make it infinite, although it may only be that `b` is too small
    to show that entry. So the same amount, half a match of the smaller set, is added to the share of every entry that
    has a match in either, before both are scaled to sum to 1 again (additive smoothing). Adding the same to both keeps
    it at 0 iff the distributions are equal. Between a set without matches and one with some it is infinite.

    Args:
        a: int64[n_entries], how often each entry is matched by the pairs of one set.
        b: the same of the other set.

    >>> kl_divergence(np.array([3, 1]), np.array([6, 2]))
    0.0
    >>> round(kl_divergence(np.array([1, 1, 0]), np.array([2, 1, 1])), 3)
    0.075
    """
    if not (a.any() and b.any()):
        return 0.0 if a.any() == b.any() else math.inf
    either = (a > 0) | (b > 0)
    smoothing = 0.5 / min(a.sum(), b.sum())
    p = a[either] / a.sum() + smoothing
    q = b[either] / b.sum() + smoothing
    # with sums that differ in the last bit a divergence of 0 could come out just below it
    return max(0.0, float(np.sum(p / p.sum() * np.log(p / q))))


def tail_coverage(entry_counts: np.ndarray, matches: np.ndarray, threshold: int) -> float:
    """The share of tail entries (0 < c_e <= t) that at least one curated pair matches; 1 if there are none.

    The rule keeps every pair of a tail entry, so anything below 1 is a loss: that of a count-min sketch, for example,
    which takes a rare entry for a frequent one. That is why `entry_counts` should be exact.

    Args:
        entry_counts: int64[n_entries], c_e in all of the stream.
        matches: int64[n_entries], matches of each entry by the curated pairs.
        threshold: t.

    >>> tail_coverage(np.array([0, 3, 5, 90]), np.array([0, 3, 0, 20]), threshold=20)
    0.5
    """
    tail = (entry_counts > 0) & (entry_counts <= threshold)
    n_tail = int(np.count_nonzero(tail))
    return int(np.count_nonzero(matches[tail])) / n_tail if n_tail else 1.0


def over_admission(n_online: int, n_offline: int) -> float:
    """How many times as many pairs an unsettled table holds as the offline subset: 1 at best, for it holds all of that.

    >>> over_admission(123, 100)
    1.23
    """
    if n_offline == 0:
        return 1.0 if n_online == 0 else math.inf
    return n_online / n_offline
