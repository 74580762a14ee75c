"""The rule of final decisions: equal to plain Python, bit for bit, however the stream is cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from final_reference import Reference
from hypothesis import example, given
from hypothesis import strategies as st

from stream_curate.counting import CountsAndCoins
from stream_curate.draws import draws
from stream_curate.errors import ConfigError
from stream_curate.final_rule import MAX_POOL_SIZE, FinalDecisions, Horizon, accept_probabilities, decide
from stream_curate.matching import Matches

N_ENTRIES = 12
HORIZONS = st.sampled_from(["known", "endless"])
# few entries that come often and more that come now and then
PAIRS = st.lists(
    st.lists(st.integers(0, 20).map(lambda i: min(i, 40 - i) % N_ENTRIES), max_size=5, unique=True), max_size=80
)
EACH_HORIZON: tuple[Horizon, ...] = ("known", "endless")


def made(n_pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of pairs, keys of entries, and the draw of each pair for each entry."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, n_pairs, np.uint64)
    keys = rng.integers(0, 2**64, N_ENTRIES, np.uint64)
    return base, keys, draws(np.repeat(base, N_ENTRIES), np.tile(keys, n_pairs)).reshape(n_pairs, N_ENTRIES)


def matches_of(pairs: Sequence[Sequence[int]]) -> Matches:
    offsets = np.cumsum([0, *map(len, pairs)], dtype=np.int64)
    return Matches(offsets, np.array([e for matched in pairs for e in matched], np.int32))


def decided(
    pairs: Sequence[Sequence[int]],
    cuts: Sequence[int],
    made_of: tuple[np.ndarray, np.ndarray, np.ndarray],
    threshold: int,
    final: FinalDecisions,
) -> tuple[list[bool], CountsAndCoins]:
    base, keys, _ = made_of
    state = CountsAndCoins(N_ENTRIES)
    accepted: list[bool] = []
    won = np.zeros(N_ENTRIES, np.int64)
    places = sorted({0, len(pairs), *(min(cut, len(pairs)) for cut in cuts)})
    for start, end in pairwise(places):
        batch = matches_of(pairs[start:end])
        decisions = decide(base[start:end], batch, keys, state.counts, state.coins, start, threshold, final)
        accepted += decisions.accepted.tolist()
        won += np.bincount(batch.entry_ids[decisions.won], minlength=N_ENTRIES)
        state = CountsAndCoins.from_bytes(state.to_bytes(), N_ENTRIES)  # as after a restart
    assert won.tolist() == state.coins.tolist()
    return accepted, state


@given(PAIRS, st.lists(st.integers(0, 80), max_size=6), st.integers(0, 99), st.integers(1, 8), HORIZONS, st.data())
def test_any_batching_gives_what_plain_python_gives(
    pairs: list[list[int]], cuts: list[int], seed: int, threshold: int, horizon: Horizon, data: st.DataObject
) -> None:
    final = FinalDecisions(data.draw(st.sampled_from([1, 7, 40, max(1, len(pairs)), 1000, MAX_POOL_SIZE])), horizon)
    made_of = made(len(pairs), seed)
    reference = Reference(threshold, final)
    expected = list(reference.decide(pairs, lambda i, e: made_of[2][i, e]))

    accepted, state = decided(pairs, cuts, made_of, threshold, final)

    assert accepted == expected
    assert state.counts.tolist() == [reference.counts.get(e, 0) for e in range(N_ENTRIES)]
    assert state.coins.tolist() == [reference.coins.get(e, 0) for e in range(N_ENTRIES)]


def test_a_long_stream_gives_what_plain_python_gives() -> None:
    """Of both horizons, before, at and far beyond the pool size, with coins that are lost and won."""
    rng = np.random.default_rng(1)
    pairs = [np.unique(np.minimum(rng.zipf(1.5, 4), N_ENTRIES) - 1).tolist() for _ in range(3_000)]
    made_of = made(len(pairs), 1)
    for horizon in EACH_HORIZON:
        for pool_size in (500, 3_000, 9_000):
            final = FinalDecisions(pool_size, horizon)
            expected = list(Reference(20, final).decide(pairs, lambda i, e: made_of[2][i, e]))
            assert 0 < sum(expected) < len(pairs)
            for cuts in ([], [1, 2, 1_500], list(range(0, 3_000, 7))):
                assert decided(pairs, cuts, made_of, 20, final)[0] == expected


@given(PAIRS, st.integers(0, 99), HORIZONS)
def test_with_a_threshold_of_all_pairs_everything_matched_is_accepted(
    pairs: list[list[int]], seed: int, horizon: Horizon
) -> None:
    """As offline does when no entry is matched more than t times."""
    n = max(1, len(pairs))
    accepted, _ = decided(pairs, [], made(len(pairs), seed), n, FinalDecisions(n, horizon))
    assert accepted == [bool(matched) for matched in pairs]


@given(st.integers(0, 2**40), st.integers(0, 2**30), st.integers(1, 2**30), st.integers(1, 2**50), HORIZONS)
@example(0, 0, 1, 1, "known")
def test_the_probability_told_is_the_one_that_decides(
    count: int, coins: int, threshold: int, n_decided: int, horizon: Horizon
) -> None:
    coins, n_decided = min(coins, count), max(n_decided, count)
    final = FinalDecisions(2**35, horizon)
    (p,) = accept_probabilities(np.array([count]), np.array([coins]), n_decided, threshold, final)
    assert 0.0 <= p <= 1.0
    rng = np.random.default_rng(count)
    base, keys = rng.integers(0, 2**64, 20, np.uint64), rng.integers(0, 2**64, 1, np.uint64)
    for one in base:
        state = CountsAndCoins(1)
        state.counts[0], state.coins[0] = count, coins
        pair = Matches(np.array([0, 1]), np.array([0], np.int32))
        ((accepted,), _) = decide(np.array([one]), pair, keys, state.counts, state.coins, n_decided, threshold, final)
        assert accepted == (draws(np.array([one]), keys)[0] < p)
        assert (state.counts[0], state.coins[0]) == (count + 1, coins + accepted)


def test_those_who_decide_side_by_side_should_know_of_each_other_early() -> None:
    """0.1 % of the pool: up to there a batch decided with old counts does no harm."""
    assert FinalDecisions(1_600_000_000).first_counts_at == 1_600_000
    assert FinalDecisions(10).first_counts_at == 1


def test_an_entry_that_never_came_lets_its_first_pair_in() -> None:
    for horizon in EACH_HORIZON:
        final = FinalDecisions(1000, horizon)
        for n_decided in (0, 1, 999, 1000, 5000):
            assert accept_probabilities(np.zeros(1, int), np.zeros(1, int), n_decided, 1, final) == [1.0]


def test_an_entry_that_has_won_its_share_is_closed_until_the_goal_has_grown() -> None:
    final = FinalDecisions(1000, "known")
    counts, coins = np.array([500]), np.array([20])
    assert accept_probabilities(counts, coins, 600, 20, final) == [0.0]
    assert 0.0 < accept_probabilities(counts, coins, 1200, 20, final)[0] < 1.0


@pytest.mark.parametrize(
    ("pool_size", "horizon", "words"),
    [
        (0, "known", "the pool size is 0: it must be from 1 to"),
        (-5, "known", "the pool size is -5"),
        (2**53 + 1, "known", "the pool size is 9007199254740993"),
        (5, "near", "there is no horizon 'near': choose one of known, endless"),
    ],
)
def test_what_is_out_of_range_is_refused_in_words(pool_size: int, horizon: Horizon, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FinalDecisions(pool_size, horizon)


def test_the_share_of_the_threshold_grows_with_the_stream() -> None:
    final = FinalDecisions(1000)
    assert [final.threshold_at(n, 20) for n in (0, 125, 1000, 4000)] == [0.0, 2.5, 20.0, 80.0]
    assert [final.tail_count(n, 20) for n in (0, 125, 1000, 4000)] == [1, 2, 20, 80]
