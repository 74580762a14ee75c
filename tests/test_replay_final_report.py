"""The report of a replay of final decisions: the table fits, Markdown holds the same, the picture is one."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rig import ENTRIES, small_stream

from stream_curate.errors import OutputError
from stream_curate.metadata import Metadata
from stream_curate.replay_final import ORDERS, FinalReplayReport, FinalRun, replay_final
from stream_curate.replay_final_report import markdown_table, order_in_words, plot_final, print_table, write_markdown
from stream_curate.replay_report import write_json


@pytest.fixture(scope="module")
def report() -> FinalReplayReport:
    metadata = Metadata.from_entries(ENTRIES)
    return replay_final(small_stream(), metadata, thresholds=[2, 5, 1000], seed=7, horizon="known", n_seeds=3)


@pytest.fixture(scope="module")
def large_report(report: FinalReplayReport) -> FinalReplayReport:
    """With numbers as large as they can be."""

    def enlarged(run: FinalRun) -> FinalRun:
        far = [replace(point, distance=0.99, distance_same_seed=0.99, floor=0.0099) for point in run.points]
        more = replace(run.admission, head_over=9.99, head_under=1.0, tail_loss=1.0)
        return replace(run, threshold=100_000 * run.threshold, points=far, admission=more)

    return replace(report, n_pairs=9_999_999, n_entries=351_659, runs=[enlarged(run) for run in report.runs])


def printed(report: FinalReplayReport, width: int) -> list[str]:
    output = io.StringIO()
    print_table(report, Console(file=output, width=width, highlight=False))
    return output.getvalue().splitlines()


@pytest.mark.parametrize("name", ["report", "large_report"])
@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_nothing_is_cut_off(name: str, width: int, request: pytest.FixtureRequest) -> None:
    lines = printed(request.getfixturevalue(name), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)


def test_each_order_of_each_threshold_has_its_row(report: FinalReplayReport) -> None:
    lines = printed(report, 120)
    assert [line.rstrip() for line in lines if line.startswith("t = ")] == [
        f"t = {t:,}, noise floor TV {report.runs[4 * i].points[-1].floor:.2g}" for i, t in enumerate((2, 5, 1000))
    ]
    for order in ORDERS:
        assert len([line for line in lines if line.startswith(order_in_words(order) + " ")]) == 3
    assert any("90 distinct valid pairs" in line for line in lines)
    assert any("horizon known. Means over 3 seeds." in line for line in lines)


def test_markdown_holds_the_numbers_of_the_table(report: FinalReplayReport, tmp_path: Path) -> None:
    head, line, *rows = markdown_table(report).splitlines()
    assert head.count("|") == line.count("|") == 9
    assert len(rows) == len(report.runs) == 12
    for row, run in zip(rows, report.runs, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:3] == [f"{run.threshold:,}", order_in_words(run.order), f"{run.points[-1].multiple:.2f}"]
        assert cells[-1] == f"{100 * run.admission.tail_loss:.2f} %"
    write_markdown(report, tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text("utf-8") == markdown_table(report)


def test_the_json_holds_the_report(report: FinalReplayReport, tmp_path: Path) -> None:
    write_json(report, tmp_path / "replay.json")
    assert json.loads((tmp_path / "replay.json").read_text("utf-8")) == report.as_dict()


@pytest.mark.parametrize("name", ["report", "large_report"])
def test_the_picture_is_a_png_and_the_same_again(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for path in (tmp_path / "once.png", tmp_path / "again.png"):
        plot_final(request.getfixturevalue(name), path)
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", content[16:24]) == (1650, 840)
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize("write", [write_json, write_markdown, plot_final])
def test_a_place_that_cannot_be_written_is_refused(
    write: Callable[[FinalReplayReport, Path], None], report: FinalReplayReport, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="missing/file: cannot be written: No such file or directory"):
        write(report, tmp_path / "missing" / "file")
