"""Named steps at which a test can stop the program.

Code that must survive a stop at any moment calls `reach("area.step")` before and after each write. In production
nothing listens. A test sets `on_reach` to a function of its own; a process under test is told through the environment:
`STREAM_CURATE_FAILPOINT=NAME:N` kills it with SIGKILL when NAME is reached for the N-th time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "STREAM_CURATE_FAILPOINT"

on_reach: Callable[[str], None] | None = None


def reach(step: str) -> None:
    """Say that the program has come to `step`."""
    if on_reach is not None:
        on_reach(step)


def listen_to_environment() -> None:
    """Obey `STREAM_CURATE_FAILPOINT`, if it is set. Called by the command line."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, nth = wanted.rpartition(":")
    times: Counter[str] = Counter()

    def kill_at(step: str) -> None:
        times[step] += 1
        if step == name and times[step] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    global on_reach
    on_reach = kill_at
