"""A count-min sketch of fixed size (Cormode and Muthukrishnan, 2005), by Apache DataSketches."""

from __future__ import annotations

from typing import Self

import numpy as np
from datasketches import count_min_sketch

from stream_curate.counting.counts import Counter, Counts
from stream_curate.errors import ConfigError

MAX_CELLS = 2**30


class CountMinCounts:
    """Counts in `num_hashes` rows of `num_buckets` cells, 8 bytes a cell: 33.6 MB at 4 x 2^20, whatever the vocabulary.

    An estimate is the smallest of an entry's cells, so it is never below the true count. It exceeds it by more than
    `e / num_buckets * total` with probability at most `e^-num_hashes`, for each entry alone and over the choice of the
    hash functions. At MetaCLIP's scale that bound is loose: nearly all entries are far closer.

    What it gives equals offline MetaCLIP *with this sketch's estimates*, bit for bit, and offline MetaCLIP with true
    counts nearly. It pays when the vocabulary is open or has tens of millions of entries. Only plain updates are made:
    conservative ones would depend on the order of the stream.
    """

    def __init__(self, num_hashes: int = 4, num_buckets: int = 2**20) -> None:
        if not (1 <= num_hashes <= 127 and num_buckets >= 3 and num_hashes * num_buckets < MAX_CELLS):
            raise ConfigError(
                f"a count-min sketch cannot have {num_hashes} x {num_buckets} cells: "
                f"choose 1 to 127 hashes, at least 3 buckets, and fewer than {MAX_CELLS} cells"
            )
        self.counter = Counter("count-min", num_hashes, num_buckets)
        self._sketch = count_min_sketch(num_hashes, num_buckets)

    @property
    def total(self) -> int:
        return int(self._sketch.total_weight)

    @property
    def nbytes(self) -> int:
        return 8 * self.counter.num_hashes * self.counter.num_buckets

    def add(self, entry_ids: np.ndarray, increments: np.ndarray) -> None:
        # the library takes one item a call
        update = self._sketch.update
        for entry_id, increment in zip(entry_ids.tolist(), increments.tolist(), strict=True):
            update(entry_id, increment)

    def estimates(self, entry_ids: np.ndarray) -> np.ndarray:
        n = len(entry_ids)
        return np.fromiter(map(self._sketch.get_estimate, entry_ids.tolist()), np.float64, n).astype(np.int64)

    def merge(self, other: Counts) -> None:
        if not isinstance(other, CountMinCounts) or other.counter != self.counter:
            raise ValueError("a count-min sketch can only be merged with one of the same size")
        self._sketch.merge(other._sketch)

    def to_bytes(self) -> bytes:
        return bytes(self._sketch.serialize())

    @classmethod
    def from_bytes(cls, data: bytes, counter: Counter) -> Self:
        counts = cls(counter.num_hashes, counter.num_buckets)
        try:
            sketch = count_min_sketch.deserialize(data)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"these bytes are no count-min sketch: {error}") from error
        if sketch.get_serialized_size_bytes() != len(data):
            raise ValueError(f"{len(data)} bytes of a count-min sketch of {sketch.get_serialized_size_bytes()}")
        if (sketch.num_hashes, sketch.num_buckets) != (counter.num_hashes, counter.num_buckets):
            raise ValueError(
                f"a sketch of {sketch.num_hashes} x {sketch.num_buckets} cells "
                f"where {counter.num_hashes} x {counter.num_buckets} are needed"
            )
        counts._sketch = sketch
        return counts
