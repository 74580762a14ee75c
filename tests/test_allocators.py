"""The command line frees what it no longer needs; `test_memory.py` measures it."""

from __future__ import annotations

import subprocess
import sys


def test_arrow_allocates_from_the_system() -> None:
    program = """
import pyarrow as pa
from stream_curate.allocators import use_system_allocator
use_system_allocator()
use_system_allocator()
print(pa.default_memory_pool().backend_name, pa.array([1, 2, 3]).sum())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["system", "6"]


def test_what_a_batch_frees_is_kept_for_the_next() -> None:
    """Else each page of it would be asked of the system again, and zeroed."""
    program = """
import resource
import numpy as np
from stream_curate.allocators import use_system_allocator
use_system_allocator()
def batch():
    return [np.ones(n) for n in (100_000, 250_000, 400_000)]
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    n_pages = 50 * 750_000 * 8 // 4096
    assert int(done.stdout) < n_pages / 10
