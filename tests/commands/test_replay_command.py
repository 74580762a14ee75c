"""`stream-curate replay`: what it takes, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import crawl, run, write_csv, write_metadata


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    source = write_csv(tmp_path / "crawl.csv", [*crawl(300), *crawl(20)])
    metadata = write_metadata(tmp_path / "entries.txt")
    return ["replay", source, "--metadata", metadata, "--seed", 7, "--out", tmp_path / "out"]


def test_final_decisions_are_measured_at_several_thresholds(arguments: list[object], tmp_path: Path) -> None:
    shown = run(*arguments, "--decisions", "final", "-t", 5, "-t", 20, "--horizon", "known").ended(0)
    assert "t = 5, noise floor TV" in shown.out
    assert "t = 20, noise floor TV" in shown.out
    written = json.loads((tmp_path / "out" / "replay.json").read_text())
    assert [run["threshold"] for run in written["runs"]] == 4 * [5] + 4 * [20]
    assert (written["n_records"], written["n_pairs"]) == (320, 300)
    assert written["rule"]["decisions"] == {"kind": "final", "pool_size": 300, "horizon": "known", "version": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["convergence.png", "replay.json", "table.md"]


def test_the_pool_size_and_the_settings_of_a_file_are_taken(arguments: list[object], tmp_path: Path) -> None:
    config = tmp_path / "final.yaml"
    config.write_text("decisions: final\npool_size: 1.2e3\nthreshold: 9\n")
    report = run(*arguments, "--config", config, "--prefixes", "0.5,1", "--json").ended(0).json
    assert report["rule"]["decisions"]["pool_size"] == 1200
    assert report["rule"]["decisions"]["horizon"] == "endless"
    assert report["rule"]["threshold"] == 9
    assert [point["n_decided"] for point in report["runs"][0]["points"]] == [150, 300]
    assert report["runs"][0]["points"][1]["threshold"] == 9 * 300 / 1200


def test_provisional_decisions_are_compared_as_ever(arguments: list[object], tmp_path: Path) -> None:
    shown = run(*arguments, "-t", 5, "--prefixes", "1").ended(0)
    assert "hold exactly what offline gives for them" in shown.words
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["convergence.png", "replay.json"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["-t", 5, "-t", 6], 2, "several thresholds go with --decisions final alone"),
        (["-t", 0], 2, "Invalid value for '--threshold'"),
        (["--decisions", "final", "--pool-size", "1.5"], 3, "pool_size: Value error, it must be a whole number"),
        (["--pool-size", "100"], 3, "pool_size is 100, which means something to final decisions alone"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    arguments: list[object], flags: list[object], code: int, words: str
) -> None:
    assert words in run(*arguments, *flags).ended(code).words


def test_a_sketch_is_refused_for_final_decisions(arguments: list[object]) -> None:
    environment = {"STREAM_CURATE_COUNTER": "count-min"}
    refused = run(*arguments, "--decisions", "final", environment=environment).ended(3)
    assert "final decisions need exact counts" in refused.words
