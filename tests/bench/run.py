"""`make bench` and `make bench-quick`: all measurements in one run.

    PYTHONPATH=tests python -m bench.run [--quick] [--only matching,whole_job,growth,kafka,start]

Writes results.json, table.md and the plots into out/bench (out/bench-quick). Nothing else should run meanwhile: each
part notes the load that it found. `python -m bench.report --keep` then puts the figures into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import growth, kafka_rates, report, whole_job
from bench.data import N_ENTRIES, metadata, write_pairs
from bench.measured import bench_command, end_in_order_on_sigterm, machine, n_cores_here, run

from stream_curate.logs import configure_logs

OUT = Path(__file__).parents[2] / "out"
PER_MILLION = 2
"""t for a million pairs: with N_ENTRIES entries it admits about a quarter of them as they come."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Lengths of streams are in files of `n_in_file` pairs."""

    n_entries: int
    n_in_file: int
    matching_pairs: int
    matching_rounds: int
    matching_rounds_mixed: int
    whole_files: int
    whole_rounds: int
    whole_rounds_all_cores: int
    growth_files: tuple[int, ...]
    growth_rounds: int
    growth_entries: tuple[int, ...]
    cores_files: int
    cores_rounds: int
    kafka_json_pairs: int
    kafka_arrow_pairs: int
    kafka_rounds: int
    kafka_commits: tuple[int, ...]
    n_warm: int
    n_cold: int


FULL = Sizes(
    n_entries=N_ENTRIES,
    n_in_file=500_000,
    matching_pairs=262_144,
    matching_rounds=3,
    matching_rounds_mixed=2,
    whole_files=2,
    whole_rounds=3,
    whole_rounds_all_cores=1,
    growth_files=(1, 2, 4, 8),
    growth_rounds=2,
    growth_entries=(50_000, 150_000, 500_000, 1_000_000),
    cores_files=8,
    cores_rounds=5,
    kafka_json_pairs=400_000,
    kafka_arrow_pairs=1_000_000,
    kafka_rounds=3,
    kafka_commits=(1_000,),
    n_warm=3,
    n_cold=1,
)
QUICK = Sizes(
    n_entries=100_000,
    n_in_file=50_000,
    matching_pairs=65_536,
    matching_rounds=2,
    matching_rounds_mixed=1,
    whole_files=2,
    whole_rounds=1,
    whole_rounds_all_cores=1,
    growth_files=(1, 4),
    growth_rounds=1,
    growth_entries=(25_000,),
    cores_files=4,
    cores_rounds=1,
    kafka_json_pairs=20_000,
    kafka_arrow_pairs=60_000,
    kafka_rounds=1,
    kafka_commits=(),
    n_warm=1,
    n_cold=0,
)


