"""After it no kernel of the rule is loaded or compiled any more."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("counter", COUNTER_KINDS)
def test_a_curation_needs_no_kernel_that_is_not_loaded(counter: CounterKind, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(SHARD), str(tmp_path / "t"), counter]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(ended.stdout.splitlines()[-1]) == {}
