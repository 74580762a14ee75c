"""After it no kernel of the rule is loaded or compiled any more, and of what has to be compiled a helper takes half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream_curate.counting import COUNTER_KINDS, CounterKind

SHARD = Path(__file__).parent / "shards" / "laion-10k.parquet"
PROGRAM = """
import json, pkgutil, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
import stream_curate
from stream_curate.counting import Counter
from stream_curate.cli import main
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.warm_up import warm_up

def loaded():
    return {
        f"{module.__name__}.{name}": len(kernel.signatures)
        for module in list(sys.modules.values())
        if module.__name__.startswith("stream_curate.")
        for name, kernel in vars(module).items()
        if isinstance(kernel, Dispatcher) and kernel.__module__ == module.__name__
    }

shard, out, counter = sys.argv[1:]
rule = Rule.of(Metadata.from_entries(["a"]), threshold=5, seed=0, counter=Counter(counter), dedup="exact")
warm_up(rule, "trie")
before = loaded()
sys.argv = ["stream-curate", "curate", shard, "--out", out, "--threshold", "5", "--counter", counter, "--json"]
try:
    main()
except SystemExit as end:
    assert not end.code
after = loaded()
print(json.dumps({name: [before.get(name), n] for name, n in after.items() if n != before.get(name, 0)}))
"""

COLD = """
import json, os, subprocess, sys
from numba.core import event
from stream_curate.counting import Counter
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.warm_up import warm_up

n_cores, sys.executable = int(sys.argv[1]), sys.argv[2]
os.sched_getaffinity = lambda _: set(range(n_cores))
found = {"compiled": [], "helpers": 0}

class Compiled(event.Listener):
    def on_start(self, event):
        found["compiled"].append(event.data["dispatcher"].py_func.__module__)
    def on_end(self, event):
        pass

class Process(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        found["helpers"] += 1
        super().__init__(*args, **kwargs)

subprocess.Popen = Process
rule = Rule.of(Metadata.from_entries(["a"]), threshold=5, seed=0, counter=Counter("exact"), dedup="exact")
with event.install_listener("numba:compile", Compiled()):
    warm_up(rule, "trie")
print(json.dumps(found))
"""
FALSE, NOTHING = "/bin/false", "/nothing/here"


def warm_up_elsewhere(cache: Path, n_cores: int, executable: str = sys.executable) -> tuple[set[str], int]:
    """The modules of which kernels were compiled in the process itself, and how many others it started."""
    done = subprocess.run(
        [sys.executable, "-c", COLD, str(n_cores), executable],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)
    return {name for name in found["compiled"] if name.startswith("stream_curate.")}, found["helpers"]


@pytest.mark.slow
def test_a_second_process_compiles_all_but_the_matcher(tmp_path: Path) -> None:
    assert warm_up_elsewhere(tmp_path, n_cores=2) == ({"stream_curate.matching.trie"}, 1)
    assert warm_up_elsewhere(tmp_path, n_cores=2) == (set(), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_cores", "executable", "n_helpers"), [(1, sys.executable, 0), (2, FALSE, 1), (2, NOTHING, 1)]
)
def test_without_its_help_all_is_compiled_here(n_cores: int, executable: str, n_helpers: int, tmp_path: Path) -> None:
    compiled, found_helpers = warm_up_elsewhere(tmp_path, n_cores, executable)
    assert {"stream_curate.matching.trie", "stream_curate.pairs", "stream_curate.balance"} <= compiled
    assert found_helpers == n_helpers


@pytest.mark.parametrize("counter", COUNTER_KINDS)
def test_a_curation_needs_no_kernel_that_is_not_loaded(counter: CounterKind, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(SHARD), str(tmp_path / "t"), counter]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(ended.stdout.splitlines()[-1]) == {}
