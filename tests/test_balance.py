"""The rule that balances, against its formula in plain Python, at the edges of what floats can tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.balance import EVICTED, N_OUTLOOKS, Guard, keep, keep_probability, outlook
from stream_curate.draws import draws
from stream_curate.matching import Matches

U64 = st.integers(0, 2**64 - 1)
GOLDEN_RATIO = 0x9E3779B97F4A7C15


def matches_from(lists: list[list[int]]) -> Matches:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return Matches(offsets, np.array([entry_id for ids in lists for entry_id in ids], np.int32))


def keep_one(base: int, key: int, count: int, threshold: int) -> bool:
    found = keep(
        np.array([base], np.uint64),
        matches_from([[0]]),
        np.array([key], np.uint64),
        np.array([count], np.int64),
        threshold,
    )
    return bool(found[0])


def draw_of(base: int, key: int) -> float:
    return float(draws(np.array([base], np.uint64), np.array([key], np.uint64))[0])


def base_with_draw(bits: int) -> int:
    """A hash whose draw for the key 0 is `bits * 2^-53`: SplitMix64's finaliser, backwards."""
    z = bits << 11
    z ^= z >> 31 ^ z >> 62
    z = z * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
    z ^= z >> 27 ^ z >> 54
    z = z * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
    z ^= z >> 30 ^ z >> 60
    return (z - GOLDEN_RATIO) % 2**64


@given(
    st.lists(st.tuples(U64, st.lists(st.integers(0, 4), unique=True).map(sorted)), max_size=12),
    st.lists(U64, min_size=5, max_size=5),
    st.lists(st.one_of(st.integers(0, 12), st.integers(0, 2**53)), min_size=5, max_size=5),
    st.one_of(st.integers(1, 12), st.integers(1, 2**53)),
)
def test_a_pair_is_kept_iff_some_matched_entry_keeps_it(
    pairs: list[tuple[int, list[int]]], keys: list[int], counts: list[int], threshold: int
) -> None:
    base = [base for base, _ in pairs]
    found = keep(
        np.array(base, np.uint64),
        matches_from([ids for _, ids in pairs]),
        np.array(keys, np.uint64),
        np.array(counts, np.int64),
        threshold,
    )

    assert found.dtype == np.bool_
    assert found.tolist() == [any(draw_of(b, keys[e]) * counts[e] < threshold for e in ids) for b, ids in pairs]


