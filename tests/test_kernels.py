"""A kernel is compiled once, and whoever waits for it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPILING = "compiling for this machine"


@pytest.mark.slow
def test_the_first_run_says_that_it_compiles_and_a_later_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("url\tcaption\nhttp://x.org/1\ta dog\n")
    (tmp_path / "list.txt").write_text("dog\n")
    errors = []
    for run in ("first", "second", "third"):  # the first one, being slow, goes another way through its settle
        done = subprocess.run(
            [sys.executable, "-m", "stream_curate", "curate", "in.tsv", "--metadata", "list.txt", "--out", run],
            cwd=tmp_path,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        errors.append(done.stderr)
    assert errors[0].count(COMPILING) == 1
    assert COMPILING not in errors[2]
