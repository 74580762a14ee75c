"""What may be told of any pair: its chance over all seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.balance import keep_probability
from stream_curate.chances import Chances, FinalChances
from stream_curate.final_rule import FinalDecisions, accept_probabilities

COUNTS = np.array([40, 5, 80, 0])
ALL = np.arange(4, dtype=np.int32)


def test_provisional_chances_are_those_of_the_rule() -> None:
    chances = Chances(COUNTS, 20)
    assert chances.of_entries(ALL).tolist() == [0.5, 1.0, 0.25, 1.0]
    assert chances.of_pair(np.array([0, 2])) == keep_probability(COUNTS[[0, 2]], 20)
    assert chances.of_pair(ALL[:0]) == 0.0
    assert chances.tail_count == 20


@given(st.integers(80, 5_000), st.lists(st.integers(0, 3), unique=True), st.sampled_from(["known", "endless"]))
def test_final_chances_are_those_of_a_pair_that_came_now(n_decided: int, entries: list[int], horizon: str) -> None:
    final = FinalDecisions(1_000, horizon)  # type: ignore[arg-type]
    coins = np.array([9, 5, 30, 0])
    chances = FinalChances(COUNTS, 20, coins, n_decided, final)
    ids = np.array(entries, np.int32)
    each = accept_probabilities(COUNTS[ids], coins[ids], n_decided, 20, final)
    assert chances.of_entries(ids).tolist() == each.tolist()
    lost = 1.0
    for p in each.tolist():
        lost *= 1.0 - p
    assert chances.of_pair(ids) == pytest.approx(1.0 - lost, abs=1e-12)
    assert chances.tail_count == max(1, 20 * n_decided // 1_000)
