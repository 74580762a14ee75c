"""A batch's matches become one increment for each entry, and the scratch space is clean for the next batch."""

from __future__ import annotations

from collections import Counter as Multiset

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.counting import increments_of
from stream_curate.matching import Matches


@given(st.lists(st.lists(st.integers(0, 11), unique=True).map(sorted), max_size=20))
def test_increments_are_how_often_each_entry_stands_among_the_matches(lists: list[list[int]]) -> None:
    flat = [entry_id for ids in lists for entry_id in ids]
    matches = Matches(np.cumsum([0, *map(len, lists)], dtype=np.int64), np.array(flat, np.int32))
    scratch = np.zeros(12, np.int64)

    entry_ids, increments = increments_of(matches, scratch)

    assert (entry_ids.dtype, increments.dtype) == (np.int32, np.int64)
    assert dict(zip(entry_ids.tolist(), increments.tolist(), strict=True)) == Multiset(flat)
    assert entry_ids.tolist() == list(dict.fromkeys(flat))
    assert not scratch.any()
