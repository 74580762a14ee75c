"""Ends the process when a call that has no time limit of its own does not come back.

kafka-python waits without end in `commit_transaction`, `abort_transaction` and others, and nothing stops such a call
from outside. But all that a process of ours knows can be restored, so that ending it loses nothing: started again, it
goes on from its last commit.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import structlog

from stream_curate import exit_codes

_TICK_S = 0.5
# More than this between two ticks is no time of ours: the process was stopped, or the machine slept.
_MOST_COUNTED_S = 2 * _TICK_S
_LOGGING_S = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class _Limit:
    ends_s: float  # by the watchdog's own clock
    exit_code: int
    say: Callable[[], None]


class Watchdog:
    """One thread that ends the process with `os._exit` when a time limit is over.

    A limit costs microseconds, and may be set by any thread and in a signal handler. Limits count the time in which
    the process could run: one that was stopped (SIGSTOP) and goes on later still has what was left. What never gives
    the interpreter lock back, which no code here does, cannot be ended this way.

    >>> watchdog = Watchdog()
    >>> with watchdog.limit("committing to ledger/3", 30):
    ...     "the call"
    'the call'
    >>> watchdog.close()
    """

    def __init__(self) -> None:
        self._limits: dict[object, _Limit] = {}
        # Its own clock: seconds counted at the last tick, and the time of that tick. Changed as one, by the thread.
        self._clock = (0.0, time.monotonic())
        self._woken: SimpleQueue[bool] = SimpleQueue()  # no lock of ours, so that a signal handler cannot wait for one
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def limit(self, doing: str, seconds: float) -> Iterator[None]:
        """End the process with exit code 6 if the body takes longer than `seconds`. Limits can be nested.

        Args:
            doing: what the body does, for the log: "committing to ledger/3".
            seconds: from here on.
        """

        def say() -> None:
            log.critical(
                f"{doing} has not come back within {seconds:g} s, and nothing but the end of the process stops it. "
                "Is the cluster in order? Started again, it goes on from the last commit"
            )
            _log_stacks()

        key = self._set(_Limit(self._now_s() + seconds, exit_codes.KAFKA, say))
        try:
            yield
        finally:
            self._limits.pop(key, None)

    def end_within(self, seconds: float, exit_code: int = exit_codes.DONE) -> None:
        """Let the process last for `seconds` more at most, and then end it with `exit_code`: for SIGTERM."""

        def say() -> None:
            log.warning(
                f"not ready within {seconds:g} s after the request to end, so ended as it is; "
                "what was not committed will be done again"
            )
            _log_stacks()

        self._set(_Limit(self._now_s() + seconds, exit_code, say))

    def close(self) -> None:
        """Stop watching: no limit ends the process from now on."""
        self._closed = True
        self._limits.clear()
        self._woken.put(True)
        self._thread.join()

    def _set(self, limit: _Limit) -> object:
        key = object()
        self._limits[key] = limit
        if limit.ends_s < self._clock[0] + _TICK_S:  # before the thread would look by itself
            self._woken.put(True)
        return key

    def _now_s(self) -> float:
        counted_s, at_s = self._clock
        return counted_s + min(time.monotonic() - at_s, _MOST_COUNTED_S)

    def _watch(self) -> None:
        wait_s = _TICK_S
        while True:
            with suppress(Empty):
                self._woken.get(timeout=wait_s)
            if self._closed:
                return
            now_s = self._now_s()
            self._clock = (now_s, time.monotonic())
            limits = sorted(self._limits.values(), key=lambda limit: limit.ends_s)
            if limits and limits[0].ends_s <= now_s:
                _end(limits[0])
            wait_s = min([_TICK_S, *(limit.ends_s - now_s for limit in limits[:1])])


@contextmanager
def given_or_own(watchdog: Watchdog | None) -> Iterator[Watchdog]:
    """The one that was given, or one for as long as the body lasts."""
    if watchdog is not None:
        yield watchdog
        return
    own = Watchdog()
    try:
        yield own
    finally:
        own.close()


def _end(limit: _Limit) -> None:
    """Say why, if that can be said at all: standard error may be what everything waits for."""

    def say() -> None:
        limit.say()
        sys.stdout.flush()
        sys.stderr.flush()

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    saying.join(_LOGGING_S)
    os._exit(limit.exit_code)


def _log_stacks() -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, innermost in sys._current_frames().items():
        places, frame = [], innermost
        while frame is not None:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        log.debug("where a thread stands, innermost first", thread=names.get(ident, "?"), at=" < ".join(places))
