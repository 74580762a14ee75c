"""The rule of final decisions: a pair is accepted or dropped once, as it comes, and never looked at again.

Of each entry e it knows, before a pair, the matches c_e so far and the *coins* w_e that it won: of those matches the
ones whose own draw said yes, whether or not another entry would have let the pair in. With n pairs decided so far, the
unmatched ones too, a threshold of t for a pool of N pairs, and three numbers z, a and beta by the horizon:

    H    = max(N, n * (1 + beta) + 1)           where the goal lies, in pairs
    T    = t * H / N                            the coins that e should have won there
    sure = max(0, c_e - a - z * sqrt(c_e))      the matches that surely stand for e's rate
    m    = 1 + (H - n - 1) * sure / n           this match and those to come before H (without the product at n = 0)
    p_e  = (T - w_e) / m                        compared with draw(e), which is in [0, 1)

A pair is accepted iff draw(e) < p_e for some matched e. Offline keeps e's coin with min(1, t / c_e), which is t coins
of c_e: here what was won too much or too little is put right by what follows, and a rare entry that came early by
chance is not taken for a frequent one. Every entry tosses its coin with the draw that offline has for it, also after
another has won.

Everything is float64, in the order written, which is part of the rule: every machine decides the same, and neither
batches nor checkpoints change anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from stream_curate.draws import draw
from stream_curate.errors import ConfigError
from stream_curate.kernels import kernel
from stream_curate.matching import Matches

Horizon = Literal["known", "endless"]
HORIZONS: tuple[Horizon, ...] = ("known", "endless")
MAX_POOL_SIZE = 2**53  # above, not every number of pairs is a float64
FINAL_RULE_VERSION = 1

# z, a, beta: how much of a count is doubted, in standard deviations and in matches; how far ahead of the pairs read
# the goal lies at least, as a share of them
_CONSTANTS: dict[Horizon, tuple[float, float, float]] = {"known": (1.0, 0.0, 0.15), "endless": (0.0, 1.0, 1.0)}


@dataclass(frozen=True)
class FinalDecisions:
    """What the rule of final decisions has beside the threshold.

    Attributes:
        pool_size: N, the number of distinct valid pairs, matched or not, that the threshold belongs to.
        horizon: `known` steers towards the end of a pool of N pairs; `endless` is for a stream that goes on, of which
            the accepted part stays in proportion.
        version: of the rule.
    """

    pool_size: int
    horizon: Horizon = "endless"
    version: int = FINAL_RULE_VERSION

    def __post_init__(self) -> None:
        """Raises ConfigError for what is out of range."""
        if not 1 <= self.pool_size <= MAX_POOL_SIZE:
            raise ConfigError(f"the pool size is {self.pool_size}: it must be from 1 to 2^53 pairs")
        if self.horizon not in HORIZONS:
            raise ConfigError(f"there is no horizon {self.horizon!r}: choose one of {', '.join(HORIZONS)}")

    def as_dict(self) -> dict[str, Any]:
        """As it stands in headers and reports."""
        return {"kind": "final", "pool_size": self.pool_size, "horizon": self.horizon, "version": self.version}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(values["pool_size"], values["horizon"], values["version"])

    def threshold_at(self, n_decided: int, threshold: int) -> float:
        """The threshold that offline would have for a pool of so many pairs: t * n / N."""
        return threshold * n_decided / self.pool_size

    @property
    def first_counts_at(self) -> int:
        """After how many pairs at the latest those who decide side by side should know of each other: 0.1 % of N."""
        return max(1, self.pool_size // 1_000)

    def tail_count(self, n_decided: int, threshold: int) -> int:
        """Up to so many matches, and at least 1, an entry is in the tail of a pool of so many pairs."""
        return max(1, int(self.threshold_at(n_decided, threshold)))


class Decided(NamedTuple):
    """What came of some pairs.

    Attributes:
        accepted: bool[n_pairs].
        won: bool[n_matches], the matches whose own draw said yes.
    """

    accepted: np.ndarray
    won: np.ndarray


def decide(
    base: np.ndarray,
    matches: Matches,
    entry_keys: np.ndarray,
    counts: np.ndarray,
    coins: np.ndarray,
    n_decided: int,
    threshold: int,
    final: FinalDecisions,
) -> Decided:
    """Decide on pairs, one after the other.

    Args:
        base: uint64[n_pairs], the keyed hash of each pair_id.
        matches: the matched entry ids of each pair.
        entry_keys: uint64[n_entries].
        counts: int64[n_entries], the matches of each in all pairs before; brought up to date.
        coins: int64[n_entries], the coins that each has won of them; likewise.
        n_decided: how many pairs there were before.
        threshold: t.
        final: what the threshold belongs to.
    """
    accepted = np.zeros(len(matches), np.bool_)
    won = np.zeros(len(matches.entry_ids), np.bool_)
    z, a, beta = _CONSTANTS[final.horizon]
    _decide(
        base,
        matches.offsets,
        matches.entry_ids,
        entry_keys,
        counts,
        coins,
        np.float64(n_decided),
        np.float64(threshold),
        np.float64(final.pool_size),
        z,
        a,
        beta,
        accepted,
        won,
    )
    return Decided(accepted, won)


def accept_probabilities(
    counts: np.ndarray, coins: np.ndarray, n_decided: int, threshold: int, final: FinalDecisions
) -> np.ndarray:
    """With which probability entries would accept the next pair that matches them, over all seeds: float64[n].

    Args:
        counts: int64[n], the matches of each so far.
        coins: int64[n], the coins that each has won.
        n_decided: pairs decided so far.
        threshold: t.
        final: what the threshold belongs to.

    >>> known = FinalDecisions(pool_size=1000, horizon="known")
    >>> accept_probabilities(np.array([0, 90, 90]), np.array([0, 2, 20]), 500, 20, known).round(3)
    array([1.   , 0.221, 0.   ])
    """
    z, a, beta = _CONSTANTS[final.horizon]
    n = float(n_decided)
    end = max(float(final.pool_size), n * (1.0 + beta) + 1.0)
    goal = threshold * end / final.pool_size
    p = np.empty(len(counts), np.float64)
    for i, (count, won) in enumerate(zip(counts.tolist(), coins.tolist(), strict=True)):
        p[i] = _chance(n, end, goal, float(count), float(won), z, a)
    return np.clip(p, 0.0, 1.0)


@kernel
def _chance(n: float, end: float, goal: float, count: float, coins: float, z: float, a: float) -> float:
    sure = max(0.0, count - a - z * np.sqrt(count))
    to_come = 1.0
    if n > 0.0:
        to_come = 1.0 + (end - n - 1.0) * (sure / n)
    return (goal - coins) / to_come


@kernel
def _decide(
    base: np.ndarray,
    offsets: np.ndarray,
    entry_ids: np.ndarray,
    entry_keys: np.ndarray,
    counts: np.ndarray,
    coins: np.ndarray,
    n: float,
    threshold: float,
    pool_size: float,
    z: float,
    a: float,
    beta: float,
    accepted: np.ndarray,
    won: np.ndarray,
) -> None:
    for i in range(len(accepted)):
        end = max(pool_size, n * (1.0 + beta) + 1.0)
        goal = threshold * end / pool_size
        for k in range(offsets[i], offsets[i + 1]):
            entry_id = entry_ids[k]
            count, before = np.float64(counts[entry_id]), np.float64(coins[entry_id])
            if draw(base[i], entry_keys[entry_id]) < _chance(n, end, goal, count, before, z, a):
                accepted[i] = True
                won[k] = True
                coins[entry_id] += 1
        # only now: an entry stands but once among the matches of a pair, yet its coin sees what was before the pair
        for k in range(offsets[i], offsets[i + 1]):
            counts[entry_ids[k]] += 1
        n += 1.0