@given(U64, U64, st.integers(1, 2**53), st.integers(0, 2**53))
def test_a_larger_count_or_a_lower_threshold_never_keeps_more(base: int, key: int, threshold: int, count: int) -> None:
    """All that is decided early rests on this."""
    for larger in (count + 1, 2 * count, 2**53):
        if count < larger <= 2**53 and keep_one(base, key, larger, threshold):
            assert keep_one(base, key, count, threshold)
    for lower in (threshold - 1, threshold // 2):
        if lower >= 1 and keep_one(base, key, count, lower):
            assert keep_one(base, key, count, threshold)


LARGEST_BITS = 2**53 - 1


@given(st.sampled_from([0, 1, 2**52, LARGEST_BITS - 1, LARGEST_BITS]) | st.integers(0, LARGEST_BITS))
def test_the_draws_that_these_tests_choose_are_the_draws_they_get(bits: int) -> None:
    assert draw_of(base_with_draw(bits), 0) == bits * 2.0**-53


@given(st.one_of(st.integers(1, 100), st.integers(1, 2**53)), st.integers(0, 3))
def test_an_entry_at_its_threshold_keeps_all_its_pairs(threshold: int, below: int) -> None:
    """Even with the largest draw: the short cut for c_e <= t says what the product says."""
    count = max(0, threshold - below)

    assert (1 - 2.0**-53) * count < threshold
    assert keep_one(base_with_draw(LARGEST_BITS), 0, count, threshold)


@given(st.integers(1, 2**52), st.integers(1, 2**53), st.integers(-2, 2))
def test_a_product_just_below_the_threshold_keeps_and_one_at_it_does_not(threshold: int, count: int, step: int) -> None:
    """Draws chosen so that draw * c_e comes within a rounding of t."""
    bits = min(LARGEST_BITS, max(0, math.floor(threshold / count * 2**53) + step))

    assert keep_one(base_with_draw(bits), 0, count, threshold) == (bits * 2.0**-53 * count < threshold)


@pytest.mark.parametrize(
    ("bits", "count", "threshold", "kept"),
    [
        (2**52, 10, 5, False),  # 0.5 * 10 is exactly t: not below it
        (2**52 - 1, 10, 5, True),
        (2**52 + 1, 10, 5, False),
        (2**51, 2**53, 2**51, False),
        (2**51 - 1, 2**53, 2**51, True),
        (LARGEST_BITS, 2**53, 2**53, True),
        (LARGEST_BITS, 2**53, LARGEST_BITS, False),
        (LARGEST_BITS - 1, 2**53, LARGEST_BITS, True),
        (0, 2**53, 1, True),  # a draw of 0 is kept at any count
        (1, 2**53, 1, False),
    ],
)
def test_at_the_edge(bits: int, count: int, threshold: int, kept: bool) -> None:
    assert keep_one(base_with_draw(bits), 0, count, threshold) is kept


def test_a_pair_that_matches_nothing_is_never_kept() -> None:
    found = keep(np.zeros(3, np.uint64), matches_from([[], [0], []]), np.zeros(1, np.uint64), np.ones(1, np.int64), 5)

    assert found.tolist() == [False, True, False]
    assert (
        keep(np.zeros(0, np.uint64), matches_from([]), np.zeros(0, np.uint64), np.zeros(0, np.int64), 5).tolist() == []
    )


# --- keep_probability


@given(st.lists(st.integers(1, 10**9), max_size=8), st.integers(1, 10**6))
def test_the_probability_is_that_of_a_coin_for_each_matched_entry(counts: list[int], threshold: int) -> None:
    expected = 1 - math.prod(1 - min(1.0, threshold / count) for count in counts)

    assert math.isclose(keep_probability(np.array(counts, np.int64), threshold), expected, abs_tol=1e-12)


@pytest.mark.parametrize(("counts", "probability"), [([], 0.0), ([0], 1.0), ([20], 1.0), ([21, 3], 1.0), ([40], 0.5)])
def test_the_probability_at_the_edges(counts: list[int], probability: float) -> None:
    assert keep_probability(np.array(counts, np.int64), 20) == probability


@pytest.mark.parametrize("counts", [[40], [100, 60], [1_000, 500, 90], [21, 10_000], [20, 10_000], [10**6]])
def test_pairs_are_kept_as_often_as_the_probability_says(counts: list[int]) -> None:
    """200,000 fixed pairs with the same matches, within 5 standard deviations."""
    n, threshold = 200_000, 20
    rng = np.random.default_rng(2309_16671)
    base = rng.integers(0, 2**64, n, np.uint64)
    keys = rng.integers(0, 2**64, len(counts), np.uint64)
    matches = matches_from([list(range(len(counts)))] * n)

    n_kept = int(keep(base, matches, keys, np.array(counts, np.int64), threshold).sum())

    p = keep_probability(np.array(counts, np.int64), threshold)
    assert abs(n_kept - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@given(
    st.lists(st.tuples(U64, st.lists(st.integers(0, 4), unique=True).map(sorted)), max_size=12),
    st.lists(U64, min_size=5, max_size=5),
    st.lists(st.one_of(st.integers(0, 12), st.integers(0, 2**53)), min_size=5, max_size=5),
    st.one_of(st.integers(1, 12), st.integers(1, 2**53)),
)
def test_a_pair_is_evicted_iff_the_rule_does_not_keep_it(
    pairs: list[tuple[int, list[int]]], keys: list[int], counts: list[int], threshold: int
) -> None:
    arguments = (
        np.array([base for base, _ in pairs], np.uint64),
        matches_from([entry_ids for _, entry_ids in pairs]),
        np.array(keys, np.uint64),
        np.array(counts, np.int64),
        threshold,
    )
    classes = outlook(*arguments).classes
    assert ((classes != EVICTED) == keep(*arguments)).all()
    assert ((classes >= EVICTED) & (classes < N_OUTLOOKS)).all()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2000, EVICTED), (1999, 0), (1500, 0), (1200, 1), (800, 2), (500, 3), (200, 4), (110, 4), (75, 5), (0, 5)],
)
def test_the_class_tells_how_far_the_counts_can_grow(count: int, expected: int) -> None:
    """With a draw of one half and t = 1000 the pair goes at a count of 2000; a little earlier by bad luck."""
    base = base_with_draw(2**52)
    assert draw_of(base, 0) == 0.5
    found = outlook(np.array([base], np.uint64), matches_from([[0]]), np.zeros(1, np.uint64), np.array([count]), 1000)
    assert found.classes.tolist() == [expected]
    assert (found.witnesses.tolist(), found.draws.tolist()) == ([0], [0.5])


