"""The pairs and entries of the benchmarks are what they are said to be."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bench.data import N_ENTRIES, metadata, write_pairs
from million import real_pairs

from stream_curate.metadata import Metadata


def test_pairs_have_urls_of_their_own_across_files_and_are_the_same_each_time(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 30_000), ("a again", 0)):
        write_pairs(tmp_path / name, 30_000, first=first)
    one, two = pq.read_table(tmp_path / "a"), pq.read_table(tmp_path / "b")
    assert one.equals(pq.read_table(tmp_path / "a again"))
    both = pa.concat_tables([one, two])
    assert pc.count_distinct(both["url"]).as_py() == 60_000
    captions = set(real_pairs()["text"].to_pylist())
    assert set(both["text"].to_pylist()) == captions  # each twice or three times
    assert one["text"].to_pylist() != real_pairs()["text"].to_pylist()[:30_000]


def test_mixed_captions_are_nearly_all_different_and_of_the_same_words(tmp_path: Path) -> None:
    write_pairs(tmp_path / "mixed", 40_000, mixed=True)
    texts = pq.read_table(tmp_path / "mixed")["text"]
    assert pc.count_distinct(texts).as_py() > 39_000
    words = {word for text in real_pairs()["text"].to_pylist() for word in text.split(" ")}
    assert {word for text in texts.to_pylist() for word in text.split(" ")} <= words


def test_lists_of_entries_have_the_size_that_is_asked_for() -> None:
    default = Metadata.default().entries.to_pylist()
    whole = metadata().entries.to_pylist()
    assert len(whole) == N_ENTRIES
    assert whole[: len(default)] == default
    assert "in the" in whole
    few = metadata(1_000).entries.to_pylist()
    assert len(few) == 1_000
    assert set(few) <= set(whole)
    more = metadata(N_ENTRIES + 5_000).entries.to_pylist()
    assert len(more) == N_ENTRIES + 5_000
    assert more[:N_ENTRIES] == whole
