"""Where the time of a run goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("read", "hash", "seen", "match", "count", "decide", "write", "settle", "commit")


class StageClock:
    """Seconds spent in each stage of the way of a batch, those of all threads together."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def move(self, seconds: float, origin: str, to: str) -> None:
        """Of what was counted for one stage, count so much for another."""
        with self._lock:
            self.seconds[origin] -= seconds
            self.seconds[to] += seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the `with` body to stage `name`, one of STAGES."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - start
