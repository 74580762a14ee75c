"""What README.md says of speed is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.report import BEGIN, END, KEPT, README, aims, in_readme, markdown, plot

# tiny runs on a busy machine: no figure in it means anything
FOUND = json.loads(Path(__file__).with_name("sample_results.json").read_text(encoding="utf-8"))


def test_the_figures_in_readme_are_those_that_were_kept() -> None:
    readme = README.read_text(encoding="utf-8")
    assert in_readme(readme, json.loads(KEPT.read_text(encoding="utf-8"))) == readme


def test_figures_are_replaced_between_the_marks_and_nowhere_else() -> None:
    readme = in_readme(f"before {BEGIN} old\n{END} behind", FOUND)
    assert readme.startswith(f"before {BEGIN}\n\nMeasured in one run")
    assert readme.endswith(f"\n{END} behind")
    assert in_readme(readme, FOUND) == readme
    with pytest.raises(ValueError, match="once each"):
        in_readme("no marks", FOUND)


def test_a_part_of_a_run_can_be_reported() -> None:
    part = {key: FOUND[key] for key in ("machine", "date", "sizes", "matching")}
    assert markdown(part).count("####") == 1
    assert aims(part).count("\n") == 3


def test_plots_are_drawn(tmp_path: Path) -> None:
    plot(FOUND, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"bench.png", "growth.png", "traffic.png"}
