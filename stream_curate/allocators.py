"""Where a process of ours gets its memory from: from the system's allocator alone, which gives back what is freed.

Arrow's own pool keeps what it once had: 140 MB of a curation of a million pairs. The system's allocator keeps a heap
for each thread, and learns to put large blocks there, where small ones hold them fast: another 100 MB, unless it is
told otherwise. Once told, it would also give back the end of a heap with nearly every block that is freed, only to
get the same pages again, each zeroed: a sixth of the time of a long run.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

# of <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_MIB = 2**20
_N_HEAPS = 2


def use_system_allocator() -> None:
    """For a process that is all ours; at its start, as what is allocated stays where it is."""
    pa.set_memory_pool(pa.system_memory_pool())
    _set(_M_ARENA_MAX, _N_HEAPS)
    # the columns of a batch are smaller, the tables of a curation larger
    _keep(blocks_below=4 * _MIB, n_bytes=16 * _MIB)


def keep_large_buffers() -> None:
    """For a process whose batches come and go as single blocks of several megabytes, as those of a Kafka client do."""
    _keep(blocks_below=16 * _MIB, n_bytes=64 * _MIB)


def _keep(*, blocks_below: int, n_bytes: int) -> None:
    """Take blocks below this size from a heap, and keep up to so much of what is free at its end."""
    _set(_M_TRIM_THRESHOLD, n_bytes)
    _set(_M_MMAP_THRESHOLD, blocks_below)


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it; elsewhere there is nothing to set
    if mallopt is not None:
        mallopt(parameter, value)