class Bench:
    """The measurements, each of which returns its part of the report.

    Args:
        sizes: how much.
        folder: for files that are not kept.
    """

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self._sizes = sizes
        self._folder = folder
        self._metadata = folder / "metadata.txt.zst"
        metadata(sizes.n_entries).save(self._metadata, zstd_level=1)
        n_files = max(sizes.whole_files, sizes.cores_files, *sizes.growth_files)
        self._files = [folder / f"pairs-{number}.parquet" for number in range(n_files)]
        for number, path in enumerate(self._files):
            write_pairs(path, sizes.n_in_file, first=number * sizes.n_in_file)
        self._mixed = folder / "mixed.parquet"
        write_pairs(self._mixed, sizes.matching_pairs, mixed=True)
        # kernels that were never compiled here are compiled now
        whole_job.curate([whole_job.start_pairs(folder)], self._metadata, 1, folder / "start")

    def matching(self) -> dict[str, Any]:
        sizes = self._sizes
        return {
            "one_core": self._match(self._files[0], 1, sizes.matching_rounds, "--naive"),
            "all_cores": self._match(self._files[0], n_cores_here(), sizes.matching_rounds),
            "one_core_mixed": self._match(self._mixed, 1, sizes.matching_rounds_mixed),
        }

    def _match(self, pairs: Path, cores: int, n_rounds: int, *words: str) -> dict[str, Any]:
        shared = ["--metadata", self._metadata, "--pairs", pairs, "--n-pairs", self._sizes.matching_pairs]
        command = bench_command("matching", *shared, "--cores", cores, "--rounds", n_rounds, *words)
        found: dict[str, Any] = run(command, cores=cores).report
        return found

    def whole_job(self) -> dict[str, Any]:
        return {
            "one_core": self._whole_job(1, self._sizes.whole_rounds),
            "all_cores": self._whole_job(n_cores_here(), self._sizes.whole_rounds_all_cores),
        }

    def _whole_job(self, cores: int, n_rounds: int) -> dict[str, Any]:
        files = self._files[: self._sizes.whole_files]
        n_pairs = len(files) * self._sizes.n_in_file
        threshold = growth.threshold_for(n_pairs, PER_MILLION)
        return whole_job.measure(files, n_pairs, self._metadata, threshold, self._folder, cores, n_rounds)

    def growth(self) -> dict[str, Any]:
        sizes = self._sizes
        files = self._files[: sizes.whole_files]
        return {
            "by_pairs": growth.by_pairs(
                self._files,
                sizes.n_in_file,
                sizes.growth_files,
                self._metadata,
                PER_MILLION,
                self._folder,
                sizes.growth_rounds,
            ),
            "without_duplicates": growth.without_duplicates(
                self._files[: sizes.growth_files[-1]], sizes.n_in_file, self._metadata, PER_MILLION, self._folder
            ),
            "by_cores": growth.by_cores(
                self._files[: sizes.cores_files],
                sizes.cores_files * sizes.n_in_file,
                self._metadata,
                PER_MILLION,
                self._folder,
                n_cores_here(),
                sizes.cores_rounds,
            ),
            "by_entries": growth.by_entries(
                files, len(files) * sizes.n_in_file, sizes.growth_entries, PER_MILLION, self._folder
            ),
        }

    def kafka(self) -> dict[str, Any]:
        sizes = self._sizes
        threshold = growth.threshold_for(sizes.kafka_arrow_pairs, PER_MILLION)
        return kafka_rates.measure(
            self._folder,
            kafka_rates.rule_of(self._metadata, threshold),
            n_entries=sizes.n_entries,
            n_pairs={"json": sizes.kafka_json_pairs, "arrow": sizes.kafka_arrow_pairs},
            # one, as partitions are taken over one after the other while the clock runs
            n_partitions=1,
            n_rounds=sizes.kafka_rounds,
            commits=sizes.kafka_commits,
        )

    def start(self) -> dict[str, Any]:
        rounds = ["--warm", self._sizes.n_warm, "--cold", self._sizes.n_cold]
        command = bench_command("start", "--metadata", self._metadata, "--folder", self._folder, *rounds)
        found: dict[str, Any] = run(command).report
        return found


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "matching": Bench.matching,
    "whole_job": Bench.whole_job,
    "growth": Bench.growth,
    "kafka": Bench.kafka,
    "start": Bench.start,
}


def measure(sizes: Sizes, parts: list[str]) -> dict[str, Any]:
    """Those parts of the report."""
    begin_s = time.monotonic()
    OUT.mkdir(exist_ok=True)
    found: dict[str, Any] = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "sizes": asdict(sizes),
        "load": {},
        "part_seconds": {},
    }
    with tempfile.TemporaryDirectory(prefix="bench-", dir=OUT) as folder:
        bench = Bench(sizes, Path(folder))
        _tell(f"data made after {time.monotonic() - begin_s:.0f} s")
        for part in parts:
            _tell(f"{part} ...")
            part_s = time.monotonic()
            found["load"][part] = round(os.getloadavg()[0], 1)
            found[part] = PARTS[part](bench)
            found["part_seconds"][part] = round(time.monotonic() - part_s, 1)
            _tell(f"{part}: {found['part_seconds'][part]:.0f} s")
    found["seconds"] = round(time.monotonic() - begin_s, 1)
    return found


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under 90 seconds")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help="default: %(default)s")
    given = parser.parse_args()
    configure_logs()
    end_in_order_on_sigterm()
    parts = given.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only: the parts are {', '.join(PARTS)}")
    found = measure(QUICK if given.quick else FULL, parts)
    out = OUT / ("bench-quick" if given.quick else "bench")
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    table = report.markdown(found)
    (out / "table.md").write_text(table, encoding="utf-8")
    report.plot(found, out)
    print(table)
    print(report.aims(found))
    print(f"{found['seconds']:.0f} s in all; {out}/results.json, table.md and plots")


if __name__ == "__main__":
    main()
