"""Tests of the agreement of two curated sets: the laws that make the numbers mean what they say."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream_curate.agreement import (
    jaccard,
    kl_divergence,
    matches_per_entry,
    over_admission,
    tail_coverage,
    total_variation,
)

SETS = st.sets(st.binary(min_size=1, max_size=1))
SCALES = st.integers(1, 1000)


def matches(n_entries: int = 6) -> st.SearchStrategy[np.ndarray]:
    """int64[n_entries], with many zeros; often none but zeros."""
    number = st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**9))
    return st.lists(number, min_size=n_entries, max_size=n_entries).map(lambda numbers: np.array(numbers, np.int64))


def same_distribution(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a and b are multiples of each other, in exact arithmetic."""
    sum_a, sum_b = int(a.sum()), int(b.sum())
    if 0 in (sum_a, sum_b):
        return sum_a == sum_b
    return [int(x) * sum_b for x in a] == [int(x) * sum_a for x in b]


@given(SETS, SETS)
def test_jaccard_is_symmetric_from_0_to_1_and_1_only_for_equal_sets(a: set[bytes], b: set[bytes]) -> None:
    assert jaccard(a, b) == jaccard(b, a)
    assert 0 <= jaccard(a, b) <= 1
    assert (jaccard(a, b) == 1) == (a == b)
    assert (jaccard(a, b) == 0) == (not a & b and bool(a | b))


@given(matches(), matches())
def test_total_variation_is_symmetric_and_from_0_to_1(a: np.ndarray, b: np.ndarray) -> None:
    assert total_variation(a, b) == total_variation(b, a)
    assert 0 <= total_variation(a, b) <= 1


@given(matches(), matches(), matches())
def test_total_variation_keeps_the_triangle_inequality(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    assert total_variation(a, c) <= total_variation(a, b) + total_variation(b, c) + 1e-12


@given(matches(), SCALES)
def test_distances_of_a_distribution_to_a_multiple_of_itself_are_0(a: np.ndarray, scale: int) -> None:
    assert total_variation(a, scale * a) == pytest.approx(0, abs=1e-15)
    assert kl_divergence(a, scale * a) == pytest.approx(0, abs=1e-15)
    assert total_variation(a, a) == 0
    assert kl_divergence(a, a) == 0


@given(matches(), matches())
def test_distances_of_different_distributions_are_above_0(a: np.ndarray, b: np.ndarray) -> None:
    # differences below the resolution of a float are none
    assume(not same_distribution(a, b) and (a.sum() < 10**6 and b.sum() < 10**6))
    assert total_variation(a, b) > 0
    assert kl_divergence(a, b) > 0


@given(matches(), matches())
def test_total_variation_is_1_only_without_a_common_entry(a: np.ndarray, b: np.ndarray) -> None:
    disjoint = not (a * (b > 0)).any()
    if disjoint and (a.any() or b.any()):
        assert total_variation(a, b) == pytest.approx(1, abs=1e-15)
    elif a.sum() < 10**6 and b.sum() < 10**6:
        assert total_variation(a, b) < 1


@given(matches(), matches())
def test_divergence_is_never_negative_and_finite_unless_one_set_is_empty(a: np.ndarray, b: np.ndarray) -> None:
    assert kl_divergence(a, b) >= 0
    assert math.isinf(kl_divergence(a, b)) == (a.any() != b.any())


@given(matches(), matches())
def test_pinsker_s_inequality_holds_for_the_smoothed_distributions(a: np.ndarray, b: np.ndarray) -> None:
    """TV <= sqrt(KL / 2); smoothing shrinks the differences by 1 + n_entries * smoothing."""
    assume(a.any() and b.any())
    shrink = 1 + np.count_nonzero((a > 0) | (b > 0)) * 0.5 / min(a.sum(), b.sum())
    assert total_variation(a, b) / shrink <= math.sqrt(kl_divergence(a, b) / 2) + 1e-7


@given(st.lists(st.lists(st.integers(0, 5), max_size=4)))
def test_matches_per_entry_counts_each_match(matched: list[list[int]]) -> None:
    flat = [entry_id for entry_ids in matched for entry_id in entry_ids]
    counted = matches_per_entry(np.array(flat, np.int32), n_entries=6)
    assert counted.tolist() == [flat.count(entry_id) for entry_id in range(6)]
    assert counted.dtype == np.int64


def test_tail_coverage_looks_at_entries_from_1_to_t_only() -> None:
    counts = np.array([0, 1, 20, 21, 500])
    assert tail_coverage(counts, np.array([0, 1, 0, 0, 0]), threshold=20) == 0.5
    assert tail_coverage(counts, np.array([0, 1, 7, 0, 0]), threshold=20) == 1
    assert tail_coverage(counts, np.zeros(5, np.int64), threshold=20) == 0
    assert tail_coverage(np.array([0, 21]), np.zeros(2, np.int64), threshold=20) == 1


@pytest.mark.parametrize(("n_online", "n_offline", "times"), [(12, 10, 1.2), (10, 10, 1), (0, 0, 1), (1, 0, math.inf)])
def test_over_admission(n_online: int, n_offline: int, times: float) -> None:
    assert over_admission(n_online, n_offline) == times
