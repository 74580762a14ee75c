"""Frees what clients of Kafka leave behind when they end, or lose their connections.

It is objects that refer to each other: 3 MB of a worker after each outage of the brokers. Python finds such ones when
it looks through all objects, and that it does after so many new ones: in a worker hardly ever (`commands/worker.py`),
and where little happens never. So it is done by the clock.
"""

from __future__ import annotations

import gc
import time

INTERVAL_S = 60.0


class Garbage:
    """Looks for it now and then. One look takes some tenths of a second."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._collected_s = time.monotonic()

    def collect_if_due(self) -> int:
        """Free it, unless that was done within the interval; returns how many objects were found."""
        now_s = time.monotonic()
        if now_s - self._collected_s < self._interval_s:
            return 0
        n_found = gc.collect()
        self._collected_s = time.monotonic()
        return n_found
