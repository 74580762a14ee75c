"""The user relies on the trie staying right and within its memory where hashes collide, buffers are damaged, tables
grow and threads share it."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from stream_curate.matching import Matches, TrieMatcher
from stream_curate.spacing import spacing


def test_forged_hashes_match_nothing_else() -> None:
    """With one hash for all, only the comparison of bytes tells tokens apart."""
    words = [length * "x" + end for length in (6, 7, 8, 14, 15, 16, 40) for end in "abc"]
    entries = words[::2] + [f"{first} {second}" for first, second in pairwise(words)]
    texts = [" ".join(words), " ".join(words[::-1]), *words]
    texts += [word + "d" for word in words] + [word[1:] for word in words]
    right = TrieMatcher(pa.array(entries)).match(pa.array(texts))
    for hash_bits in (0, 1, 0b1000, 2**63):
        weak = TrieMatcher(pa.array(entries), hash_bits=hash_bits).match(pa.array(texts))
        np.testing.assert_array_equal(weak.offsets, right.offsets)
        np.testing.assert_array_equal(weak.entry_ids, right.entry_ids)


def test_a_long_token_is_compared_to_its_end() -> None:
    """One stands before the other in the trie's bytes, one is the beginning of the other, and one lies across two."""
    words = ["x" * 20, "x" * 21, "x" * 22 + "y", "y" * 16]
    matcher = TrieMatcher(pa.array(words), hash_bits=0)
    texts = ["x" * 20, "x" * 21, "x" * 22, "x" * 22 + "y", "y" * 16, "x" * 20 + "y" * 16, "y" * 17, "y" * 15, "x" * 19]
    found = matcher.match(pa.array(texts))
    assert np.diff(found.offsets).tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert found.entry_ids.tolist() == [0, 1, 2, 3]


def by_definition(entries: list[str], texts: list[str]) -> list[list[int]]:
    return [[row for row, entry in enumerate(entries) if f" {entry} " in spacing(text)] for text in texts]


def as_lists(matches: Matches) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(matches.entry_ids, matches.offsets[1:-1])]


def test_the_trie_cuts_at_the_bytes_at_which_spacing_cuts() -> None:
    """Each of the first 128 characters between two words, and some whose UTF-8 bytes are near them."""
    characters = [*map(chr, range(128)), "\xa0", "\u2028", "\u3000", "\uff0c"]
    entries = ["a", "b", "a b", "a  b", *",.;:?!`", "a , b"]
    texts = [f"a{character}b" for character in characters]
    assert as_lists(TrieMatcher(pa.array(entries)).match(pa.array(texts))) == by_definition(entries, texts)


@pytest.mark.parametrize("end", [" ", ",", "\n", ""])
def test_tokens_end_anywhere_in_the_64_bytes_that_are_read_at_once(end: str) -> None:
    """Before, across and at the end of a chunk, and at the very end of the buffer or before another text."""
    entries = ["cat", "é", "cat asleep", ",", "cat , asleep"] + ["x" * n for n in range(1, 140)]
    texts = ["x" * n + middle + f"cat{end}asleep" for n in range(140) for middle in (" ", ",")]
    texts += [f"{'é ' * n}cat{end}" for n in range(70)]
    expected = by_definition(entries, texts)
    matcher = TrieMatcher(pa.array(entries))
    assert as_lists(matcher.match(pa.array(texts))) == expected
    for text, found in zip(texts, expected, strict=True):
        exact = pa.Array.from_buffers(  # not one byte of room behind it
            pa.large_string(), 1, [None, pa.py_buffer(np.array([0, len(text.encode())])), pa.py_buffer(text.encode())]
        )
        assert matcher.match(exact).entry_ids.tolist() == found


def test_the_bytes_around_a_slice_are_not_matched() -> None:
    whole = pa.array(["cat", "as", "leep ", " cat", "asleep"])
    matcher = TrieMatcher(pa.array(["cat", "asleep", "as", "leep", "as leep", "leep  cat"]))
    for first in range(5):
        for n_texts in range(1, 6 - first):
            texts = whole.slice(first, n_texts)
            assert as_lists(matcher.match(texts)) == [as_lists(matcher.match(whole))[first + i] for i in range(n_texts)]


