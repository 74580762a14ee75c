"""The whole job, parquet in and curated pairs out: ours with all its defaults beside what other_ways.py does.

Each way is a command of its own, and they take turns. Two times are told of each: with its start (imports, entries,
automaton or trie) and without. The time without is what each measures itself. Of ours, it begins when the first pairs
are asked for and ends with the settled table; loading the compiled kernels falls into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import write_pairs
from bench.measured import Ran, Rounds, bench_command, curate_command, run

N_START = 1_000
OTHERS = {
    "published way, pyahocorasick": ["published"],
    "Polars, ahocorasick_rs": ["polars", "--matcher", "ahocorasick_rs"],
}
OURS = "stream-curate"


@dataclass
class Way:
    """What was measured of one way to do it."""

    n_pairs: int
    apart: Rounds = field(init=False)
    whole: Rounds = field(init=False)
    n_curated: int = 0
    peak_bytes: int = 0
    stages: list[dict[str, float]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.apart, self.whole = Rounds(self.n_pairs), Rounds(self.n_pairs)

    def as_dict(self) -> dict[str, Any]:
        return {
            "without_start": self.apart.as_dict(),
            "with_start": self.whole.as_dict(),
            "n_curated": self.n_curated,
            "peak_bytes": self.peak_bytes,
            "stages_seconds": {
                stage: sorted(each[stage] for each in self.stages)[len(self.stages) // 2] for stage in self.stages[0]
            },
            **self.more,
        }


def curate(
    files: Sequence[Path], metadata: Path, threshold: int, out: Path, *options: str, cores: int | None = None
) -> Ran:
    """Run ours into a new folder, which is removed again."""
    shutil.rmtree(out, ignore_errors=True)
    words = curate_command(*files, "--out", out, "--metadata", metadata, "--threshold", threshold, *options)
    ran = run(words, cores=cores)
    shutil.rmtree(out)
    return ran


def without_start(report: dict[str, Any]) -> float:
    """Seconds of a run of ours, by its own report, from when it was ready."""
    return float(report["seconds"] - report["ready_seconds"])


def start_pairs(folder: Path) -> Path:
    """A file with nearly nothing to do."""
    path = folder / "start.parquet"
    if not path.exists():
        write_pairs(path, N_START)
    return path


def measure(
    files: Sequence[Path], n_pairs: int, metadata: Path, threshold: int, folder: Path, cores: int, n_rounds: int
) -> dict[str, Any]:
    """All ways in turn, on so many cores."""
    ways = {name: Way(n_pairs) for name in (*OTHERS, OURS)}
    out = folder / "curated.parquet"
    shared = [*files, "--metadata", metadata, "--threshold", threshold, "--cores", cores, "--out", out]
    load = os.getloadavg()[0]
    for _ in range(n_rounds):
        for name, words in OTHERS.items():
            ran = run(bench_command("other_ways", *words, *shared), cores=cores)
            found = ran.report
            _add(ways[name], ran, found["seconds"])
        ran = curate(files, metadata, threshold, folder / "curated", cores=cores)
        report = ran.report
        seconds = without_start(report)
        _add(ways[OURS], ran, seconds)
        ways[OURS].more = {key: report[key] for key in ("n_admitted", "n_evicted", "n_matched")}
        ways[OURS].more |= {"start_s": round(ran.wall_s - seconds, 3), "admitted_share": report["n_admitted"] / n_pairs}
    out.unlink()
    return {
        "cores": cores,
        "n_pairs": n_pairs,
        "threshold": threshold,
        "load": load,
        "ways": {name: way.as_dict() for name, way in ways.items()},
    }


def _add(way: Way, ran: Ran, seconds: float) -> None:
    way.whole.add(ran.wall_s, ran.cpu_s)
    way.apart.add(seconds, ran.cpu_s)  # seconds of a core are known of the whole alone
    way.n_curated = ran.report["n_curated"]
    way.peak_bytes = max(way.peak_bytes, ran.peak_bytes)
    way.stages.append(ran.report["stages_seconds"])
