"""Alive and ready: each limit, and the words."""

from __future__ import annotations

from consumers.health import AWAY_LIMIT_S, READY_WITHIN_S, START_LIMIT_S, Health
from consumers.progress import Standing

FINE = Standing(is_ready=True, offset=5, lag=1_000_000, still_s=3.0, is_stalled=False)
STALLED = Standing(is_ready=True, offset=5, lag=1, still_s=130.0, is_stalled=True)


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def test_a_start_may_take_long_but_not_for_ever() -> None:
    clock = Clock()
    health = Health(clock)
    clock.now_s += START_LIMIT_S
    assert health.live({}).is_ok
    assert health.ready([]).words == "the metadata is being loaded"
    clock.now_s += 1
    assert not health.live({}).is_ok
    assert "starting for 901 s" in health.live({}).words


def test_lag_is_no_matter_and_a_stall_is() -> None:
    health = Health(Clock())
    health.started()
    assert health.live({0: FINE}).is_ok
    told = health.live({0: FINE, 3: STALLED, 4: STALLED})
    assert not told.is_ok
    assert told.words == "there is something to do and no progress, for up to 130 s: partitions 3, 4"
    many = health.live(dict.fromkeys(range(9), STALLED)).words
    assert many.endswith("partitions 0, 1, 2, 3, 4, ...")


def test_brokers_that_are_away_make_it_not_ready_and_long_after_not_alive() -> None:
    clock = Clock()
    health = Health(clock)
    health.started()
    health.lacks = ""
    assert (health.ready([]).is_ok, health.live({}).words) == (True, "alive")
    clock.now_s += READY_WITHIN_S + 1
    assert health.ready([]).words == "no broker answers, for 16 s"
    assert health.live({}).is_ok
    assert health.live({}).words == "no broker answers, for 16 s"
    clock.now_s += AWAY_LIMIT_S
    assert not health.live({}).is_ok
    health.answered()
    assert health.live({}).is_ok
    assert health.ready([]).is_ok


def test_it_is_not_ready_while_something_lacks_or_is_restored() -> None:
    health = Health(Clock())
    health.started()
    health.lacks = "the table cannot be written"
    assert health.ready([]).words == "the table cannot be written"
    assert health.live({}).is_ok
    health.lacks = ""
    assert health.ready([7]).words == "being restored: partition 7"
    assert health.ready([]).words == "ready"
