"""Which pairs have come before."""

from __future__ import annotations

from math import isqrt
from typing import Any, Protocol

import numpy as np

from stream_curate.kernels import kernel

N_SHARDS = 64
_FIRST_SLOTS = 64
_MAX_LOAD = 0.75
_GROWTH = 1.25
_BLOCK = 32


class Seen(Protocol):
    """Remembers pairs by their keyed hash `base`, so that a duplicate counts nothing."""

    def add(self, base: np.ndarray) -> np.ndarray:
        """Remember uint64[n]; returns bool[n], true where that one had not come before (in this call either)."""
        ...

    def reserve(self, n: int) -> None:
        """Make room for so many at once, where it is known that they come."""
        ...

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        ...


class NothingSeen:
    """For `dedup: none`: every record is new."""

    def add(self, base: np.ndarray) -> np.ndarray:
        return np.ones(len(base), np.bool_)

    def reserve(self, n: int) -> None:
        pass

    def __len__(self) -> int:
        return 0

    @property
    def nbytes(self) -> int:
        return 0


class ExactSeen:
    """All of them, in 11 to 14 bytes a pair of memory.

    A set of 64-bit hashes: two different pairs are taken for one with a probability of n^2 / 2^65 over n pairs in all
    (0.03 at a billion). The set is an open-addressing table cut into shards by the hash's upper bits. A shard grows
    alone, so that growing never holds the whole table twice.
    """

    def __init__(self) -> None:
        self._shards = [np.zeros(_FIRST_SLOTS, np.uint64) for _ in range(N_SHARDS)]
        self._sizes = np.zeros(N_SHARDS, np.int64)
        self._has_zero = False  # zero marks a free slot, so that this one hash is remembered apart

    def add(self, base: np.ndarray) -> np.ndarray:
        is_new = np.zeros(len(base), np.bool_)
        by_shard = np.empty(len(base), np.int64)
        starts = _group_by_shard(base, by_shard)
        for shard in range(N_SHARDS):
            members = by_shard[starts[shard] : starts[shard + 1]]
            if len(members):
                self._make_room(shard, len(members))
                self._sizes[shard] += _insert(self._shards[shard], base, members, is_new)
        zeros = np.flatnonzero(base == 0)
        if len(zeros):
            is_new[zeros] = False
            is_new[zeros[0]] = not self._has_zero
            self._has_zero = True
        return is_new

    def reserve(self, n: int) -> None:
        # hashes fall into shards like dice: with this much to spare hardly one of them has to grow after all
        n_each = n // N_SHARDS + 4 * isqrt(n // N_SHARDS)
        for shard in range(N_SHARDS):
            self._make_room(shard, n_each)

    def __len__(self) -> int:
        return int(self._sizes.sum()) + self._has_zero

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self._shards)

    def _make_room(self, shard: int, n_more: int) -> None:
        slots = self._shards[shard]
        n_needed = int(self._sizes[shard]) + n_more
        if n_needed > _MAX_LOAD * len(slots):
            grown = np.zeros(max(int(_GROWTH * len(slots)), int(n_needed / _MAX_LOAD) + 1), np.uint64)
            _move(slots, grown)
            self._shards[shard] = grown


@kernel
def _group_by_shard(base: np.ndarray, by_shard: np.ndarray) -> np.ndarray:
    """Write the indices 0..n-1 into `by_shard`, grouped by shard and in order; returns where each shard starts."""
    starts = np.zeros(N_SHARDS + 1, np.int64)
    for i in range(len(base)):
        starts[_shard_of(base[i]) + 1] += 1
    for shard in range(N_SHARDS):
        starts[shard + 1] += starts[shard]
    ends = starts[:-1].copy()
    for i in range(len(base)):
        shard = _shard_of(base[i])
        by_shard[ends[shard]] = i
        ends[shard] += 1
    return starts


@kernel
def _insert(slots: np.ndarray, base: np.ndarray, members: np.ndarray, is_new: np.ndarray) -> int:
    """Put base[members] into `slots`, which have room for all; returns how many were not there."""
    n_new = 0
    found = np.empty(_BLOCK, np.uint64)
    for begin in range(0, len(members), _BLOCK):
        block = members[begin : begin + _BLOCK]
        # a look ahead at all of them, so that the waits for memory overlap
        for k in range(len(block)):
            found[k] = slots[_slot_of(base[block[k]], len(slots))]
        for k in range(len(block)):
            value = base[block[k]]
            if value == 0 or found[k] == value:
                continue
            slot = _slot_of(value, len(slots))
            while slots[slot] != 0 and slots[slot] != value:
                slot += 1
                if slot == len(slots):
                    slot = 0
            if slots[slot] == 0:
                slots[slot] = value
                is_new[block[k]] = True
                n_new += 1
    return n_new


@kernel
def _move(slots: np.ndarray, grown: np.ndarray) -> None:
    for value in slots:
        if value != 0:
            slot = _slot_of(value, len(grown))
            while grown[slot] != 0:
                slot += 1
                if slot == len(grown):
                    slot = 0
            grown[slot] = value


@kernel
def _shard_of(value: np.uint64) -> Any:
    return np.int64(value >> np.uint64(58))  # 2^6 shards


@kernel
def _slot_of(value: np.uint64, n_slots: int) -> Any:
    """Where to look first: 32 of the bits that do not choose the shard, scaled to the number of slots."""
    bits = (value >> np.uint64(20)) & np.uint64(0xFFFFFFFF)
    return np.int64((bits * np.uint64(n_slots)) >> np.uint64(32))
