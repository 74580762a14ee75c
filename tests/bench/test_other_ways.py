"""The other ways to do the whole job keep what they should."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.other_ways import Laps, Matching, polars, published

ENTRIES = pa.array(["dog", "cat", "zebra"])
TEXTS = ["a dog"] * 200 + ["a cat , a dog"] * 100 + ["a zebra"] * 3 + ["nothing"] * 50


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"url": [f"http://x.org/{i}" for i in range(len(TEXTS))], "text": TEXTS}), path)
    return path


@pytest.mark.parametrize("cores", [1, 2])
def test_both_keep_all_of_what_is_rare_and_about_t_of_the_rest(pairs: Path, tmp_path: Path, cores: int) -> None:
    out = tmp_path / "curated.parquet"
    with ExitStack() as stack:
        matching = Matching("pyahocorasick", ENTRIES, cores, stack)
        for way in ("published", "polars"):
            for threshold in (1_000, 30):
                if way == "published":
                    n = published([pairs], matching, len(ENTRIES), threshold, out, Laps())
                else:
                    n = polars([pairs], matching, threshold, out, Laps())
                curated = pl.read_parquet(out)
                assert len(curated) == n
                texts = curated["text"].to_list()
                assert texts.count("nothing") == 0
                assert texts.count("a zebra") == 3
                if threshold == 1_000:
                    assert n == 303
                else:
                    assert 20 <= n <= 100
                ids = dict(zip(texts, curated["entry_ids"].to_list(), strict=True))
                assert sorted(ids["a cat , a dog"]) == [0, 1]
