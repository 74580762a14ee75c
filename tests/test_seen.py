"""A pair that came before is known again, whatever its hash, at a memory that can be planned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.seen import N_SHARDS, ExactSeen, NothingSeen, Seen

# the upper 6 bits choose the shard, bits 20 to 51 the place in it
FEW = st.integers(0, 20)
ONE_SHARD = st.integers(0, 2**58 - 1).map(lambda value: value | 37 << 58)
ONE_PLACE = st.integers(0, 2**20 - 1).map(lambda value: value | 0x3_FFFF_FFFF << 20)
ANY = st.integers(0, 2**64 - 1)
EDGES = st.sampled_from([0, 1, 2**63, 2**64 - 1, *(shard << 58 for shard in range(N_SHARDS))])
HASHES = st.one_of(
    *(st.lists(kind, max_size=100) for kind in (FEW, ONE_SHARD, ONE_PLACE, ANY, EDGES, FEW | ANY | EDGES))
)


def add_all(seen: Seen, batches: list[list[int]]) -> list[bool]:
    return [is_new for batch in batches for is_new in seen.add(np.array(batch, np.uint64)).tolist()]


@given(st.lists(HASHES, max_size=6))
def test_it_is_a_set(batches: list[list[int]]) -> None:
    seen, known, expected = ExactSeen(), set(), []
    for value in (value for batch in batches for value in batch):
        expected.append(value not in known)
        known.add(value)

    assert add_all(seen, batches) == expected
    assert len(seen) == len(known)
    assert add_all(seen, batches) == [False] * len(expected)
    assert len(seen) == len(known)


def test_zero_is_a_hash_like_any_other() -> None:
    seen = ExactSeen()

    assert seen.add(np.array([0, 5, 0], np.uint64)).tolist() == [True, True, False]
    assert seen.add(np.array([0], np.uint64)).tolist() == [False]
    assert len(seen) == 2


@pytest.mark.parametrize("batch_size", [1, 37, 5_000])
def test_it_grows_and_forgets_nothing(batch_size: int, rng: np.random.Generator) -> None:
    """All in one shard, and crowded: the hardest case for a table that grows."""
    hashes = rng.permutation(np.arange(1, 5_001, dtype=np.uint64)) << np.uint64(18) | np.uint64(9 << 58)
    seen = ExactSeen()
    for start in range(0, len(hashes), batch_size):
        assert seen.add(hashes[start : start + batch_size]).all()

    assert len(seen) == len(hashes)
    assert not seen.add(hashes).any()
    assert seen.add(hashes + np.uint64(1)).all()


def test_a_million_pairs_take_at_most_16_bytes_each(rng: np.random.Generator) -> None:
    """At every moment of growing; what a batch reserves in advance is the constant."""
    n, batch_size = 1_000_000, 10_000
    constant = 16 * batch_size + 64 * 1_024
    hashes = rng.integers(0, 2**64, n, np.uint64)
    seen = ExactSeen()
    for start in range(0, n, batch_size):
        seen.add(hashes[start : start + batch_size])
        assert 8 * len(seen) < seen.nbytes <= 16 * len(seen) + constant

    assert len(seen) == len(np.unique(hashes))
    assert not seen.add(hashes[::7]).any()


def test_pairs_that_come_again_take_no_memory(rng: np.random.Generator) -> None:
    hashes = rng.integers(0, 2**64, 10_000, np.uint64)
    seen = ExactSeen()
    seen.add(hashes)
    seen.add(hashes)
    after_two = seen.nbytes
    for _ in range(20):
        seen.add(hashes)

    assert seen.nbytes == after_two <= 16 * 2 * len(hashes) + 64 * 1_024


def test_an_empty_batch_changes_nothing() -> None:
    seen = ExactSeen()

    assert seen.add(np.array([], np.uint64)).tolist() == []
    assert len(seen) == 0


def test_without_dedup_everything_is_new_and_nothing_is_remembered() -> None:
    seen = NothingSeen()

    assert add_all(seen, [[1, 1, 0], [1]]) == [True] * 4
    assert (len(seen), seen.nbytes) == (0, 0)


def test_what_is_reserved_is_room_and_nothing_else(rng: np.random.Generator) -> None:
    base = rng.integers(2**64, size=100_000, dtype=np.uint64)
    seen, reserved = ExactSeen(), ExactSeen()
    reserved.reserve(len(base))
    assert len(reserved) == 0
    n_bytes = reserved.nbytes
    assert seen.add(base).tolist() == reserved.add(base).tolist()
    assert len(seen) == len(reserved)
    assert reserved.nbytes <= 1.1 * n_bytes <= 1.1 * 16 * len(base)
