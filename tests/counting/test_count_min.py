"""What is the sketch's own: its size, how far it is off, and that it is the same sketch for ever."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from datasketches import count_min_sketch

from stream_curate.counting import CountMinCounts, load_counts
from stream_curate.errors import ConfigError


def zipf(n_entries: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Entry ids in a random order, and increments as matches of words are spread; from a fixed seed."""
    weights = 1 / np.arange(1, n_entries + 1)
    increments = np.maximum(1, weights / weights.sum() * total).astype(np.int64)
    return np.random.default_rng(5).permutation(n_entries).astype(np.int32), increments


def test_the_error_bound_holds_in_the_large() -> None:
    """20,000 entries in 4 x 1,024 cells: no more entries are off by more than b than the bound allows."""
    entry_ids, increments = zipf(20_000, 10_000_000)
    counts = CountMinCounts(4, 1_024)
    counts.add(entry_ids, increments)

    errors = counts.estimates(entry_ids) - increments
    bound, probability = counts.counter.error_bound(counts.total)

    assert bound == pytest.approx(math.e / 1_024 * increments.sum())
    assert probability == pytest.approx(math.exp(-4))
    assert errors.min() >= 0
    assert errors.max() > 0
    assert (errors > bound).mean() <= probability


def test_more_cells_are_closer() -> None:
    entry_ids, increments = zipf(5_000, 1_000_000)
    mean_errors = []
    for num_buckets in (64, 1_024, 2**16):
        counts = CountMinCounts(4, num_buckets)
        counts.add(entry_ids, increments)
        mean_errors.append(float((counts.estimates(entry_ids) - increments).mean()))

    assert mean_errors[0] > 5 * mean_errors[1] > 25 * mean_errors[2]


def test_the_sketch_is_the_same_for_ever() -> None:
    """Tables hold its bytes, and its estimates decide what is kept: a new library must not change either."""
    counts = CountMinCounts(2, 16)
    counts.add(np.arange(20, dtype=np.int32), np.arange(1, 21, dtype=np.int64))

    assert counts.estimates(np.arange(20, dtype=np.int32)).tolist() == [
        1,
        13,
        3,
        14,
        5,
        29,
        7,
        8,
        23,
        10,
        13,
        29,
        48,
        14,
        24,
        31,
        38,
        18,
        27,
        20,
    ]
    assert (
        hashlib.sha256(counts.to_bytes()).hexdigest()
        == "44f8081758b7119ca9ada8cddab1b0a99138869667149972ff3a28372dc65889"
    )


SIZES = [(1, 3), (2, 16), (3, 1_000), (4, 2**16), (127, 5)]


@pytest.mark.parametrize(("num_hashes", "num_buckets"), SIZES)
def test_all_bits_are_those_of_the_library(num_hashes: int, num_buckets: int, rng: np.random.Generator) -> None:
    """What is counted, estimated, merged and saved; by the same library's own updates, one item a call."""
    library, other = count_min_sketch(num_hashes, num_buckets), count_min_sketch(num_hashes, num_buckets)
    counts, part = CountMinCounts(num_hashes, num_buckets), CountMinCounts(num_hashes, num_buckets)
    entry_ids = np.unique(np.append(rng.integers(0, 2**31, 2_000), [0, 1, 2**31 - 1])).astype(np.int32)
    increments = rng.integers(1, 2**33, len(entry_ids))
    for sketch, ours in ((library, counts), (other, part)):
        assert ours.to_bytes() == bytes(sketch.serialize())
        for entry_id, increment in zip(entry_ids.tolist(), increments.tolist(), strict=True):
            sketch.update(entry_id, increment)
        ours.add(entry_ids, increments)
        assert ours.to_bytes() == bytes(sketch.serialize())
        entry_ids = entry_ids[::3]
        increments = increments[::3]

    library.merge(other)
    counts.merge(part)

    assert counts.to_bytes() == bytes(library.serialize())
    assert counts.total == library.total_weight
    some = rng.integers(0, 2**31, 1_000).astype(np.int32)
    for ids in (entry_ids, some):
        assert counts.estimates(ids).tolist() == [library.get_estimate(entry_id) for entry_id in ids.tolist()]
    loaded = count_min_sketch.deserialize(counts.to_bytes())
    assert [loaded.get_estimate(i) for i in some.tolist()] == counts.estimates(some).tolist()


@pytest.mark.parametrize(("num_hashes", "num_buckets"), SIZES)
def test_what_the_library_saved_goes_on(num_hashes: int, num_buckets: int) -> None:
    """Tables of before hold the library's own bytes."""
    library = count_min_sketch(num_hashes, num_buckets)
    counter = CountMinCounts(num_hashes, num_buckets).counter
    for n_added in range(5):
        counts = load_counts(counter, 20, bytes(library.serialize()))
        assert counts.to_bytes() == bytes(library.serialize())
        library.update(n_added, 7)
        counts.add(np.array([n_added], np.int32), np.array([7], np.int64))
        assert counts.to_bytes() == bytes(library.serialize())


def test_bytes_that_are_no_sketch_or_of_other_hash_functions_are_refused() -> None:
    counter = CountMinCounts(2, 16).counter
    of_another_seed = bytes(count_min_sketch(2, 16, 9_002).serialize())

    for wrong in (b"", b"x" * 280, bytes(280), of_another_seed):
        with pytest.raises(ValueError, match="these bytes are no count-min sketch"):
            load_counts(counter, 20, wrong)


def test_memory_is_eight_bytes_a_cell_whatever_is_counted() -> None:
    counts = CountMinCounts(4, 256)
    counts.add(np.arange(3_000, dtype=np.int32), np.ones(3_000, np.int64))

    assert counts.nbytes == 4 * 256 * 8
    assert 4 * 256 * 8 <= len(counts.to_bytes()) <= 4 * 256 * 8 + 64
    assert CountMinCounts().nbytes == 33_554_432


@pytest.mark.parametrize(
    ("num_hashes", "num_buckets"), [(0, 16), (128, 16), (-1, 16), (2, 2), (2, 0), (4, 2**28), (127, 2**40)]
)
def test_a_size_that_no_sketch_can_have_is_refused_before_memory_is_taken(num_hashes: int, num_buckets: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot have {num_hashes} x {num_buckets} cells"):
        CountMinCounts(num_hashes, num_buckets)


@pytest.mark.parametrize(("num_hashes", "num_buckets"), [(1, 3), (127, 3)])
def test_the_smallest_sketches_count(num_hashes: int, num_buckets: int) -> None:
    counts = CountMinCounts(num_hashes, num_buckets)
    counts.add(np.array([5], np.int32), np.array([2], np.int64))

    assert load_counts(counts.counter, 10, counts.to_bytes()).estimates(np.array([5], np.int32)).tolist() == [2]