@pytest.mark.parametrize("n_below", [1, 2, 63, 64, 65, 300])
def test_a_filter_lets_all_pairs_through_and_adds_none(n_below: int) -> None:
    """The filter of `a` has 64 bits: many words that stand behind it in no entry have the bit of one that does."""
    words = [f"w{i}" for i in range(600)]
    entries = words + [f"a {word}" for word in words[:n_below]] + [f"b {word} c" for word in words[:n_below]]
    texts = [f"{first} {word} c" for word in words for first in "ab"]
    expected = [
        [row] + ([600 + row + n_below * is_b] if row < n_below else []) for row in range(600) for is_b in (0, 1)
    ]
    for hash_bits in (2**64 - 1, 0b111, 0):
        if hash_bits or n_below == 300:  # without any hash all words are compared with all
            assert as_lists(TrieMatcher(pa.array(entries), hash_bits).match(pa.array(texts))) == expected


def test_texts_of_more_matches_than_there_are_entries() -> None:
    """A text's matches take room for twice the entries; repeats are taken out whenever that is full."""
    for n_entries in (1, 3, 40):
        words = [f"w{i}" for i in range(n_entries)]
        entries = words + [f"{first} {second}" for first, second in pairwise(words)]
        texts = ["w0", " ".join(words * (5000 // n_entries)), "", " ".join(words[::-1] * 300), words[-1]]
        found = TrieMatcher(pa.array(entries)).match(pa.array(texts))
        assert as_lists(found) == by_definition(entries, texts)


def test_a_damaged_array_is_refused_and_not_read() -> None:
    """numba checks no index, so offsets that point out of the data must not reach a kernel."""
    matcher = TrieMatcher(pa.array(["a"]))
    for offsets in ([0, 5, 2], [0, 1, 2**30], [-4, 1, 2], [0, 3, 2]):
        buffer = np.array([0, 1, 2], np.int32)
        damaged = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(buffer), pa.py_buffer(b"ab")], null_count=0)
        buffer[:] = offsets
        with pytest.raises(ValueError, match="damaged"):
            matcher.match(damaged)


def test_bytes_that_are_no_utf8_stay_in_their_text() -> None:
    """Sources refuse them; should some come through, nothing else is read or matched."""
    data = b"\xff\xfe\x80 a\xc3"
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 5, 6], np.int32)), pa.py_buffer(data)], null_count=0
    )
    found = TrieMatcher(pa.array(["a", "\u00e9"])).match(broken)
    assert found.offsets.tolist() == [0, 1, 1]


def test_tables_grow_until_all_is_in() -> None:
    """Few entries of many tokens: far more tokens and edges than the number of entries lets expect."""
    entries = [" ".join(f"{row}-{column}" for column in range(150)) for row in range(40)]
    found = TrieMatcher(pa.array(entries)).match(pa.array(entries + [entry[:-1] for entry in entries]))
    assert found.entry_ids.tolist() == list(range(40))
    assert found.offsets.tolist() == list(range(41)) + [40] * 40


def test_threads_share_a_matcher() -> None:
    words = [f"w{i}" for i in range(2000)]
    matcher = TrieMatcher(pa.array(words))
    texts = [" ".join(words[(i * k) % 2000] for i in range(100)) for k in range(800)]
    batches = [pa.array(texts[first : first + 50]) for first in range(0, 800, 50)]
    alone = [matcher.match(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(matcher.match, batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.entry_ids, other.entry_ids)


def test_memory_is_told_and_modest() -> None:
    """At most 220 bytes for an entry of two words that no other has."""
    n_entries = 50_000
    matcher = TrieMatcher(pa.array([f"{i:x} {i:o}" for i in range(n_entries)]))
    assert 50 * n_entries < matcher.nbytes < 220 * n_entries


def test_the_entries_need_not_be_kept() -> None:
    words = [f"{i:020d}" for i in range(1000)]
    entries = pa.array(words)
    matcher = TrieMatcher(entries)
    del entries
    assert matcher.match(pa.array(words)).entry_ids.tolist() == list(range(1000))
