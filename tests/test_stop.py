"""Ctrl-C and a pod's end are asked politely once: what was read is saved. A second time ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from stream_curate.stop import StopReading, StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM]
every_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that came through to the handlers of before."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@every_signal
def test_the_first_signal_is_a_request_and_nothing_else(number: int, received: list[int]) -> None:
    stop = StopRequest()
    with stop.on_signals():
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested

    assert received == []


@pytest.mark.parametrize("second", SIGNALS, ids=lambda number: number.name)
@every_signal
def test_a_second_signal_does_what_it_did_before(number: int, second: int, received: list[int]) -> None:
    stop = StopRequest()
    with stop.on_signals():
        signal.raise_signal(number)
        signal.raise_signal(second)

        assert received == [second]


@every_signal
def test_afterwards_the_handlers_of_before_are_back(number: int, received: list[int]) -> None:
    """Whether a signal came or not, and whatever ended the work."""
    stop = StopRequest()
    with stop.on_signals():
        pass
    signal.raise_signal(number)
    assert received == [number]
    assert not stop.requested

    with pytest.raises(KeyError), stop.on_signals():
        raise KeyError
    signal.raise_signal(number)
    assert received == [number, number]


@every_signal
def test_a_read_that_waits_is_broken_off(number: int, received: list[int]) -> None:
    """A pipe that brings nothing would hold the stop up for ever."""
    reader, writer = os.pipe()
    stop = StopRequest()
    ask = threading.Timer(0.1, os.kill, (os.getpid(), number))
    give_up = threading.Timer(10, os.write, (writer, b"not broken off"))
    try:
        give_up.start()
        with stop.on_signals():
            ask.start()
            with pytest.raises(StopReading), stop.reading():
                os.read(reader, 1)
    finally:
        give_up.cancel()
        ask.join()
        give_up.join()
        os.close(reader)
        os.close(writer)
    assert stop.requested
    assert received == []


def test_work_that_is_no_reading_is_never_broken_off() -> None:
    stop = StopRequest()
    with stop.reading():
        pass
    stop.request()

    assert stop.requested


def test_after_a_request_no_reading_begins() -> None:
    stop = StopRequest()
    stop.request()
    for _ in range(2):
        with pytest.raises(StopReading), stop.reading():
            pytest.fail("it began")
        stop.request()  # raises nothing: no reading is in progress


def test_a_reading_that_fails_is_over() -> None:
    stop = StopRequest()
    with pytest.raises(OSError, match="gone"), stop.reading():
        raise OSError("gone")

    stop.request()


def test_a_source_that_catches_all_exceptions_does_not_catch_a_stop() -> None:
    assert not issubclass(StopReading, Exception)


@every_signal
def test_a_request_is_told_at_once_also_when_no_loop_looks(number: int, received: list[int]) -> None:
    """So that the end of the process can be made sure of; a read in progress is broken off after that."""
    told: list[bool] = []
    stop = StopRequest(on_request=lambda: told.append(stop.requested))
    with stop.on_signals():
        assert told == []
        signal.raise_signal(number)
    assert told == [True]

    reading = StopRequest(on_request=lambda: told.append(False))
    with pytest.raises(StopReading), reading.reading():
        reading.request()
    assert told == [True, False]
    assert received == []
