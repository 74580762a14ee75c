"""Named steps at which a test can stop the program.

Code that must survive a stop at any moment calls `reach("area.step")` before and after each write. In production
nothing listens. A test listens with `listening`; a process under test is told through the environment:

`STREAM_CURATE_FAILPOINT=NAME:N[:ACTION]` acts when NAME is reached for the N-th time (several are divided by commas):

    kill    the process ends with SIGKILL (the default)
    raise   `InjectedFault` is raised there, once; the process goes on as it does after any such error
    stop    the process stops itself with SIGSTOP until somebody continues it

`STREAM_CURATE_FAILPOINT_LOG=PATH` writes a line `seconds pid step` to the end of PATH for each step reached, before
anything else happens there: seconds on the machine's monotonic clock, the same for all its processes. So one knows
from outside what a process was doing when it died.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from stream_curate.errors import UsageError

VARIABLE = "STREAM_CURATE_FAILPOINT"
LOG_VARIABLE = "STREAM_CURATE_FAILPOINT_LOG"

_ACTIONS = {"kill": "kill itself", "raise": "raise an error", "stop": "stop itself"}

_listeners: list[Callable[[str], None]] = []


class InjectedFault(OSError):
    """The error that the action `raise` raises.

    An OSError, as both a broken connection and a failing disk look to the code around a step.
    """

    def __init__(self, step: str) -> None:
        super().__init__(errno.EIO, f"a fault injected at {step}")


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
    """Obey `STREAM_CURATE_FAILPOINT` and `STREAM_CURATE_FAILPOINT_LOG`, if they are set. Called by the command line.

    Raises:
        UsageError: for a malformed failpoint, or a log that cannot be written.
    """
    path = os.environ.get(LOG_VARIABLE)
    wanted = os.environ.get(VARIABLE)
    if path:
        _listeners.append(_logger(path))
    for each in wanted.split(",") if wanted else ():
        name, nth, action = _parse(each)
        structlog.get_logger().warning(
            f"this process will {_ACTIONS[action]} at a step, for a test", variable=VARIABLE, step=each
        )
        _listeners.append(_actor(name, nth, action))


def _parse(wanted: str) -> tuple[str, int, str]:
    rest, _, action = wanted.rpartition(":")
    if action not in _ACTIONS:
        rest, action = wanted, "kill"
    name, _, nth = rest.rpartition(":")
    if not (name and nth.isdecimal()):
        raise UsageError(
            f"{VARIABLE}={wanted} is not NAME:N or NAME:N:ACTION, with kill, raise or stop; it is for tests alone: "
            "unset it"
        )
    return name, int(nth), action


def _actor(name: str, nth: int, action: str) -> Callable[[str], None]:
    times: Counter[str] = Counter()

    def act(step: str) -> None:
        times[step] += 1
        if step != name or times[step] != nth:
            return
        if action == "raise":
            raise InjectedFault(step)
        signal.raise_signal(signal.SIGKILL if action == "kill" else signal.SIGSTOP)  # before this thread goes on

    return act


def _logger(path: str) -> Callable[[str], None]:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{LOG_VARIABLE}={path} cannot be written ({error.strerror}); it is for tests alone") from None
    pid = os.getpid()

    def log(step: str) -> None:
        os.write(file, f"{time.monotonic():.6f} {pid} {step}\n".encode())

    return log
