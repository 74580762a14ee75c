"""The contestants of the matching benchmark find the same, and a difference is found."""

from __future__ import annotations

import pyarrow as pa
import pytest
from bench import matching
from bench.matching import CONTESTANTS, OURS, Party, Processes, Threads, digest, measure, measure_naive
from million import real_pairs

ENTRIES = pa.array(["dog", "in the", "a", "the", "park", ",", "in", "hot dog", "zzz"])


@pytest.fixture(scope="module")
def texts() -> pa.StringArray:
    texts: pa.StringArray = real_pairs()["text"].combine_chunks()[:501]
    return texts


def test_all_contestants_find_the_same(texts: pa.StringArray) -> None:
    found = measure(ENTRIES, texts, 1, 2)
    assert set(found["contestants"]) == set(CONTESTANTS)
    for each in found["contestants"].values():
        assert len(each["wall_s"]) == 2
        assert each["slowest"] <= each["pairs_per_second"] <= each["fastest"]
    assert measure_naive(ENTRIES, texts)["n_pairs"] == matching.N_NAIVE


def test_threads_and_processes_find_what_one_finds(texts: pa.StringArray) -> None:
    alone = digest(Party(OURS, ENTRIES, texts).ids())
    parties: list[Threads | Processes] = [
        Threads(OURS, ENTRIES, texts, 2),
        Processes("pyahocorasick", ENTRIES, texts, 2),
    ]
    for party in parties:
        assert party.match() >= 0
        assert digest(party.ids()) == alone
        party.close()


def test_a_contestant_that_finds_something_else_ends_the_run(
    texts: pa.StringArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(matching.PyAhoCorasick):
        def match(self, texts: list[str]) -> list[list[int]]:
            return [ids[:1] for ids in super().match(texts)]

    monkeypatch.setitem(matching.CONTESTANTS, "ahocorasick_rs", Wrong)
    with pytest.raises(RuntimeError, match="differ"):
        measure(ENTRIES, texts, 1, 1)
