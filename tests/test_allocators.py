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
