"""Counts with coins: exact counts, and a second number beside each that is saved, read back and merged with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.counting import Counter, CountsAndCoins, empty_counts

NUMBERS = st.lists(st.integers(0, 2**62), min_size=5, max_size=5)


def made(counts: list[int], coins: list[int]) -> CountsAndCoins:
    made = CountsAndCoins(len(counts))
    made.counts[:] = counts
    made.coins[:] = coins
    return made


@given(NUMBERS, NUMBERS)
def test_what_was_saved_is_read_back_as_it_was(counts: list[int], coins: list[int]) -> None:
    read = CountsAndCoins.from_bytes(made(counts, coins).to_bytes(), 5)
    assert (read.counts.tolist(), read.coins.tolist()) == (counts, coins)
    assert read.estimates(np.arange(5)).tolist() == counts
    assert read.nbytes == 80


def test_the_counts_are_those_that_are_counted() -> None:
    counts = CountsAndCoins(3)
    counts.add(np.array([0, 2], np.int32), np.array([4, 1]))
    assert (counts.counts.tolist(), counts.coins.tolist(), counts.total) == ([4, 0, 1], [0, 0, 0], 5)


def test_merging_adds_both() -> None:
    one, other = made([1, 2], [0, 1]), made([10, 20], [3, 4])
    one.merge(other)
    assert (one.counts.tolist(), one.coins.tolist()) == ([11, 22], [3, 5])
    with pytest.raises(ValueError, match="only be merged with others that have them"):
        one.merge(empty_counts(Counter("exact"), 2))


@pytest.mark.parametrize("n_bytes", [0, 40, 79, 81, 160])
def test_bytes_of_another_size_are_refused(n_bytes: int) -> None:
    with pytest.raises(ValueError, match="80 are needed"):
        CountsAndCoins.from_bytes(bytes(n_bytes), 5)
