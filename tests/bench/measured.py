"""Running a command and measuring it from outside; and what stands for many such measurements.

Every contestant is a process of its own, so that none of them inherits another's memory, caches or threads.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]

# The peak of a process begins with that of the process it was started from: so a small one stands between.
_LAUNCHER = """
import json, os, subprocess, sys, tempfile, time
n_cores = int(sys.argv[1])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-n_cores:])
begin_s = time.monotonic()
said = tempfile.TemporaryFile()
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
out = child.stdout.read()
_, status, used = os.wait4(child.pid, 0)
wall_s = time.monotonic() - begin_s
child.returncode = os.waitstatus_to_exitcode(status)
said.seek(0)
err = said.read()[-3000:]
json.dump({
    "wall_s": wall_s, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024,
    "code": child.returncode, "out": out.decode(), "err": err.decode(errors="replace"),
}, sys.stdout)
"""


@dataclass(frozen=True)
class Ran:
    """What a command took.

    Attributes:
        wall_s: seconds from its start to its end.
        cpu_s: seconds of a core, of it and of the processes that it started.
        peak_bytes: its peak resident set; of several processes, that of the largest.
        out: what it wrote to its standard output.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    out: str

    @property
    def report(self) -> Any:
        """The JSON in its output."""
        return json.loads(self.out)


def n_cores_here() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def environment() -> dict[str, str]:
    """That of this process, in which the modules of tests/ are found."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def run(command: Sequence[str], *, cores: int | None = None, env: dict[str, str] | None = None) -> Ran:
    """Run a command on the last `cores` of the cores there are (None: on all).

    Raises:
        RuntimeError: it ended with an error; its last words are in the message.
    """
    cores = n_cores_here() if cores is None else cores
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, str(cores), *command],
        env=environment() | (env or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(launched.stdout)
    if found.pop("code") != 0:
        raise RuntimeError(f"{' '.join(command)}\n{found['err']}")
    del found["err"]
    return Ran(**found)


def bench_command(module: str, *words: object) -> list[str]:
    """The command that runs a module of this folder."""
    return [sys.executable, "-m", f"bench.{module}", *map(str, words)]


def curate_command(*words: object) -> list[str]:
    """`stream-curate curate` with JSON output and a seed."""
    return [sys.executable, "-m", "stream_curate", "curate", *map(str, words), "--seed", "7", "--json"]


def end_in_order_on_sigterm() -> None:
    """From now on the signal ends this process as an exception does, so that a broker and folders are removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@dataclass
class Rounds:
    """The same work, measured several times: seconds, and seconds of a core."""

    n_pairs: int
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def add(self, wall_s: float, cpu_s: float) -> None:
        self.wall_s.append(wall_s)
        self.cpu_s.append(cpu_s)

    def as_dict(self) -> dict[str, Any]:
        """With the medians: pairs for each second, the slowest and fastest of these, microseconds of a core a pair."""
        rates = [self.n_pairs / seconds for seconds in self.wall_s]
        return {
            "n_pairs": self.n_pairs,
            "wall_s": _rounded(self.wall_s),
            "cpu_s": _rounded(self.cpu_s),
            "pairs_per_second": round(statistics.median(rates)),
            "slowest": round(min(rates)),
            "fastest": round(max(rates)),
            "cpu_us_per_pair": round(1e6 * statistics.median(self.cpu_s) / self.n_pairs, 3),
        }


def _rounded(seconds: list[float]) -> list[float]:
    return [round(each, 4) for each in seconds]


def machine() -> dict[str, Any]:
    """What it was measured on, and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "n_cores": n_cores_here(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("pyahocorasick", "ahocorasick_rs", "polars", "pyarrow", "numba", "deltalake", "kafka-python")
        },
    }
