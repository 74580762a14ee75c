"""The user relies on the trie staying right and within its memory where hashes collide, buffers are damaged, tables
grow and threads share it."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from stream_curate.matching import TrieMatcher


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
    """At most 200 bytes for an entry of two words that no other has."""
    n_entries = 50_000
    matcher = TrieMatcher(pa.array([f"{i:x} {i:o}" for i in range(n_entries)]))
    assert 50 * n_entries < matcher.nbytes < 200 * n_entries


def test_the_entries_need_not_be_kept() -> None:
    words = [f"{i:020d}" for i in range(1000)]
    entries = pa.array(words)
    matcher = TrieMatcher(entries)
    del entries
    assert matcher.match(pa.array(words)).entry_ids.tolist() == list(range(1000))