def test_a_draw_of_zero_lasts_for_ever_and_no_match_is_evicted() -> None:
    base = np.array([base_with_draw(0)] * 2, np.uint64)
    found = outlook(base, matches_from([[0], []]), np.zeros(1, np.uint64), np.array([2**53]), 1)
    assert found.classes.tolist() == [N_OUTLOOKS - 1, EVICTED]
    assert (found.witnesses.tolist(), found.draws.tolist()) == ([0, 0], [0.0, math.inf])
    for count in (0, 1):
        assert not Guard.of(found.witnesses, found.draws).holds(np.array([count]), 1)
    assert Guard.of(found.witnesses[:1], found.draws[:1]).holds(np.array([2**53]), 1)


# --- the guard

MANY_PAIRS = st.lists(st.tuples(U64, st.lists(st.integers(0, 4), unique=True).map(sorted)), max_size=12)
COUNTS = st.lists(st.integers(0, 12), min_size=5, max_size=5)


@given(MANY_PAIRS, st.lists(U64, min_size=5, max_size=5), COUNTS, COUNTS, st.integers(1, 12), st.integers(0, 11))
def test_a_guard_that_holds_means_that_the_rule_keeps_all(
    pairs: list[tuple[int, list[int]]],
    keys: list[int],
    counts: list[int],
    more: list[int],
    threshold: int,
    lowered_by: int,
) -> None:
    """At whatever counts and threshold; and it holds at those that it was made at."""
    base = np.array([base for base, _ in pairs], np.uint64)
    matches = matches_from([ids for _, ids in pairs])
    found = outlook(base, matches, np.array(keys, np.uint64), np.array(counts), threshold)
    stays = found.classes != EVICTED
    guard = Guard.of(found.witnesses[stays], found.draws[stays])

    assert guard.holds(np.array(counts), threshold)
    later, lower = np.array(counts) + np.array(more), max(1, threshold - lowered_by)
    if guard.holds(later, lower):
        assert keep(base, matches, np.array(keys, np.uint64), later, lower)[stays].all()


def test_a_guard_keeps_the_largest_draw_of_each_witness() -> None:
    guard = Guard.of(np.array([3, 1, 3, 0], np.int32), np.array([0.25, 0.5, 0.75, 0.0]))
    assert dict(zip(guard.entry_ids.tolist(), guard.draws.tolist(), strict=True)) == {1: 0.5, 3: 0.75}
    joined = guard.joined(Guard.of(np.array([1, 2], np.int32), np.array([0.625, 0.125])))
    assert dict(zip(joined.entry_ids.tolist(), joined.draws.tolist(), strict=True)) == {1: 0.625, 2: 0.125, 3: 0.75}
    assert joined.nbytes == 3 * (4 + 8)
    assert not joined.holds(np.array([0, 0, 0, 4]), 3)
    assert joined.holds(np.array([99, 4, 23, 3]), 3)


def test_a_guard_of_nothing_holds() -> None:
    nothing = Guard.of(np.zeros(0, np.int32), np.zeros(0))
    assert nothing.holds(np.array([2**53]), 1)
    assert nothing.joined(nothing).nbytes == 0
