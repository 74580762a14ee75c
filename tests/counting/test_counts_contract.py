"""What every counter promises; deciding early, merging and resuming rest on it. A new one is added to COUNTERS."""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cut

from stream_curate.counting import Counter, Counts, empty_counts, load_counts

N_ENTRIES = 40
COUNTERS = [
    pytest.param(Counter("exact"), id="exact"),
    pytest.param(Counter("count-min"), id="count-min"),
    pytest.param(Counter("count-min", 2, 16), id="count-min-2x16"),
    pytest.param(Counter("count-min", 1, 3), id="count-min-1x3"),
]
every_counter = pytest.mark.parametrize("counter", COUNTERS)
small_counter = pytest.mark.parametrize("counter", [p for p in COUNTERS if p.id != "count-min"])  # 33 MB an example

ALL = np.arange(N_ENTRIES, dtype=np.int32)
MATCHES = st.lists(st.tuples(st.integers(0, N_ENTRIES - 1), st.integers(1, 2**40)), max_size=40)
PARTS = MATCHES.flatmap(cut)


def add(counts: Counts, matches: Iterable[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Add (entry id, increment) as one batch, where an entry id may stand but once; those ids, and what `add` gives."""
    increments: Multiset[int] = Multiset()
    for entry_id, increment in matches:
        increments[entry_id] += increment
    entry_ids = np.array(list(increments), np.int32)
    return entry_ids, counts.add(entry_ids, np.array(list(increments.values()), np.int64))


def counted(counter: Counter, parts: Iterable[Iterable[tuple[int, int]]]) -> Counts:
    counts = empty_counts(counter, N_ENTRIES)
    for part in parts:
        add(counts, part)
    return counts


def truth(parts: Iterable[Iterable[tuple[int, int]]]) -> np.ndarray:
    counts = np.zeros(N_ENTRIES, np.int64)
    for part in parts:
        for entry_id, increment in part:
            counts[entry_id] += increment
    return counts


@every_counter
def test_nothing_counted_is_zero_everywhere(counter: Counter) -> None:
    counts = empty_counts(counter, N_ENTRIES)
    counts.add(np.array([], np.int32), np.array([], np.int64))

    assert counts.counter == counter
    assert counts.total == 0
    assert counts.estimates(ALL).tolist() == [0] * N_ENTRIES
    assert counts.estimates(ALL[:0]).tolist() == []
    assert counts.counter.error_bound(counts.total)[0] == 0
    assert counts.nbytes > 0


@small_counter
@given(parts=PARTS)
def test_an_estimate_is_never_below_the_truth_and_never_falls(counter: Counter, parts: Any) -> None:
    counts = empty_counts(counter, N_ENTRIES)
    before = counts.estimates(ALL)
    for n_added, part in enumerate(parts, 1):
        entry_ids, at_once = add(counts, part)
        estimates = counts.estimates(ALL)
        assert estimates.dtype == at_once.dtype == np.int64
        assert (at_once <= estimates[entry_ids]).all()
        assert (at_once >= truth(parts[:n_added])[entry_ids]).all()
        assert (estimates >= truth(parts[:n_added])).all()
        assert (estimates >= before).all()
        before = estimates


@small_counter
@given(data=st.data(), matches=MATCHES)
def test_order_and_grouping_do_not_matter(counter: Counter, data: st.DataObject, matches: Any) -> None:
    together = counted(counter, [matches])
    apart = counted(counter, data.draw(st.permutations(matches).flatmap(cut)))

    assert apart.estimates(ALL).tolist() == together.estimates(ALL).tolist()
    assert apart.total == together.total == sum(increment for _, increment in matches)
    assert apart.to_bytes() == together.to_bytes()


@small_counter
@given(parts=PARTS)
def test_parts_merged_are_the_whole(counter: Counter, parts: Any) -> None:
    """So workers can count apart; and what one part says is a lower bound of what all say."""
    merged = empty_counts(counter, N_ENTRIES)
    each = [counted(counter, [part]) for part in parts]
    for part in each:
        merged.merge(part)
    whole = counted(counter, parts)

    assert merged.estimates(ALL).tolist() == whole.estimates(ALL).tolist()
    assert merged.total == whole.total
    assert all((part.estimates(ALL) <= whole.estimates(ALL)).all() for part in each)


@small_counter
@given(before=MATCHES, after=MATCHES)
def test_what_was_saved_goes_on_as_if_nothing_had_happened(counter: Counter, before: Any, after: Any) -> None:
    saved = counted(counter, [before])
    loaded = load_counts(counter, N_ENTRIES, saved.to_bytes())

    assert loaded.estimates(ALL).tolist() == saved.estimates(ALL).tolist()
    assert (loaded.total, loaded.counter, loaded.nbytes) == (saved.total, saved.counter, saved.nbytes)
    for counts in (saved, loaded):
        add(counts, after)
    assert loaded.estimates(ALL).tolist() == saved.estimates(ALL).tolist()
    assert loaded.to_bytes() == saved.to_bytes()


@every_counter
def test_a_counter_that_counted_nothing_is_saved_and_loaded(counter: Counter) -> None:
    loaded = load_counts(counter, N_ENTRIES, empty_counts(counter, N_ENTRIES).to_bytes())
    add(loaded, [(3, 5)])

    assert loaded.total == 5
    assert loaded.estimates(ALL)[3] == 5


@small_counter
def test_bytes_that_are_cut_or_longer_are_refused(counter: Counter) -> None:
    """A ValueError, which the callers turn into words; not a crash, and not other numbers."""
    data = counted(counter, [[(1, 1), (2, 2)]]).to_bytes()

    for wrong in [*(data[:n] for n in range(len(data))), data + b"x", data + data]:
        with pytest.raises(ValueError, match="bytes"):
            load_counts(counter, N_ENTRIES, wrong)


@small_counter
@pytest.mark.parametrize("other", [Counter("exact"), Counter("count-min", 2, 17), Counter("count-min", 3, 16)], ids=str)
def test_counts_of_another_counter_or_size_are_refused(counter: Counter, other: Counter) -> None:
    if counter == other:
        n_entries = N_ENTRIES + 1  # of exact counts the number of entries is the size
    else:
        n_entries = N_ENTRIES
    counts = counted(counter, [[(1, 1)]])
    for stranger in (empty_counts(other, n_entries), counted_in(other, n_entries)):
        with pytest.raises(ValueError, match="can only be merged"):
            counts.merge(stranger)
        with pytest.raises(ValueError, match=r"bytes|needed"):
            load_counts(counter, N_ENTRIES, stranger.to_bytes())
    assert counts.total == 1


def counted_in(counter: Counter, n_entries: int) -> Counts:
    counts = empty_counts(counter, n_entries)
    add(counts, [(1, 7)])
    return counts


@every_counter
def test_numbers_as_large_as_floats_are_exact(counter: Counter) -> None:
    """No pool has 2^53 pairs; below, nothing may be rounded."""
    counts = counted(counter, [[(0, 2**52)], [(0, 2**52 - 1)]])

    assert counts.estimates(ALL[:1]).tolist() == [2**53 - 1]
    assert counts.total == 2**53 - 1
