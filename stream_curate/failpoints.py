"""Named steps at which a test can stop the program.

Code that must survive a stop at any moment calls `reach("area.step")` before and after each write. In production
nothing listens. A test listens with `listening`; a process under test is told through the environment:
`STREAM_CURATE_FAILPOINT=NAME:N` kills it with SIGKILL when NAME is reached for the N-th time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from stream_curate.errors import UsageError

VARIABLE = "STREAM_CURATE_FAILPOINT"

_listeners: list[Callable[[str], None]] = []


def reach(step: str) -> None:
    """Say that the program has come to `step`."""
    for listener in _listeners:
        listener(step)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call `listener` with the name of each step reached meanwhile; what it raises goes through."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def listen_to_environment() -> None:
    """Obey `STREAM_CURATE_FAILPOINT`, if it is set. Called by the command line."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, nth = wanted.rpartition(":")
    if not (name and nth.isdecimal()):
        raise UsageError(f"{VARIABLE}={wanted} is not NAME:N; it is for tests alone: unset it")
    structlog.get_logger().warning(
        "this process will kill itself at a step, for a test", variable=VARIABLE, step=wanted
    )
    times: Counter[str] = Counter()

    def kill_at(step: str) -> None:
        times[step] += 1
        if step == name and times[step] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    _listeners.append(kill_at)
