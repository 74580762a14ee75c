"""Many pairs from the few real ones: the shards repeated, each time with other urls."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHARDS = Path(__file__).parent / "shards"


def real_pairs() -> pa.Table:
    """The valid pairs of the shards, 25,832 of them: columns url and text."""
    laion = pq.read_table(SHARDS / "laion-10k.parquet", columns=["URL", "TEXT"]).rename_columns(["url", "text"])
    with open(SHARDS / "gcc-validation.tsv", newline="", encoding="utf-8") as file:
        rows = [(url, text) for text, url in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    with open(SHARDS / "gcc-validation.jsonl", encoding="utf-8") as file:
        rows += [(row["url"], row["caption"]) for row in map(json.loads, file)]
    gcc = pa.table({"url": [url for url, _ in rows], "text": [text for _, text in rows]})
    both = pa.concat_tables([laion, gcc])
    return both.filter(pc.starts_with(both["url"], "http"))


def write_repeated(path: Path, n_pairs: int) -> None:
    """Write a parquet file of `n_pairs` pairs with distinct urls; `#k` behind a url marks its k-th repetition."""
    pairs = real_pairs()
    with pq.ParquetWriter(path, pairs.schema, compression="snappy") as writer:
        n_left, k = n_pairs, 0
        while n_left > 0:
            part = pairs.slice(0, n_left)
            urls = pc.binary_join_element_wise(part["url"], str(k), "#")
            writer.write_table(part.set_column(0, "url", urls))
            n_left -= len(part)
            k += 1
