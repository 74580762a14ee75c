"""What becomes of speed, memory and surplus when the stream gets longer, the list of entries, or the machine larger.

The threshold grows with the stream, so that about the same share of it is admitted and it is the same work for each
pair.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data import metadata as metadata_of
from bench.measured import Ran, Rounds
from bench.whole_job import curate, without_start


def by_pairs(
    files: Sequence[Path],
    n_in_file: int,
    lengths: Sequence[int],
    metadata: Path,
    per_million: int,
    folder: Path,
    n_rounds: int,
) -> list[dict[str, Any]]:
    """Curate the first files, as many as each of `lengths` says, in turn."""
    runs: dict[int, list[Ran]] = {n: [] for n in lengths}
    for _ in range(n_rounds):
        for n in lengths:
            threshold = threshold_for(n * n_in_file, per_million)
            runs[n].append(curate(files[:n], metadata, threshold, folder / "growth"))
    return [_point(n * n_in_file, runs[n]) for n in lengths]


def without_duplicates(
    files: Sequence[Path], n_in_file: int, metadata: Path, per_million: int, folder: Path
) -> dict[str, Any]:
    """Curate all the files without a memory of pairs seen: all other memory should not grow with the stream."""
    n_pairs = len(files) * n_in_file
    threshold = threshold_for(n_pairs, per_million)
    return _point(n_pairs, [curate(files, metadata, threshold, folder / "growth", "--dedup", "none")])


def by_cores(
    files: Sequence[Path], n_pairs: int, metadata: Path, per_million: int, folder: Path, cores: int, n_rounds: int
) -> dict[str, Any]:
    """Curate the files with one core and with all of them in turn, so that both have the same moods of the machine."""
    threshold = threshold_for(n_pairs, per_million)
    rounds = {"one_core": Rounds(n_pairs), "all_cores": Rounds(n_pairs)}
    for _ in range(n_rounds):
        for name, n_cores in (("one_core", 1), ("all_cores", cores)):
            ran = curate(files, metadata, threshold, folder / "growth", cores=n_cores)
            rounds[name].add(without_start(ran.report), ran.cpu_s)
    return {"n_pairs": n_pairs, "cores": cores} | {name: each.as_dict() for name, each in rounds.items()}


def by_entries(
    files: Sequence[Path], n_pairs: int, numbers: Sequence[int], per_million: int, folder: Path
) -> list[dict[str, Any]]:
    """Curate the files with lists of so many entries."""
    points = []
    for n_entries in numbers:
        path = folder / f"{n_entries}.txt.zst"
        metadata_of(n_entries).save(path, zstd_level=1)
        threshold = threshold_for(n_pairs, per_million)
        point = _point(n_pairs, [curate(files, path, threshold, folder / "growth")])
        points.append({"n_entries": n_entries} | point)
    return points


def threshold_for(n_pairs: int, per_million: int) -> int:
    """t for a stream of this length."""
    return max(1, round(per_million * n_pairs / 1_000_000))


def _point(n_pairs: int, runs: Sequence[Ran]) -> dict[str, Any]:
    seconds = [without_start(run.report) for run in runs]
    report = runs[-1].report
    return {
        "n_pairs": n_pairs,
        "threshold": report["threshold"],
        "wall_s": [round(each, 3) for each in seconds],
        "pairs_per_second": round(n_pairs / statistics.median(seconds)),
        "cpu_s": [round(run.cpu_s, 3) for run in runs],
        "peak_bytes": max(run.peak_bytes for run in runs),
        "n_admitted": report["n_admitted"],
        "n_curated": report["n_curated"],
        "over_admission": round(report["n_admitted"] / max(report["n_curated"], 1), 3),
        "settle_share": round(
            statistics.median(
                run.report["stages_seconds"]["settle"] / each for run, each in zip(runs, seconds, strict=True)
            ),
            3,
        ),
    }
