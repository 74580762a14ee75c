"""A full disk ends a run with words and exit code 7; with room again, the same command continues."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARDS = Path(__file__).parents[1] / "shards"

# One shell, so that the small disk lives through all steps; in a mount namespace, so that it goes away by itself.
SCRIPT = """
set -u
mount -t tmpfs -o size=2600k tmpfs "$DISK"
curate() { "$PYTHON" -m stream_curate curate "$SHARDS" --columns caption,url --out "$DISK/t" -t 20 --seed 7 \
    --counter exact --metadata "$METADATA" --batch-size 500 --checkpoint-interval 0 --json; }
curate >/dev/null 2>"$LOGS/full.err"; echo "full: $?"
"$PYTHON" -c 'import sys; from deltalake import DeltaTable; print("rows:", DeltaTable(sys.argv[1]).count())' "$DISK/t"
mount -o remount,size=200m "$DISK"
curate >"$LOGS/run.json" 2>/dev/null; echo "again: $?"
"$PYTHON" -m stream_curate verify "$DISK/t" "$SHARDS" --columns caption,url --seed 7 >/dev/null; echo "verify: $?"
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    run = subprocess.run(
        [*namespace, "sh", "-c", SCRIPT],
        env=os.environ
        | {
            "DISK": str(tmp_path / "disk"),
            "LOGS": str(tmp_path),
            "SHARDS": str(SHARDS),
            "METADATA": str(SHARDS.parent / "golden" / "golden-metadata.txt"),
            "PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    words = (tmp_path / "full.err").read_text()
    lines = dict(line.split(": ") for line in run.stdout.splitlines())
    assert lines["full"] == "7", run.stdout + run.stderr + words
    assert "No space left on device" in words
    assert "Traceback" not in words
    assert int(lines["rows"]) >= 0
    assert (lines["again"], lines["verify"]) == ("0", "0"), run.stderr
