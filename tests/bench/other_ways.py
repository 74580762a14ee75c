"""The whole job, parquet in and curated pairs out, the ways people would do it without us.

    PYTHONPATH=tests python -m bench.other_ways published|polars FILE... --metadata FILE --threshold T --out FILE

published: MetaCLIP's scripts in one program: each text spaced and searched with pyahocorasick, a Python loop that
counts, a second pass with a draw for each match until one succeeds, the kept pairs written.

polars: what a data engineer would write. The matches come from a library again (--matcher), as a column of lists; the
rest, exploding, counting, joining, drawing, filtering and writing, is Polars.

With more cores than one, matching is shared out to processes, each with its own automaton; Polars uses all cores by
itself. Neither knows pairs that come twice, and neither goes on with a next crawl. The draws are random numbers, so the
pairs kept are others than ours, and about as many.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.matching import CONTESTANTS, Contestant

from stream_curate.metadata import Metadata

N_IN_TASK = 10_000
SEED = 7


class Laps:
    """Seconds of each step, one behind the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since_s = time.perf_counter()

    def end(self, step: str) -> None:
        """What was done since the last call was this."""
        now_s = time.perf_counter()
        self.seconds[step] = now_s - self._since_s
        self._since_s = now_s


class Matching:
    """A library's automaton, in this process or in one for each core."""

    def __init__(self, matcher: str, entries: pa.StringArray, cores: int, stack: ExitStack) -> None:
        self._here = self._pool = None
        if cores == 1:
            self._here = CONTESTANTS[matcher](entries)
        else:
            spawn = multiprocessing.get_context("spawn")
            self._pool = stack.enter_context(spawn.Pool(cores, _make, (matcher, entries)))
            self._pool.map(_match, [[]] * cores)  # wait until they stand

    def lists(self, texts: list[str]) -> list[list[int]]:
        """The matched ids of each text."""
        if self._here is not None:
            found: list[list[int]] = self._here.match(texts)
            return found
        return [ids for found in self._shared_out(_match, texts) for ids in found]

    def column(self, texts: list[str]) -> pa.ListArray:
        """The same as an Arrow column, without a Python list for all of it at once."""
        parts = [self._here.match(texts)] if self._here is not None else self._shared_out(_match, texts)
        lengths = np.fromiter((len(ids) for part in parts for ids in part), np.int32, len(texts))
        flat = np.fromiter((row for part in parts for ids in part for row in ids), np.int32, int(lengths.sum()))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))

    def _shared_out(self, work: Any, texts: list[str]) -> list[Any]:
        assert self._pool is not None
        return self._pool.map(work, [texts[at : at + N_IN_TASK] for at in range(0, len(texts), N_IN_TASK)], 1)


_of_this_process: list[Contestant] = []  # the automaton of a process of the pool


def _make(matcher: str, entries: pa.StringArray) -> None:
    _of_this_process.append(CONTESTANTS[matcher](entries))


def _match(texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = _of_this_process[0].match(texts)
    return found


def published(files: Sequence[Path], matching: Matching, n_entries: int, threshold: int, out: Path, laps: Laps) -> int:
    """MetaCLIP's scripts; the number of pairs kept."""
    pairs = pq.read_table([str(file) for file in files], columns=["url", "text"])
    texts = pairs["text"].to_pylist()
    laps.end("read")
    matched = matching.lists(texts)
    laps.end("match")
    entry_count = [0] * n_entries
    for entry_ids in matched:
        for entry_id in entry_ids:
            entry_count[entry_id] += 1
    laps.end("count")
    entry_probability = [min(1.0, threshold / count) if count else 1.0 for count in entry_count]
    draw = random.Random(SEED).random
    kept = []
    for row, entry_ids in enumerate(matched):
        for entry_id in entry_ids:
            if draw() < entry_probability[entry_id]:
                kept.append(row)
                break
    laps.end("draw")
    curated = pairs.take(pa.array(kept, pa.int64()))
    entry_ids = pa.array([matched[row] for row in kept], pa.list_(pa.int32()))
    pq.write_table(curated.append_column("entry_ids", entry_ids), out, compression="zstd")
    laps.end("write")
    return len(kept)


def polars(files: Sequence[Path], matching: Matching, threshold: int, out: Path, laps: Laps) -> int:
    """The same by data frames; the number of pairs kept."""
    import polars as pl

    pairs = pl.read_parquet([str(file) for file in files], columns=["url", "text"]).with_row_index("row")
    laps.end("read")
    pairs = pairs.with_columns(pl.Series("entry_ids", matching.column(pairs["text"].to_list())))
    laps.end("match")
    matched = pairs.select("row", "entry_ids").explode("entry_ids").drop_nulls()
    laps.end("explode")
    matched = matched.with_columns(draw=np.random.default_rng(SEED).random(len(matched)))
    counts = matched.group_by("entry_ids").agg(pl.len().alias("count"))
    kept = (
        matched.lazy()
        .join(counts.lazy(), on="entry_ids")
        .filter(pl.col("draw") * pl.col("count") < threshold)
        .select("row")
        .unique()
        .collect()
    )
    laps.end("count and draw")
    curated = pairs.join(kept, on="row", how="semi").drop("row")
    curated.write_parquet(out)
    laps.end("write")
    return len(curated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["published", "polars"])
    parser.add_argument("pairs", type=Path, nargs="+", metavar="FILE", help="parquet with columns url and text")
    parser.add_argument("--metadata", type=Path, required=True, metavar="FILE")
    parser.add_argument("--threshold", type=int, required=True)
    parser.add_argument("--matcher", default="pyahocorasick", choices=["pyahocorasick", "ahocorasick_rs"])
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    laps = Laps()
    with ExitStack() as stack:
        entries = Metadata.load(given.metadata).entries
        matching = Matching(given.matcher, entries, given.cores, stack)
        laps.end("start")
        begin_s = time.perf_counter()
        if given.way == "published":
            n_curated = published(given.pairs, matching, len(entries), given.threshold, given.out, laps)
        else:
            n_curated = polars(given.pairs, matching, given.threshold, given.out, laps)
        seconds = time.perf_counter() - begin_s
    steps = {step: round(taken_s, 3) for step, taken_s in laps.seconds.items()}
    print(json.dumps({"n_curated": n_curated, "seconds": seconds, "stages_seconds": steps}))


if __name__ == "__main__":
    main()
