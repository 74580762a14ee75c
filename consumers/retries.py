"""Trying again later: when, and how the error is told meanwhile."""

from __future__ import annotations

import time

from stream_curate.errors import OutputError
from stream_curate.stop import StopRequest

MOST_BACKOFF_S = 5.0

_FIRST_BACKOFF_S = 0.2
_MOST_DOUBLINGS = 5  # more would come to more than MOST_BACKOFF_S anyhow, and after hours to more than a float holds
_LOOK_S = 0.05
_MOST_SHOWN = 300


class Retry:
    """When something that failed is tried again: later and later."""

    def __init__(self) -> None:
        self.n_times = 0
        self._due_s = 0.0

    @property
    def is_on(self) -> bool:
        """Whether it has failed since it last went well."""
        return self.n_times > 0

    @property
    def is_due(self) -> bool:
        """Whether to try now."""
        return time.monotonic() >= self._due_s

    @property
    def wait_s(self) -> float:
        """How long until then, in seconds."""
        return max(0.0, self._due_s - time.monotonic())

    def failed(self, at_least_s: float = 0.0) -> float:
        """It failed once more; returns how long it waits now."""
        backoff_s = min(MOST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self.n_times, _MOST_DOUBLINGS))
        self.n_times += 1
        wait_s = max(at_least_s, backoff_s)
        self._due_s = time.monotonic() + wait_s
        return round(wait_s, 1)

    def reset(self) -> None:
        """It went well."""
        self.n_times, self._due_s = 0, 0.0


def wait(seconds: float, stop: StopRequest) -> None:
    """Wait so long, or until a stop is requested."""
    end_s = time.monotonic() + seconds
    while not stop.requested and time.monotonic() < end_s:
        time.sleep(_LOOK_S)


def shown(error: BaseException) -> str:
    """An error in a log line."""
    return str(error) if isinstance(error, OutputError) else f"{type(error).__name__}: {error}"[:_MOST_SHOWN]
