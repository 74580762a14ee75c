"""The rule that balances: which pairs are kept, given the counts of their matched entries.

A pair is kept iff some matched entry e has `draw(e) * c_e < t` (MetaCLIP, arXiv 2309.16671, one coin for each matched
entry). As counts grow that can only turn from true to false, so any lower bound on later counts keeps a superset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_curate.draws import draw
from stream_curate.kernels import kernel
from stream_curate.matching import Matches


def keep(
    base: np.ndarray, matches: Matches, entry_keys: np.ndarray, entry_counts: np.ndarray, threshold: float
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
_GROWTHS = (1.4, 2.0, 3.0, 6.0, 20.0)
N_OUTLOOKS = len(_GROWTHS) + 1


@dataclass(frozen=True)
class Prospects:
    """What pairs can expect of later counts, n of them.

    Attributes:
        classes: int8[n], EVICTED where `keep` is false. Else a class from 0 to N_OUTLOOKS - 1 by how much the stream
            can grow, as it looks, before the pair goes: to less than 1.4 times, 2, 3, 6, 20, or more. Nothing is
            decided by the class: it says which rows are worth keeping apart.
        witnesses: int32[n], of the pair's entries the one with the smallest `draw(e) * c_e`; 0 for none.
        draws: float64[n], the pair's draw for that entry: while `draw * c < t`, it stays; infinite for none.
    """

    classes: np.ndarray
    witnesses: np.ndarray
    draws: np.ndarray


def outlook(
    base: np.ndarray, matches: Matches, entry_keys: np.ndarray, entry_counts: np.ndarray, threshold: int
) -> Prospects:
    """How long pairs can expect to be kept. The arguments are those of `keep`."""
    n = len(matches)
    found = Prospects(np.empty(n, np.int8), np.empty(n, np.int32), np.empty(n, np.float64))
    _outlook(
        base,
        matches.offsets,
        matches.entry_ids,
        entry_keys,
        entry_counts,
        np.float64(threshold),
        found.classes,
        found.witnesses,
        found.draws,
    )
    return found


@dataclass(frozen=True)
class Guard:
    """What is enough to know that the rule keeps all of some pairs, without looking at them.

    Attributes:
        entry_ids: int32[n], the distinct witnesses of the pairs.
        draws: float64[n], the largest draw that some pair relies on with each.
    """

    entry_ids: np.ndarray
    draws: np.ndarray

    @classmethod
    def of(cls, witnesses: np.ndarray, draws: np.ndarray) -> Guard:
        """That of pairs with these `witnesses`, int32[n], and `draws`, float64[n]."""
        largest = np.zeros(int(witnesses.max(initial=-1)) + 1, np.float64)
        entry_ids = np.empty(min(len(witnesses), len(largest)), np.int32)
        entry_ids = entry_ids[: _largest_draws(witnesses, draws, largest, entry_ids)]
        return cls(entry_ids, largest[entry_ids])

    def joined(self, other: Guard) -> Guard:
        """The guard of the pairs of both."""
        return Guard.of(np.concatenate([self.entry_ids, other.entry_ids]), np.concatenate([self.draws, other.draws]))

    def holds(self, entry_counts: np.ndarray, threshold: int) -> bool:
        """Whether the rule keeps all the pairs at these counts. When not, it may still keep them by other entries."""
        with np.errstate(invalid="ignore"):  # infinite times 0 is not below t
            return bool((self.draws * entry_counts[self.entry_ids] < threshold).all())

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.entry_ids.nbytes + self.draws.nbytes


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
def _outlook(
    base: np.ndarray,
    offsets: np.ndarray,
    entry_ids: np.ndarray,
    entry_keys: np.ndarray,
    entry_counts: np.ndarray,
    threshold: float,
    classes: np.ndarray,
    witnesses: np.ndarray,
    draws: np.ndarray,
) -> None:
    for i in range(len(classes)):
        smallest = np.inf
        witness = np.int32(0)
        its_draw = np.inf
        for k in range(offsets[i], offsets[i + 1]):
            entry_id = entry_ids[k]
            a_draw = draw(base[i], entry_keys[entry_id])
            product = a_draw * np.float64(entry_counts[entry_id])
            if product < smallest:
                smallest = product
                witness = entry_id
                its_draw = a_draw
        witnesses[i] = witness
        draws[i] = its_draw
        if not smallest < threshold:
            classes[i] = EVICTED
            continue
        classes[i] = N_OUTLOOKS - 1
        if its_draw > 0.0:
            # so many more matches, x of them expected, come at once when x + 2 sqrt(x) does
            count = np.float64(entry_counts[witness])
            root = np.sqrt(1.0 + max(threshold / its_draw - count, 0.0)) - 1.0
            growth = 1.0 + root * root / max(count, 1.0)
            for which in range(len(_GROWTHS)):
                if growth < _GROWTHS[which]:
                    classes[i] = which
                    break


@kernel
def _largest_draws(witnesses: np.ndarray, draws: np.ndarray, largest: np.ndarray, entry_ids: np.ndarray) -> int:
    """The largest draw of each witness in `largest`, which is all zero; returns how many are not, in `entry_ids`.

    A draw of 0 keeps its pair at any count, so that no witness is needed.
    """
    n = 0
    for i in range(len(witnesses)):
        before = largest[witnesses[i]]
        if draws[i] > before:
            largest[witnesses[i]] = draws[i]
            if before == 0.0:
                entry_ids[n] = witnesses[i]
                n += 1
    return n
