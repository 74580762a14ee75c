"""Matching: which entries of the metadata stand in a text."""

from typing import Literal

from stream_curate.matching.automaton import AutomatonMatcher
from stream_curate.matching.matcher import Matcher, Matches, Strings
from stream_curate.matching.trie import TrieMatcher

__all__ = ["AutomatonMatcher", "Matcher", "Matches", "Strings", "TrieMatcher", "make_matcher"]


def make_matcher(name: Literal["trie", "automaton"], entries: Strings) -> Matcher:
    """Make the matcher of that name. Both find the same matches.

    Raises:
        ValueError: no matcher has this name, or the entries are not what it takes.
    """
    if name == "trie":
        return TrieMatcher(entries)
    if name == "automaton":
        return AutomatonMatcher(entries)
    raise ValueError(f"no matcher is called {name!r}: the matchers are trie and automaton")
