"""What is made of the looks at a soak: a leak is told from ups and downs, and every bound can fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from soak.result import Bounds, Result
from soak.watch import Life, Sample, growth, least_between, look_at, slope_per_minute

MINUTES = 30
END_S = 60.0 * MINUTES


def life(
    name: str,
    *,
    rss_mb: Callable[[float], float] = lambda at_s: 300.0,
    n_fds: Callable[[float], int] = lambda at_s: 30,
    begin_s: float = 0.0,
) -> Life:
    samples = [Sample(at_s, round(1e6 * rss_mb(at_s)), n_fds(at_s)) for at_s in np.arange(begin_s, END_S, 1.0).tolist()]
    return Life(name, 7, samples)


def made(*lives: Life) -> Result:
    """A result that is as it should be, with these lives in place of others of the same name."""
    by_name = {name: life(name) for name in ("steady", "settler", "mortal-1")} | {each.name: each for each in lives}
    return Result(
        seed=1,
        minutes=MINUTES,
        top_rate=2_000.0,
        rate=1_000.0,
        warm_up_s=300.0,
        lasting=("steady", "settler"),
        bounds=Bounds(),
        lives=list(by_name.values()),
        lags=[(at_s, round(1_000 * at_s), 900) for at_s in np.arange(0.0, END_S, 2.0).tolist()],
        faults=[(30.0, "kill", "SIGKILL to mortal-1"), (60.0, "disconnect", "9 connections broken off")],
        fed_s=END_S,
        n_sent=1_800_000,
        n_distinct=100_000,
        drain_s=2.0,
        digest="ab",
        digest_offline="ab",
        audit={"n_differences": 0},
    )


def failing(result: Result) -> list[str]:
    return [what for what, _, _, is_fine in result.checks() if not is_fine]


def test_all_holds_when_nothing_grows() -> None:
    result = made()
    assert failing(result) == []
    assert result.holds


def test_memory_that_grows_is_told_from_memory_that_goes_up_and_down() -> None:
    grows = life("steady", rss_mb=lambda at_s: 300 + 1.2 * at_s / 60)
    swings = life("settler", rss_mb=lambda at_s: 300 + 40 * (at_s % 60 > 50))
    assert failing(made(grows, swings)) == ["memory of steady"]


def test_what_grows_in_the_warm_up_does_not_count() -> None:
    assert made(life("steady", rss_mb=lambda at_s: 100 + min(at_s, 290.0))).holds


def test_open_files_that_stay_are_told_from_those_of_partitions_that_come_and_go() -> None:
    stay = life("steady", n_fds=lambda at_s: 30 + int(at_s // 60))
    come_and_go = life("settler", n_fds=lambda at_s: 30 + 40 * (at_s % 30 > 10))
    assert failing(made(stay, come_and_go)) == ["open files of steady"]


def test_who_should_last_and_was_started_again_is_told() -> None:
    assert failing(made(life("settler", begin_s=900.0))) == ["settler lived through it"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"drain_s": 61.0}, "drained"),
        ({"audit": {"n_differences": 1}}, "differences found by audit"),
        ({"audit": {}}, "differences found by audit"),
        ({"digest_offline": "cd"}, "digest"),
        ({"digest": "", "digest_offline": ""}, "digest"),
        ({"lags": [(900.0, 0, 46_000)]}, "input waits"),
    ],
)
def test_every_bound_can_fail(change: dict[str, object], what: str) -> None:
    result = replace(made(), **change)
    assert failing(result) == [what]
    assert "FAILS" in result.words()


def test_figures_and_curves_are_kept(tmp_path: Path) -> None:
    made().save(tmp_path / "soak")
    told = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert told["holds"] is True
    assert len(told["checks"]) == len(made().checks())
    assert (tmp_path / "soak" / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_slope_least_and_growth() -> None:
    at_s = np.array([0.0, 30.0, 60.0, 90.0])
    assert slope_per_minute(at_s, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2.0)
    assert slope_per_minute(at_s[:1], at_s[:1]) == 0
    long_s = np.arange(2_000.0)
    assert slope_per_minute(long_s, 300 + 20.0 * (long_s > 700)) == 0
    assert slope_per_minute(long_s, 300 + long_s // 100) == pytest.approx(0.6, rel=0.05)
    assert least_between(at_s, np.array([5.0, 3.0, 9.0, 7.0]), 60.0).tolist() == [3.0, 7.0]
    assert growth(np.array([1, 1, 5, 9, 4, 4])) == 3
    assert growth(np.array([1, 2])) == 0


def test_a_process_is_looked_at_while_it_is_there() -> None:
    found = look_at(os.getpid(), 1.0)
    assert found is not None
    assert found.rss_bytes > 1e6
    assert found.n_fds > 2
    assert look_at(2**22 + 1, 1.0) is None
