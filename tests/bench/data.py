"""What every contestant gets: pairs from the real captions, and a list of entries.

*Pairs.* The captions of tests/shards, over and over in a shuffled order, each pair with a url of its own. So the
lengths, the words and how often they come are real; what is not real is that each caption comes about 40 times in a
million, so that everything it touches is in a near cache sooner than with captions that are all different. `mixed=True`
joins the first half of one caption to the second half of another: then nearly every caption is different, of the same
words.

*Entries.* The shipped list, then the word pairs of word_pairs.txt.zst (see make_metadata.py), then, for more entries
than these are, other pairs of the words that these begin with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from million import real_pairs

from stream_curate.metadata import Metadata

WORD_PAIRS = Path(__file__).with_name("word_pairs.txt.zst")
N_ENTRIES = 500_000
"""Entries of the list that is used wherever nothing else is said: the shipped ones and all of WORD_PAIRS."""

N_FREQUENT_WORDS = 2_000
ROWS_IN_GROUP = 100_000


def write_pairs(path: Path, n_pairs: int, *, first: int = 0, mixed: bool = False) -> None:
    """Write the parquet file of the pairs `first` to `first + n_pairs - 1` of the stream: columns url and text.

    Behind each url stands `#` and the pair's number, so that all differ. The same call gives the same pairs.
    """
    pairs = real_pairs()
    numbers = np.random.default_rng(first + 1).permutation(np.arange(first, first + n_pairs))
    rows = pa.array(numbers % len(pairs))
    marks = pa.array(numbers).cast(pa.string())
    urls = pc.binary_join_element_wise(pairs["url"].combine_chunks().take(rows), marks, "#")
    texts = pairs["text"].combine_chunks()
    if mixed:
        heads, tails = _halves(texts)
        others = pa.array(np.random.default_rng(first + 2).permutation(numbers) % len(pairs))
        texts = pc.binary_join_element_wise(heads.take(rows), tails.take(others), " ")
    else:
        texts = texts.take(rows)
    pq.write_table(pa.table({"url": urls, "text": texts}), path, compression="snappy", row_group_size=ROWS_IN_GROUP)


def _halves(texts: pa.StringArray) -> tuple[pa.Array, pa.Array]:
    """Each text up to the space next to its middle, and on from there."""
    cut = [text.split(" ") for text in texts.to_pylist()]
    return (
        pa.array([" ".join(words[: (len(words) + 1) // 2]) for words in cut]),
        pa.array([" ".join(words[(len(words) + 1) // 2 :]) for words in cut]),
    )


@cache
def metadata(n_entries: int = N_ENTRIES) -> Metadata:
    """A list of so many entries: what the module says, or some of N_ENTRIES, evenly spaced, if fewer are wanted.

    Raises:
        ValueError: for more entries than there are.
    """
    shipped = Metadata.default().entries.to_pylist()
    word_pairs = Metadata.load(WORD_PAIRS).entries.to_pylist()
    entries = shipped + word_pairs
    if n_entries <= len(entries):
        return Metadata.from_entries(entries[row] for row in np.linspace(0, len(entries) - 1, n_entries).astype(int))
    known = set(entries)
    words = dict.fromkeys(word for pair in word_pairs for word in pair.split(" "))
    more = (pair for pair in _pairs_of(list(words)[:N_FREQUENT_WORDS]) if pair not in known)
    entries += islice(more, n_entries - len(entries))
    if len(entries) < n_entries:
        raise ValueError(f"there are {len(entries):,} entries, not {n_entries:,}")
    return Metadata.from_entries(entries)


def _pairs_of(words: list[str]) -> Iterator[str]:
    for first in words:
        for second in words:
            yield f"{first} {second}"
