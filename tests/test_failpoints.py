"""Crash tests rest on these: a process dies at exactly the step it was told, and production has no such steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_curate import failpoints
from stream_curate.errors import UsageError
from stream_curate.failpoints import LOG_VARIABLE, VARIABLE, InjectedFault, listen_to_environment, listening, reach

PROGRAM = """
from stream_curate.failpoints import listen_to_environment, reach
from stream_curate.logs import configure_logs
configure_logs()
listen_to_environment()
for number, step in enumerate(["a.one", "b.two", "a.one", "b:three", "a.one"]):
    print(number, flush=True)
    try:
        reach(step)
    except OSError as error:
        print(error, flush=True)
"""


def environment(**variables: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in (VARIABLE, LOG_VARIABLE)} | variables


def run(failpoint: str | None) -> tuple[list[str], int]:
    """What was written, and the exit code."""
    set_ = {VARIABLE: failpoint} if failpoint is not None else {}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment(**set_), capture_output=True, text=True, check=False)
    if failpoint:
        assert done.stderr.count("for a test") == len(failpoint.split(","))
        assert all(each in done.stderr for each in failpoint.split(","))
    else:
        assert done.stderr == ""
    return done.stdout.splitlines(), done.returncode


@pytest.mark.parametrize(
    ("failpoint", "n_steps"),
    [("a.one:1", 1), ("b.two:1", 2), ("a.one:2", 3), ("b:three:1", 4), ("a.one:3", 5), ("a.one:2:kill", 3)],
)
def test_the_process_is_killed_at_the_nth_time_of_the_step(failpoint: str, n_steps: int) -> None:
    written, code = run(failpoint)
    assert (len(written), code) == (n_steps, -signal.SIGKILL)


@pytest.mark.parametrize("failpoint", [None, "", "a.one:4", "other:1", "other:1:raise", "other:1:stop"])
def test_otherwise_it_runs_to_the_end(failpoint: str | None) -> None:
    assert run(failpoint) == (["0", "1", "2", "3", "4"], 0)


def test_an_error_is_raised_once_as_a_broken_connection_or_disk_would() -> None:
    written, code = run("a.one:2:raise")
    assert code == 0
    assert written == ["0", "1", "2", f"[Errno 5] {InjectedFault('a.one').strerror}", "3", "4"]
    assert InjectedFault("a.one").strerror == "a fault injected at a.one"


def test_of_several_failpoints_each_acts() -> None:
    written, code = run("a.one:1:raise,b.two:1:raise,a.one:4,b:three:1")
    assert code == -signal.SIGKILL
    assert [line for line in written if "injected" not in line] == ["0", "1", "2", "3"]
    assert [line.rpartition(" ")[2] for line in written if "injected" in line] == ["a.one", "b.two"]


def test_a_process_that_stopped_itself_goes_on_when_it_is_continued() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(**{VARIABLE: "a.one:2:stop"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"0\n1\n2\n"
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == b"3\n4\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_each_step_is_logged_before_anything_else_happens_there(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    before_s = time.monotonic() - 1e-3  # a line has whole microseconds
    for failpoint in ("a.one:2:kill", "b.two:1:raise"):
        variables = {VARIABLE: failpoint, LOG_VARIABLE: str(path)}
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment(**variables), capture_output=True, check=False)

    times, pids, steps = zip(*(line.split(" ") for line in path.read_text().splitlines()), strict=True)
    assert list(steps) == ["a.one", "b.two", "a.one", "a.one", "b.two", "a.one", "b:three", "a.one"]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 5]
    moments_s = [before_s, *map(float, times), time.monotonic()]
    assert moments_s == sorted(moments_s)


def test_a_log_that_cannot_be_written_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "none" / "steps"))
    with pytest.raises(UsageError, match=r"cannot be written \(No such file or directory\)"):
        listen_to_environment()


@pytest.mark.parametrize(
    "failpoint", ["a.one", ":1", "a.one:", "a.one:x", "a.one:-1", "a.one:1:end", "a.one:kill", "b:1,a.one:x"]
)
def test_a_malformed_variable_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, failpoint: str) -> None:
    monkeypatch.setenv(VARIABLE, failpoint)
    monkeypatch.setattr(failpoints, "_listeners", [])
    with pytest.raises(UsageError, match=f"{VARIABLE}={failpoint.rpartition(',')[2]} is not NAME:N"):
        listen_to_environment()


def test_without_variables_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(LOG_VARIABLE, raising=False)
    listen_to_environment()
    assert failpoints._listeners == []


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
