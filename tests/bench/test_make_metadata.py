"""How the word pairs of the benchmarks' list are found."""

from __future__ import annotations

from pathlib import Path

from bench.make_metadata import glosses, most_frequent, word_pairs

from stream_curate.metadata_build import WORDNET_FILES


def test_pairs_are_neighbours_of_letters_alone() -> None:
    assert word_pairs(["a big dog, a big cat", "no 2 dogs  here"]) == {"a big": 2, "big dog": 1, "big cat": 1}


def test_the_most_frequent_come_first_and_known_ones_not_at_all(tmp_path: Path) -> None:
    for name in WORDNET_FILES:
        line = '00001740 03 n 01 entity 0 000 | zzz qqq (zzz qqq); "zzz qqq rrr"  \n'
        (tmp_path / name).write_text(f"  1 the licence | not a gloss\n{line * 5_000}", encoding="ascii")
    assert next(glosses(tmp_path)) == "zzz qqq zzz qqq; zzz qqq rrr  "
    found = most_frequent(tmp_path, 3, {"qqq rrr"})
    assert found[:2] == ["zzz qqq", "qqq zzz"]
    assert len(found) == 3
    assert "qqq rrr" not in found
