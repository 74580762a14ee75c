"""A million pairs in bounded memory, as the operating system counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from million import write_repeated

N_PAIRS = 1_000_000
MAX_RSS_BYTES = 700_000_000
MAX_BYTES_A_PAIR = 24
ROOM_FOR_SEEN = MAX_BYTES_A_PAIR * N_PAIRS
N_RUNS = 2

# The process that waits for a child learns that child's peak resident set.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""

# What `exact` needs besides, in a process that does nothing else: two whole runs differ by more than that by chance.
MEASURE_SEEN = """
import resource, sys
import numpy as np
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
from stream_curate.allocators import use_system_allocator
from stream_curate.seen import ExactSeen
n_pairs = int(sys.argv[1])
use_system_allocator()
bases = np.random.default_rng(7).integers(1, 2**64, n_pairs, np.uint64)
ExactSeen().add(bases[:32_768])  # what is loaded for it
before = resident()
seen = ExactSeen()
for begin in range(0, n_pairs, 32_768):
    seen.add(bases[begin : begin + 32_768])
print(resident() - before)
"""


def peak_bytes(source: Path, out: Path, dedup: str) -> int:
    command = [sys.executable, "-m", "stream_curate", "curate", str(source), "--out", str(out)]
    command += ["--dedup", dedup, "--seed", "7", "--threshold", "20"]
    # the same commits in every run, however busy the machine is
    command += ["--checkpoint-interval", "1000"]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env=os.environ,
    )
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("dedup", "limit"), [("none", MAX_RSS_BYTES), ("exact", MAX_RSS_BYTES + ROOM_FOR_SEEN)])
def test_a_million_pairs_stay_below_the_limit(dedup: str, limit: int, tmp_path: Path) -> None:
    source = tmp_path / "million.parquet"
    write_repeated(source, N_PAIRS)
    peaks = [peak_bytes(source, tmp_path / f"table-{run}", dedup) for run in range(N_RUNS)]
    print(f"peak resident sets: {peaks}")
    assert min(peaks) < limit


@pytest.mark.slow
@pytest.mark.parametrize("n_pairs", [N_PAIRS, 4 * N_PAIRS])
def test_exact_duplicates_cost_few_bytes_a_pair(n_pairs: int) -> None:
    command = [sys.executable, "-c", MEASURE_SEEN, str(n_pairs)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    n_bytes = int(run.stdout)
    print(f"{n_bytes / n_pairs:.1f} bytes a pair")
    assert 8 * n_pairs <= n_bytes <= MAX_BYTES_A_PAIR * n_pairs
