"""A million pairs in bounded memory, as the operating system counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from million import write_repeated

N_PAIRS = 1_000_000
MAX_RSS_BYTES = 700_000_000
MAX_BYTES_A_PAIR = 24
N_RUNS = 3

# The process that waits for a child learns that child's peak resident set.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
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
def test_a_million_pairs_stay_below_the_limit_and_duplicates_cost_few_bytes_a_pair(tmp_path: Path) -> None:
    source = tmp_path / "million.parquet"
    write_repeated(source, N_PAIRS)
    # the peak of one run differs by up to 20 MB from that of another
    without = median(peak_bytes(source, tmp_path / f"none-{run}", "none") for run in range(N_RUNS))
    exact = median(peak_bytes(source, tmp_path / f"exact-{run}", "exact") for run in range(N_RUNS))
    print(f"peak resident set: {without:,} bytes without duplicates, {exact:,} with")
    assert without < MAX_RSS_BYTES
    assert exact - without <= MAX_BYTES_A_PAIR * N_PAIRS
