"""Crash tests rest on these: a process dies at exactly the step it was told, and production has no such steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from stream_curate.errors import UsageError
from stream_curate.failpoints import VARIABLE, listen_to_environment, listening, reach

PROGRAM = """
from stream_curate.failpoints import listen_to_environment, reach
from stream_curate.logs import configure_logs
configure_logs()
listen_to_environment()
for number, step in enumerate(["a.one", "b.two", "a.one", "b:three", "a.one"]):
    print(number, flush=True)
    reach(step)
"""


def run(failpoint: str | None) -> tuple[int, int]:
    """The steps begun, and the exit code."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if failpoint is not None:
        environment[VARIABLE] = failpoint
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    if failpoint:
        assert "this process will kill itself at a step" in done.stderr
        assert failpoint in done.stderr
    else:
        assert done.stderr == ""
    return len(done.stdout.splitlines()), done.returncode


@pytest.mark.parametrize(
    ("failpoint", "n_steps"), [("a.one:1", 1), ("b.two:1", 2), ("a.one:2", 3), ("b:three:1", 4), ("a.one:3", 5)]
)
def test_the_process_is_killed_at_the_nth_time_of_the_step(failpoint: str, n_steps: int) -> None:
    assert run(failpoint) == (n_steps, -signal.SIGKILL)


@pytest.mark.parametrize("failpoint", [None, "", "a.one:4", "other:1"])
def test_otherwise_it_runs_to_the_end(failpoint: str | None) -> None:
    assert run(failpoint) == (5, 0)


@pytest.mark.parametrize("failpoint", ["a.one", ":1", "a.one:", "a.one:x", "a.one:-1"])
def test_a_malformed_variable_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, failpoint: str) -> None:
    monkeypatch.setenv(VARIABLE, failpoint)
    with pytest.raises(UsageError, match=f"{VARIABLE}={failpoint} is not NAME:N"):
        listen_to_environment()


def test_a_listener_hears_each_step_while_it_listens() -> None:
    heard: list[str] = []
    reach("before")
    with listening(heard.append):
        reach("one")
        reach("two")
    reach("after")

    assert heard == ["one", "two"]


def test_what_a_listener_raises_goes_through_and_it_is_gone_then() -> None:
    def crash(step: str) -> None:
        raise KeyboardInterrupt(step)

    with pytest.raises(KeyboardInterrupt, match="one"), listening(crash):
        reach("one")
    reach("two")
