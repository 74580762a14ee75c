"""The user relies on the automaton as a second opinion: it looks for the entry between spaces in the spaced text."""

import pyarrow as pa
import pytest

from stream_curate.matching import AutomatonMatcher


def test_overlapping_entries_are_all_found() -> None:
    """Neighbours share the space between them, and one entry may lie within another."""
    matcher = AutomatonMatcher(pa.array(["a", "b", "a b", "b a", "a b a", "c"]))
    assert matcher.match(pa.array(["a b a"])).entry_ids.tolist() == [0, 1, 2, 3, 4]


def test_an_entry_twice_is_refused_as_the_automaton_would_keep_the_last_only() -> None:
    with pytest.raises(ValueError, match="rows 0 and 1"):
        AutomatonMatcher(pa.array(["a", "a"]))


def test_characters_beyond_the_first_plane_and_nul() -> None:
    matcher = AutomatonMatcher(pa.array(["\0", "🐈", "🐈 \0"]))
    assert matcher.match(pa.array(["🐈 \0", "\0🐈"])).offsets.tolist() == [0, 3, 3]
