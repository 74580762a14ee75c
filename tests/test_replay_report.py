"""The report of a replay: the table fits the terminal and says what is true, the JSON is whole, the picture is one."""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from rich.console import Console
from rig import ENTRIES, small_stream
from strategies import EXACT, TINY

from stream_curate.errors import OutputError
from stream_curate.metadata import Metadata
from stream_curate.replay import Agreement, Point, ReplayReport, Run, replay
from stream_curate.replay_report import plot_convergence, print_table, write_json


@pytest.fixture(scope="module")
def report() -> ReplayReport:
    return replay(
        small_stream(),
        Metadata.from_entries(ENTRIES),
        threshold=3,
        seed=7,
        batch_sizes=(1_000, 1),
        counters=(EXACT, TINY),
        n_interruptions=2,
    )


@pytest.fixture(scope="module")
def large_report(report: ReplayReport) -> ReplayReport:
    """With numbers as large as a replay in memory can have."""

    def enlarged(point: Point) -> Point:
        n = 9_999_999
        far = Agreement(0.999_99, 0.000_123_4, 12.345_67)
        return replace(point, n_read=n, n_offline=n, n_curated=n, n_provisional=2 * n, over_admission=2.345, whole=far)

    runs = [Run(run.variation, [enlarged(point) for point in run.points]) for run in report.runs]
    return replace(report, n_pairs=9_999_999, n_unique=9_999_999, n_head=351_659, n_entries=351_659, runs=runs)


@pytest.fixture(scope="module")
def wrong_report(report: ReplayReport) -> ReplayReport:
    """With one run that is not equal to offline: 12 prefixes, of which the first has nothing at all."""
    point = report.runs[1].points[-1]
    wrong = replace(point, is_equal=False, settled=Agreement(0.875, 0.1, 0.2))
    nothing = replace(
        wrong,
        n_offline=0,
        over_admission=math.inf,
        provisional=Agreement(0.0, 1.0, math.inf),
        settled=Agreement(0.0, 1.0, math.inf),
        whole=Agreement(0.0, 1.0, math.inf),
    )
    runs = [report.runs[0], Run(report.runs[1].variation, [nothing] + 11 * [wrong]), *report.runs[2:]]
    return replace(report, runs=runs)


def printed(report: ReplayReport, width: int) -> list[str]:
    output = io.StringIO()
    print_table(report, Console(file=output, width=width, highlight=False))
    return output.getvalue().splitlines()


# The table


@pytest.mark.parametrize("name", ["report", "large_report", "wrong_report"])
@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_nothing_is_cut_off(name: str, width: int, request: pytest.FixtureRequest) -> None:
    lines = printed(request.getfixturevalue(name), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)


def test_the_table_shows_each_run_and_each_prefix(report: ReplayReport) -> None:
    text = "\n".join(printed(report, 120))
    first = report.runs[0]
    assert "as given, batches of 1,000, exact counts" in text
    for words in (
        "batches of 1 ",
        "count-min counts ",
        "interrupted 2 times ",
        "reversed ",
        "sorted by text ",
        "shuffled (2) ",
    ):
        assert f"\n{words}" in text, words
    assert "shuffled (2), batches of 1, count-min counts, interrupted 2 times" in text
    for point in first.points:
        assert any(
            line.split()[:4] == [str(n) for n in (point.n_read, point.n_offline, point.n_curated, point.n_provisional)]
            for line in text.splitlines()
        )


def test_the_verdict_is_that_of_the_report(report: ReplayReport, wrong_report: ReplayReport) -> None:
    n_points = sum(len(run.points) for run in report.runs)
    good = "\n".join(printed(report, 120))
    assert (
        f"All {n_points} settled prefixes of {len(report.runs)} runs hold exactly what offline gives for them." in good
    )
    assert "NOT" not in good

    bad = printed(wrong_report, 120)
    assert f"12 of {n_points + 12 - len(report.runs[1].points)} settled prefixes do NOT hold what offline" in "\n".join(
        bad
    )
    differences = [line for line in bad if "in place of" in line]
    assert len(differences) == 10
    assert differences[0].startswith("  as given, batches of 1, exact counts: after")
    assert differences[1].endswith("Jaccard 0.875")
    assert "  and 2 more" in bad
    assert any(line.startswith("batches of 1 ") and " 0 of 12 " in line for line in bad)


def test_without_noise_no_floor_is_shown(report: ReplayReport, tmp_path: Path) -> None:
    assert "Noise floor" in "\n".join(printed(report, 120))
    quiet = replace(report, noise=[])
    assert "Noise floor" not in "\n".join(printed(quiet, 120))
    plot_convergence(quiet, tmp_path / "quiet.png")


# JSON


@pytest.mark.parametrize("name", ["report", "wrong_report"])
def test_the_json_holds_the_report(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report: ReplayReport = request.getfixturevalue(name)
    write_json(report, tmp_path / "replay.json")
    assert json.loads((tmp_path / "replay.json").read_text("utf-8")) == report.as_dict()


# The picture


@pytest.mark.parametrize("name", ["report", "large_report", "wrong_report"])
def test_the_picture_is_a_png_of_its_size(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = tmp_path / "convergence.png"
    plot_convergence(request.getfixturevalue(name), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (1650, 840)


def test_the_picture_is_the_same_again_and_leaves_no_trace(report: ReplayReport, tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    plot_convergence(report, tmp_path / "once.png")
    plot_convergence(report, tmp_path / "again.png")
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert dict(mpl.rcParams) == settings


def test_more_orders_than_colours_are_all_drawn(tmp_path: Path) -> None:
    orders = ("given", *(f"shuffled-{n}" for n in range(9)))
    report = replay(
        small_stream(),
        Metadata.from_entries(ENTRIES),
        threshold=3,
        seed=7,
        orders=orders,
        counters=(EXACT,),
        n_interruptions=0,
    )
    plot_convergence(report, tmp_path / "convergence.png")
    assert (tmp_path / "convergence.png").stat().st_size > 0


@pytest.mark.parametrize("write", [write_json, plot_convergence])
def test_a_place_that_cannot_be_written_is_refused(write: object, report: ReplayReport, tmp_path: Path) -> None:
    assert callable(write)
    with pytest.raises(OutputError, match="missing/file: cannot be written: No such file or directory"):
        write(report, tmp_path / "missing" / "file")
