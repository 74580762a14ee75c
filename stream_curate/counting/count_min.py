"""A count-min sketch of fixed size (Cormode and Muthukrishnan, 2005), the same as that of Apache DataSketches.

The hash functions and the saved bytes are those of its `count_min_sketch` with the default seed, as it is built for
Linux: all bits of what this writes are what the library would write, and it reads what the library wrote. The library
takes one item a call; this takes all of a batch.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Self

import numpy as np

from stream_curate.counting.counts import Counter, Counts
from stream_curate.errors import ConfigError
from stream_curate.kernels import kernel

MAX_CELLS = 2**30

_SEED = 9_001
_HEADER = struct.Struct("<BBBB4xIBHx")  # size in words, version, family, flags, num_buckets, num_hashes, seed's hash
_KIND = (2, 1, 18)
_SEED_HASH = 0x93CC
_IS_EMPTY = 1
_TOTAL = struct.Struct("<d")
_RUN = 256  # entries whose cells are fetched together


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
        # whole numbers, exact below 2^53. Written to now: the first batch would wait for the system to give each page
        self._cells = np.full((num_hashes, num_buckets), 0.0)
        self._total = 0.0
        self._seeds = np.array(_row_seeds(num_hashes), np.uint64)

    @property
    def total(self) -> int:
        return int(self._total)

    @property
    def nbytes(self) -> int:
        return self._cells.nbytes

    def add(self, entry_ids: np.ndarray, increments: np.ndarray) -> np.ndarray:
        out = np.empty(len(entry_ids), np.int64)
        _add(self._cells, self._seeds, entry_ids, increments, out)
        self._total += float(increments.sum())
        return out

    def estimates(self, entry_ids: np.ndarray) -> np.ndarray:
        out = np.empty(len(entry_ids), np.int64)
        _estimate(self._cells, self._seeds, entry_ids, out)
        return out

    def merge(self, other: Counts) -> None:
        if not isinstance(other, CountMinCounts) or other.counter != self.counter:
            raise ValueError("a count-min sketch can only be merged with one of the same size")
        self._cells += other._cells
        self._total += other._total

    def to_bytes(self) -> bytes:
        is_empty = self._total == 0
        header = _HEADER.pack(
            *_KIND, _IS_EMPTY if is_empty else 0, self.counter.num_buckets, self.counter.num_hashes, _SEED_HASH
        )
        if is_empty:
            return header
        return b"".join([header, _TOTAL.pack(self._total), self._cells.astype("<f8", copy=False).data])

    @classmethod
    def from_bytes(cls, data: bytes, counter: Counter) -> Self:
        if len(data) < _HEADER.size:
            raise ValueError(f"these bytes are no count-min sketch: there are {len(data)} of them")
        *kind, flags, num_buckets, num_hashes, seed_hash = _HEADER.unpack_from(data)
        if tuple(kind) != _KIND or flags not in (0, _IS_EMPTY) or seed_hash != _SEED_HASH:
            raise ValueError(f"these bytes are no count-min sketch: they begin with {data[: _HEADER.size].hex()}")
        if (num_hashes, num_buckets) != (counter.num_hashes, counter.num_buckets):
            raise ValueError(
                f"a sketch of {num_hashes} x {num_buckets} cells "
                f"where {counter.num_hashes} x {counter.num_buckets} are needed"
            )
        begin = _HEADER.size + _TOTAL.size
        n_bytes = _HEADER.size if flags == _IS_EMPTY else begin + 8 * num_hashes * num_buckets
        if len(data) != n_bytes:
            raise ValueError(f"{len(data)} bytes of a count-min sketch of {n_bytes}")
        counts = cls(num_hashes, num_buckets)
        if flags != _IS_EMPTY:
            (counts._total,) = _TOTAL.unpack_from(data, _HEADER.size)
            counts._cells[:] = np.frombuffer(data, "<f8", offset=begin).reshape(counts._cells.shape)
        return counts


@cache
def _row_seeds(n_rows: int) -> list[int]:
    """The seed of each row's hash: what `uniform_int_distribution<uint64_t>` of GNU's C++ library draws, plus `_SEED`.

    Its generator is `minstd_rand0` (Lewis, Goodman and Miller, 1969).
    """
    state = _SEED

    def below_range() -> int:
        nonlocal state
        state = state * 16_807 % (2**31 - 1)
        return state - 1

    n_values = 2**31 - 2  # that the generator can give

    def uniform(largest: int) -> int:
        if largest < n_values - 1:
            step = (n_values - 1) // (largest + 1)
            while (drawn := below_range()) >= (largest + 1) * step:
                pass
            return drawn // step
        while (drawn := n_values * uniform(largest // n_values) + below_range()) > largest:
            pass
        return drawn

    return [(uniform(2**64 - 1) + _SEED) % 2**64 for _ in range(n_rows)]


@kernel
def _add(cells: np.ndarray, seeds: np.ndarray, entry_ids: np.ndarray, increments: np.ndarray, out: np.ndarray) -> None:
    buckets = np.empty((_RUN, len(seeds)), np.uint64)
    for begin in range(0, len(entry_ids), _RUN):
        run = entry_ids[begin : begin + _RUN]
        _locate(np.uint64(cells.shape[1]), seeds, run, buckets)
        for i in range(len(run)):
            smallest = np.inf
            for row in range(len(seeds)):
                count = cells[row, buckets[i, row]] + increments[begin + i]
                cells[row, buckets[i, row]] = count
                smallest = min(smallest, count)
            out[begin + i] = np.int64(smallest)


@kernel
def _estimate(cells: np.ndarray, seeds: np.ndarray, entry_ids: np.ndarray, out: np.ndarray) -> None:
    buckets = np.empty((_RUN, len(seeds)), np.uint64)
    for begin in range(0, len(entry_ids), _RUN):
        run = entry_ids[begin : begin + _RUN]
        _locate(np.uint64(cells.shape[1]), seeds, run, buckets)
        for i in range(len(run)):
            smallest = cells[0, buckets[i, 0]]
            for row in range(1, len(seeds)):
                smallest = min(smallest, cells[row, buckets[i, row]])
            out[begin + i] = np.int64(smallest)


@kernel
def _locate(n_buckets: np.uint64, seeds: np.ndarray, entry_ids: np.ndarray, buckets: np.ndarray) -> None:
    """The bucket of each entry in each row. It is a step of its own so that many cells are under way from memory."""
    # a division takes longer than all the rest
    mask = n_buckets - np.uint64(1)
    is_power = n_buckets & mask == 0
    for i in range(len(entry_ids)):
        for row in range(len(seeds)):
            hashed = _hash(entry_ids[i], seeds[row])
            buckets[i, row] = hashed & mask if is_power else hashed % n_buckets


@kernel
def _hash(entry_id: int, seed: np.uint64) -> np.uint64:
    """The lower half of MurmurHash3 x64 128 (Appleby, 2011) of the entry id as 8 bytes."""
    word = np.uint64(entry_id) * np.uint64(0x87C37B91114253D5)
    word = ((word << np.uint64(31)) | (word >> np.uint64(33))) * np.uint64(0x4CF5AD432745937F)
    low = seed ^ word ^ np.uint64(8)
    high = seed ^ np.uint64(8)
    low += high
    high += low
    return _finalise(low) + _finalise(high)


@kernel
def _finalise(k: np.uint64) -> np.uint64:
    k = (k ^ (k >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    k = (k ^ (k >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return k ^ (k >> np.uint64(33))
