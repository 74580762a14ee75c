"""Being asked to stop: by SIGINT or SIGTERM, at a moment when everything can be saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopReading(BaseException):
    """Raised out of a read that waits for input, when a stop is requested. Like KeyboardInterrupt no Exception."""


class StopRequest:
    """Whether a stop was requested. The loop looks after every batch; only a read in progress is broken off."""

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        """A request that is not made yet; `on_request` is called when it is, perhaps inside a signal handler."""
        self.requested = False
        self._reading = False
        self._on_request = on_request

    def request(self) -> None:
        """Ask for a stop."""
        self.requested = True
        self._on_request()
        if self._reading:
            raise StopReading

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around code that may wait for input without end: a request raises StopReading in it."""
        self._reading = True
        try:
            if self.requested:
                raise StopReading
            yield
        finally:
            self._reading = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM as a request. A second one ends the process as usual."""

        def handle(number: int, frame: FrameType | None) -> None:
            for each, handler in before.items():
                signal.signal(each, handler)
            self.request()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
