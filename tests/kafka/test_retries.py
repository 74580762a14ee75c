"""Later and later, for as long as it takes."""

from __future__ import annotations

import threading
import time

from consumers.retries import MOST_BACKOFF_S, Retry, shown, wait
from stream_curate.errors import OutputError
from stream_curate.stop import StopRequest


def test_it_waits_longer_each_time_and_never_longer_than_the_most() -> None:
    retry = Retry()
    assert retry.is_due
    assert not retry.is_on
    waits = [retry.failed() for _ in range(2_000)]  # some hours of an outage: a float holds no such power of two
    assert waits[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, MOST_BACKOFF_S]
    assert set(waits[6:]) == {MOST_BACKOFF_S}
    assert retry.is_on
    assert not retry.is_due
    assert 0 < retry.wait_s <= MOST_BACKOFF_S
    assert retry.failed(at_least_s=60) == 60
    retry.reset()
    assert retry.is_due
    assert retry.failed() == 0.2


def test_a_stop_ends_the_waiting() -> None:
    stop = StopRequest()
    timer = threading.Timer(0.1, stop.request)
    timer.start()
    start_s = time.monotonic()
    wait(60, stop)
    timer.join()
    assert time.monotonic() - start_s < 30


def test_an_error_is_shown_with_its_kind_unless_it_is_told_in_words() -> None:
    assert shown(ValueError("x")) == "ValueError: x"
    assert shown(OutputError("the disk is full")) == "the disk is full"
    assert len(shown(ValueError("x" * 1_000))) == 300
