"""How soon `stream-curate curate` takes its first pair, with compiled kernels at hand (warm) and without (cold).

    PYTHONPATH=tests python -m bench.start --metadata FILE --folder DIR

It reads one pair from standard input. Two moments are taken from outside: when it has taken the pair out of the pipe,
and when, the pipe closed, it has ended with a settled table: after its kernels were loaded or compiled, and used. This
is a small program of its own, as the peak of a process begins with that of the process it was started from.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import statistics
import struct
import subprocess
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

from bench.measured import curate_command

PAIR = json.dumps({"url": "http://example.org/1.jpg", "text": "a dog in the park"}).encode() + b"\n"
POLL_S = 0.002


def measure(metadata: Path, folder: Path, n_warm: int, n_cold: int) -> dict[str, Any]:
    """Start it with all cores: first with the usual cache of kernels, which should be full, then with empty ones."""
    warm = [start(metadata, folder / "first", {}) for _ in range(n_warm)]
    cold = []
    for _ in range(n_cold):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            cold.append(start(metadata, folder / "first", {"NUMBA_CACHE_DIR": cache}))
    return {name: _medians(each) for name, each in (("warm", warm), ("cold", cold)) if each}


def start(metadata: Path, out: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Start it once with these variables in the environment; see the module."""
    shutil.rmtree(out, ignore_errors=True)
    command = curate_command("-", "--out", out, "--metadata", metadata)
    environment = os.environ | variables
    begin_s = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(PAIR)
    process.stdin.flush()
    while _n_unread(process.stdin.fileno()) and process.poll() is None:
        time.sleep(POLL_S)
    taken_s = time.monotonic() - begin_s
    process.stdin.close()
    said = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    done_s = time.monotonic() - begin_s
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(said)
    shutil.rmtree(out)
    return {
        "first_pair_taken_s": taken_s,
        "first_pair_curated_s": done_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "said": [line for line in said.splitlines() if "compil" in line],
    }


def _n_unread(pipe: int) -> int:
    """Bytes in a pipe that its reader has not taken out."""
    (found,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(found)


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    said = runs[0].pop("said")
    keys = [key for key in runs[0] if key != "said"]
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in keys} | {"n": len(runs), "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", type=Path, required=True, metavar="FILE")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="for files that are not kept")
    parser.add_argument("--warm", type=int, default=3, help="runs (default: %(default)s)")
    parser.add_argument("--cold", type=int, default=1, help="runs (default: %(default)s)")
    given = parser.parse_args()
    print(json.dumps(measure(given.metadata, given.folder, given.warm, given.cold)))


if __name__ == "__main__":
    main()
