"""Stops a worker with words before the system stops it without any."""

from __future__ import annotations

from pathlib import Path

from stream_curate import exit_codes
from stream_curate.errors import StreamCurateError

MOST_USED = 0.9

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")


class MemoryFull(StreamCurateError):
    """The hashes of seen pairs no longer fit."""

    exit_code = exit_codes.BAD_INPUT


def check_memory(seen_bytes: int, n_seen: int) -> None:
    """See that the process is not about to be killed for its memory.

    Args:
        seen_bytes: what the hashes of seen pairs take.
        n_seen: how many they are.

    Raises:
        MemoryFull: when more than 90% of what the container or the machine has is used.
    """
    limit, used = memory_limit(), memory_used()
    if limit is not None and used is not None and used > MOST_USED * limit:
        raise MemoryFull(
            f"memory is nearly full: {used / 1e9:.1f} of {limit / 1e9:.1f} GB are used, {seen_bytes / 1e9:.1f} GB of "
            f"it by the hashes of {n_seen:,} pairs seen in this worker's partitions (11 to 14 bytes each). Nothing is "
            "lost: run more workers, or give each more memory, and it goes on from here"
        )


def memory_limit() -> int | None:
    """What this process may use, in bytes: the container's limit or the machine's memory, None if neither is known."""
    found = [_number(path) for path in _CGROUP_LIMITS] + [_kilobytes(_MEMINFO, "MemTotal:")]
    limits = [limit for limit in found if limit is not None]
    return min(limits) if limits else None


def memory_used() -> int | None:
    """What this process uses now, in bytes, None where that is not known."""
    return _kilobytes(_STATUS, "VmRSS:")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no number: no limit
        return None


def _kilobytes(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), None)
