"""What is the exact counter's own: it is the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.counting import ExactCounts


@given(st.lists(st.dictionaries(st.integers(0, 9), st.integers(1, 2**50), max_size=10), max_size=8))
def test_it_gives_the_true_counts(parts: list[dict[int, int]]) -> None:
    counts = ExactCounts(10)
    for part in parts:
        counts.add(np.array(list(part), np.int32), np.array(list(part.values()), np.int64))

    true_counts = [sum(part.get(entry_id, 0) for part in parts) for entry_id in range(10)]
    assert counts.estimates(np.arange(10, dtype=np.int32)).tolist() == true_counts
    assert counts.total == sum(true_counts)
    assert counts.counter.error_bound(counts.total) == (0.0, 0.0)


def test_estimates_are_a_copy_in_the_order_asked() -> None:
    counts = ExactCounts(3)
    counts.add(np.array([2, 0], np.int32), np.array([20, 7], np.int64))

    estimates = counts.estimates(np.array([0, 2, 2, 1], np.int32))
    estimates[:] = -1

    assert counts.estimates(np.array([0, 2, 2, 1], np.int32)).tolist() == [7, 20, 20, 0]


def test_eight_bytes_an_entry_in_memory_and_saved() -> None:
    counts = ExactCounts(400_000)
    counts.add(np.array([1], np.int32), np.array([258], np.int64))

    assert counts.nbytes == len(counts.to_bytes()) == 3_200_000
    assert counts.to_bytes()[:16] == bytes(8) + bytes([2, 1, 0, 0, 0, 0, 0, 0]), "little-endian, on any machine"


@pytest.mark.parametrize("n_bytes", [0, 8, 23, 25, 32])
def test_counts_for_another_number_of_entries_are_refused(n_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"{n_bytes} bytes of exact counts where 24 are needed"):
        ExactCounts.from_bytes(bytes(n_bytes), 3)
