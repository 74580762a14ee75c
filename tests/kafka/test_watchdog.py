"""A call that does not come back ends the process; nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from consumers.watchdog import Watchdog
from stream_curate import exit_codes

pytestmark = pytest.mark.slow

LIMIT_S = 60  # for what ends by itself in a second

PRELUDE = """
import signal, sys, threading
from consumers.watchdog import Watchdog
from stream_curate.logs import configure_logs

configure_logs(verbose="-v" in sys.argv)
watchdog = Watchdog()

def hang():
    print("hanging", flush=True)
    threading.Event().wait()
"""


def run(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + program, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)


def started(program: str) -> subprocess.Popen[str]:
    """A process that has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_call_that_hangs_ends_the_process_and_is_named() -> None:
    done = run("with watchdog.limit('committing to ledger/3', 0.2): hang()")

    assert done.returncode == exit_codes.KAFKA
    assert done.stdout == "hanging\n"
    (line,) = done.stderr.splitlines()
    assert "critical" in line
    assert "committing to ledger/3 has not come back within 0.2 s" in line


def test_in_a_verbose_log_it_is_seen_where_each_thread_stands() -> None:
    done = run("with watchdog.limit('committing', 0.2): hang()", "-v")

    assert done.returncode == exit_codes.KAFKA
    (line,) = (line for line in done.stderr.splitlines() if "MainThread" in line)
    assert " hang < <string>:" in line


def test_of_nested_limits_each_counts() -> None:
    inner = run("with watchdog.limit('outer', 900), watchdog.limit('inner', 0.2): hang()")
    outer = run("with watchdog.limit('outer', 0.2), watchdog.limit('inner', 900): hang()")

    assert (inner.returncode, outer.returncode) == (exit_codes.KAFKA, exit_codes.KAFKA)
    assert "inner has not come back" in inner.stderr
    assert "outer has not come back" in outer.stderr


def test_a_limit_is_over_when_its_body_is() -> None:
    """Also when it ended by an error; the limits after it end later than the times that were set before."""
    done = run(
        """
with watchdog.limit("first", 0.2): pass
try:
    with watchdog.limit("second", 0.2): raise ValueError
except ValueError: pass
with watchdog.limit("third", 0.4): hang()
"""
    )

    assert done.returncode == exit_codes.KAFKA
    assert "third has not come back" in done.stderr


def test_every_thread_is_watched() -> None:
    done = run(
        """
def work():
    with watchdog.limit("elsewhere", 0.2): hang()
threading.Thread(target=work).start()
"""
    )

    assert done.returncode == exit_codes.KAFKA
    assert "elsewhere has not come back" in done.stderr


@pytest.mark.parametrize("exit_code", [exit_codes.DONE, exit_codes.INTERRUPTED])
def test_what_does_not_end_when_asked_to_is_ended(exit_code: int) -> None:
    process = started(
        f"""
signal.signal(signal.SIGTERM, lambda number, frame: watchdog.end_within(0.2, {exit_code}))
with watchdog.limit("committing", 900): hang()
"""
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == exit_code
    assert "not ready within 0.2 s after the request to end" in errors


def test_what_does_end_when_asked_to_ends_as_it_likes() -> None:
    done = run("watchdog.end_within(900); sys.exit(5)")

    assert (done.returncode, done.stderr) == (5, "")


def test_a_signal_that_comes_while_limits_are_set_is_handled() -> None:
    process = started(
        """
signal.signal(signal.SIGTERM, lambda number, frame: watchdog.end_within(0.2, 0))
print("running", flush=True)
while True:
    with watchdog.limit("short", 0.4): pass
"""
    )
    for _ in range(200):
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 0, errors


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    process = started(
        """
with watchdog.limit("committing", 5):
    print("running", flush=True)
    sys.stdin.readline()
print("came back", flush=True)
"""
    )
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)  # longer than the limit, which is what this is about
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate("\n", timeout=LIMIT_S)

    assert (process.returncode, output, errors) == (0, "came back\n", "")


def test_a_log_that_nobody_reads_does_not_keep_the_process_alive() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while _write(writing):
        pass
    os.set_blocking(writing, True)
    program = PRELUDE + "with watchdog.limit('committing', 0.2): hang()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=writing)
    try:
        assert process.wait(LIMIT_S) == exit_codes.KAFKA
    finally:
        os.close(reading)
        os.close(writing)


def _write(descriptor: int) -> bool:
    try:
        return os.write(descriptor, bytes(1)) > 0
    except BlockingIOError:
        return False


def test_limits_take_no_threads_and_little_time() -> None:
    n_threads = threading.active_count()
    watchdog = Watchdog()
    begin_s = time.monotonic()
    for _ in range(10_000):
        with watchdog.limit("outer", 900), watchdog.limit("inner", 900):
            pass
    seconds = time.monotonic() - begin_s

    assert threading.active_count() == n_threads + 1
    assert seconds < 5, "5 times what 50 us for each would come to"
    watchdog.close()
    assert threading.active_count() == n_threads


def test_nothing_fires_once_it_is_closed() -> None:
    others = set(threading.enumerate())
    watchdog = Watchdog()
    watchdog.end_within(0.2)
    with watchdog.limit("running tests", 0.2):
        watchdog.close()
    with watchdog.limit("running more tests", 0.0):
        pass

    assert "watchdog" not in {thread.name for thread in set(threading.enumerate()) - others}
