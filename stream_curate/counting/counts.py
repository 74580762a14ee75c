"""The contract of a counter."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

CounterKind = Literal["count-min", "exact"]
COUNTER_KINDS: tuple[CounterKind, ...] = ("count-min", "exact")


@dataclass(frozen=True)
class Counter:
    """Which counter, and of what size: part of the rule, because the sketch's estimates decide what is kept.

    `num_hashes` and `num_buckets` are the rows and columns of the sketch; they mean nothing to `exact`.
    """

    kind: CounterKind = "count-min"
    num_hashes: int = 4
    num_buckets: int = 2**20

    def __post_init__(self) -> None:
        if self.kind == "exact":  # equal rules must compare equal
            object.__setattr__(self, "num_hashes", Counter.num_hashes)
            object.__setattr__(self, "num_buckets", Counter.num_buckets)

    def error_bound(self, total: int) -> tuple[float, float]:
        """(b, p): after `total` matches any one count is too high by more than b with probability at most p."""
        if self.kind == "exact":
            return 0.0, 0.0
        return math.e / self.num_buckets * total, math.exp(-self.num_hashes)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in headers and reports."""
        return {"kind": "exact"} if self.kind == "exact" else asdict(self)


class Counts(Protocol):
    """How often each entry was matched.

    Every implementation promises: estimates never fall, never lie below the true count, do not depend on the order
    or grouping of `add`, and adding the same increments to parts and merging them gives the same as adding them to
    one. So an estimate is a lower bound on each later estimate, which is what deciding early rests on.
    """

    counter: Counter

    @property
    def total(self) -> int:
        """The sum of all increments."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        ...

    def add(self, entry_ids: np.ndarray, increments: np.ndarray) -> np.ndarray:
        """Count int64[n] `increments` >= 1 for the distinct int32[n] `entry_ids`.

        Returns:
            int64[n]: for each of these entries a count that is neither below the true one nor above its estimate.
        """
        ...

    def estimates(self, entry_ids: np.ndarray) -> np.ndarray:
        """int64[n]: the count of each of these entries as the rule uses it."""
        ...

    def merge(self, other: Counts) -> None:
        """Add what `other` counted. Raises ValueError unless it is of the same counter and size."""
        ...

    def to_bytes(self) -> bytes:
        """All of it, for `load_counts`. Holds no checksum: the file it goes to has one."""
        ...
