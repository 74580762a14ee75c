"""The command line frees what it no longer needs; `test_memory.py` measures it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


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


def pages_asked_for(settings: str, sizes: Sequence[int]) -> tuple[int, int]:
    """Pages of memory that fifty batches of blocks of so many bytes ask the system for, and those that they have."""
    program = f"""
import resource
from stream_curate import allocators
{settings}
def batch():
    return [b'x' * n for n in {list(sizes)}]
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout), 50 * sum(sizes) // 4096


def test_what_a_batch_frees_is_kept_for_the_next() -> None:
    """Else each page of it would be asked of the system again, and zeroed."""
    asked, had = pages_asked_for("allocators.use_system_allocator()", [800_000, 2_000_000, 3_200_000])
    assert asked < had / 10


def test_large_buffers_are_kept_where_that_is_wanted() -> None:
    sizes = [5_000_000, 8_000_000, 12_000_000]
    asked, had = pages_asked_for("allocators.use_system_allocator()", sizes)
    assert asked > had / 2
    asked, had = pages_asked_for("allocators.use_system_allocator(); allocators.keep_large_buffers()", sizes)
    assert asked < had / 10
