"""Users see where the time goes: the seconds of each stage, also of those that failed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stream_curate import stages
from stream_curate.stages import STAGES, StageClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test moves."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now.s)
    return now


def test_a_stage_gets_the_seconds_of_its_body_each_time(now: SimpleNamespace) -> None:
    clock = StageClock()
    for seconds in (1.5, 2.0):
        with clock.stage("match"):
            now.s += seconds
        now.s += 10

    assert clock.seconds == dict.fromkeys(STAGES, 0.0) | {"match": 3.5}


def test_a_stage_that_fails_is_timed_too(now: SimpleNamespace) -> None:
    def fail() -> None:
        now.s += 3
        raise OSError("disk full")

    clock = StageClock()
    with pytest.raises(OSError, match="disk full"), clock.stage("commit"):
        fail()

    assert clock.seconds["commit"] == 3


def test_what_was_counted_for_one_stage_can_be_counted_for_another(now: SimpleNamespace) -> None:
    clock = StageClock()
    with clock.stage("settle"):
        now.s += 5
    clock.move(2, "settle", "write")
    assert (clock.seconds["settle"], clock.seconds["write"]) == (3, 2)


def test_clocks_are_apart(now: SimpleNamespace) -> None:
    clock, other = StageClock(), StageClock()
    with clock.stage("read"):
        now.s += 1

    assert other.seconds["read"] == 0


def test_a_stage_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError), StageClock().stage("coffee"):
        pass
