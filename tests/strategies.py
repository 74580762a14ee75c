"""Hypothesis strategies that several test files share, and the plain reference asked in one line."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from hypothesis import strategies as st

from stream_curate.counting import Counter
from stream_curate.draws import MAX_SEED
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool
from stream_curate.pairs import Records

Row = tuple[bytes | None, bytes | None]

ENTRIES = ("a", "dog", "cat", "a dog", "hot dog", ",", "犬", "a cat , a", "zebra")
WORDS = ("a", "a", "dog", "cat", "hot", ",", "犬", "unheard", "cat,", "zebra")
INVALID_URLS = (None, b"", b"ftp://x.org/1", b"http://x.org/\n", b"http://x.org/\xff")

EXACT = Counter("exact")
TINY = Counter("count-min", 2, 16)  # so small that most entries share a cell
COUNTERS = st.sampled_from([EXACT, TINY, Counter("count-min", 1, 3)])
SEEDS = st.one_of(st.sampled_from([0, 7, MAX_SEED]), st.integers(0, MAX_SEED))
DEDUPS = st.sampled_from(["exact", "none"])
METADATA = st.lists(st.sampled_from(ENTRIES), min_size=1, unique=True).map(Metadata.from_entries)


def rows(max_size: int = 60) -> st.SearchStrategy[list[Row]]:
    """Records of a crawl in small: few urls and few words, so that pairs come twice and entries pass the threshold."""
    good_url = st.integers(0, 20).map(b"http://x.org/%d".__mod__)
    url = st.one_of(good_url, good_url, good_url, good_url, st.sampled_from(INVALID_URLS))
    long_caption = st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: " ".join(words).encode())
    caption = st.one_of(st.sampled_from([b"a dog", b"a , a cat"]), long_caption)
    text = st.one_of(caption, caption, caption, caption, st.sampled_from([None, b"", b"\xff a dog"]))
    # every length is as likely as another: lists left to themselves are mostly too short for a head entry
    return st.integers(0, max_size).flatmap(lambda n: st.lists(st.tuples(url, text), min_size=n, max_size=n))


@st.composite
def cut(draw: st.DrawFn, stream: list[Row]) -> list[list[Row]]:
    """`stream` as consecutive batches, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@st.composite
def batches(draw: st.DrawFn, max_rows: int = 60) -> list[list[Row]]:
    """A stream, cut somehow."""
    return draw(cut(draw(rows(max_rows))))


def records_of(stream: list[Row], first_row: int = 0) -> Records:
    urls, texts = (pa.array([row[i] for row in stream], pa.binary()) for i in (0, 1))
    return Records("memory:", first_row, urls, texts)


def offline_subset(pool: OfflinePool, counter: Counter, threshold: int, seed: int) -> set[bytes]:
    """The pair_ids that the two-pass rule keeps of `pool`."""
    return {pool.pair_ids[index] for index in pool.kept(pool.entry_counts(counter), threshold, seed)}


def ids(admitted: Iterable[pa.RecordBatch]) -> list[bytes]:
    """The pair_ids in these batches, in their order."""
    return [pair_id for batch in admitted for pair_id in batch.column("pair_id").to_pylist()]
