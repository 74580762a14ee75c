"""The rule of final decisions in plain Python, as it is written down: what the fast one must equal bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from stream_curate.final_rule import FinalDecisions
from stream_curate.offline import OfflinePool, draw, siphash_2_4

CONSTANTS = {"known": (1.0, 0.0, 0.15), "endless": (0.0, 1.0, 1.0)}


@dataclass
class Reference:
    """The state, and what became of the pairs."""

    threshold: int
    final: FinalDecisions
    n: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    coins: dict[int, int] = field(default_factory=dict)

    def decide(self, pairs: Iterable[Sequence[int]], draw_of: Callable[[int, int], float]) -> Iterator[bool]:
        """Whether each pair, given by its entries, is accepted; `draw_of(index, entry)` are the draws."""
        z, a, beta = CONSTANTS[self.final.horizon]
        for index, matched in enumerate(pairs):
            end = max(float(self.final.pool_size), self.n * (1.0 + beta) + 1.0)
            goal = self.threshold * end / self.final.pool_size
            accepted = False
            for e in matched:
                count, coins = self.counts.get(e, 0), self.coins.get(e, 0)
                sure = max(0.0, count - a - z * math.sqrt(count))
                to_come = 1.0 + (end - self.n - 1.0) * (sure / self.n if self.n else 0.0)
                if draw_of(index, e) < (goal - coins) / to_come:
                    self.coins[e] = coins + 1
                    accepted = True
            for e in matched:
                self.counts[e] = self.counts.get(e, 0) + 1
            self.n += 1
            yield accepted


def accepted_of(pool: OfflinePool, threshold: int, seed: int, final: FinalDecisions) -> list[bytes]:
    """The pair_ids that are accepted of a pool, each once, in its order, with the draws of the plain offline run."""
    key = seed.to_bytes(16, "little")
    bases = [siphash_2_4(key, pair_id) for pair_id in pool.pair_ids]
    matched = [pool.matched(index) for index in range(len(pool))]
    decided = Reference(threshold, final).decide(matched, lambda i, e: draw(bases[i], pool.metadata.entry(e)))
    return list(dict.fromkeys(pair_id for pair_id, accepted in zip(pool.pair_ids, decided, strict=True) if accepted))
