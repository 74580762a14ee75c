"""Exact counts, and beside each the coins that final decisions have won for the entry."""

from __future__ import annotations

from typing import Self

import numpy as np

from stream_curate.counting.counts import Counts
from stream_curate.counting.exact import ExactCounts


class CountsAndCoins(ExactCounts):
    """The state of each entry under final decisions, 16 bytes an entry.

    Attributes:
        coins: int64[n_entries], w_e: the matches whose own draw said yes.
    """

    def __init__(self, n_entries: int) -> None:
        super().__init__(n_entries)
        self.coins = np.zeros(n_entries, np.int64)

    @property
    def counts(self) -> np.ndarray:
        """int64[n_entries], c_e: the counts themselves, to be read and written in place."""
        return self._counts

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.coins.nbytes

    def merge(self, other: Counts) -> None:
        if not isinstance(other, CountsAndCoins):
            raise ValueError("counts with coins can only be merged with others that have them")
        super().merge(other)
        self.coins += other.coins

    def to_bytes(self) -> bytes:
        return super().to_bytes() + self.coins.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, n_entries: int) -> Self:
        if len(data) != 16 * n_entries:
            raise ValueError(f"{len(data)} bytes of counts and coins where {16 * n_entries} are needed")
        counts = cls(n_entries)
        counts._counts[:] = np.frombuffer(data, "<i8", n_entries)
        counts.coins[:] = np.frombuffer(data, "<i8", n_entries, 8 * n_entries)
        return counts
