"""The points along a Delta log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_line import inspect_json

from stream_curate.page import history
from stream_curate.page.history import MAX_COMMITS_READ, MAX_POINTS, History


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "_delta_log"
    folder.mkdir()
    return folder


def commit(log: Path, version: int, **ours: Any) -> None:
    info = {"timestamp": 1_000 * version, "operation": "WRITE", "stream_curate": json.dumps(ours)}
    lines = [{"add": {"path": "x"}}, {"commitInfo": info}]
    # as delta-rs writes it, without spaces
    (log / f"{version:020d}.json").write_text("\n".join(json.dumps(line, separators=(",", ":")) for line in lines))
    os.utime(log)


def numbers(n_read: int, n_curated: int = 0) -> dict[str, int]:
    return {"n_read": n_read, "n_unique": n_read, "n_admitted": n_read // 2, "n_evicted": 0, "n_curated": n_curated}


def test_each_commit_with_numbers_is_a_point(log: Path) -> None:
    commit(log, 0)
    commit(log, 1, kind="checkpoint", numbers=numbers(10))
    commit(log, 2, kind="compact")
    commit(log, 3, kind="settle", numbers=numbers(10, n_curated=4))
    read = History(log.parent)
    assert read.read_new()
    assert [(p.time_ms, p.n_read, p.n_admitted, p.n_curated) for p in read.points] == [
        (1000, 10, 5, 0),
        (3000, 10, 5, 4),
    ]


def test_a_settle_of_an_earlier_version_gives_what_it_carries(log: Path) -> None:
    commit(log, 1, kind="checkpoint", rule={})
    commit(log, 2, kind="settle", settled={"n_read": 9, "n_unique": 8, "n_curated": 3, "threshold": 5})
    read = History(log.parent)
    read.read_new()
    assert [(p.n_read, p.n_unique, p.n_admitted, p.n_curated) for p in read.points] == [(9, 8, None, 3)]


def test_every_commit_is_read_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read_point = history._read_point
    monkeypatch.setattr(history, "_read_point", lambda path: (opened.append(path.name), read_point(path))[1])
    read = History(log.parent)
    for version in range(1, 6):
        commit(log, version, numbers=numbers(version))
        assert read.read_new()
        assert not read.read_new()
    assert len(opened) == len(set(opened)) == len(read.points) == 5


def test_an_unchanged_folder_is_not_even_listed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(log, 1, numbers=numbers(1))
    os.utime(log, (1, 1))
    read = History(log.parent)
    assert read.read_new()
    monkeypatch.setattr(History, "_new_versions", lambda *_: pytest.fail("listed again"))
    assert not read.read_new()


def test_a_long_log_costs_a_bounded_number_of_reads_and_points(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    point = history.Point(0, 1, 1, 1, 0, 0)
    monkeypatch.setattr(history, "_read_point", lambda path: (opened.append(path), point)[1])
    for version in range(5_000):
        (log / f"{version:020d}.json").touch()
    read = History(log.parent)
    read.read_new()
    assert len(opened) <= MAX_COMMITS_READ
    assert opened[-1].name == f"{4_999:020d}.json"
    for first in range(5_000, 7_000, 100):
        for version in range(first, first + 100):
            (log / f"{version:020d}.json").touch()
        assert read.read_new()
        assert len(read.points) <= 2 * MAX_POINTS
    assert opened[-1].name == f"{6_999:020d}.json"


def test_commits_after_a_gap_are_found(log: Path) -> None:
    commit(log, 1, numbers=numbers(1))
    read = History(log.parent)
    read.read_new()
    commit(log, 9, numbers=numbers(9))
    read.read_new()
    assert [p.n_read for p in read.points] == [1, 9]


@pytest.mark.parametrize("content", ["", "{", '{"commitInfo":3}', '{"commitInfo":{"stream_curate":"["}}', "\0" * 50])
def test_a_commit_that_says_nothing_is_passed_over(log: Path, content: str) -> None:
    (log / f"{1:020d}.json").write_text(content)
    commit(log, 2, numbers=numbers(3))
    read = History(log.parent)
    read.read_new()
    assert [p.n_read for p in read.points] == [3]


def test_the_last_point_of_a_table_is_what_inspect_says(table: Path) -> None:
    report = inspect_json(table)
    read = History(table)
    read.read_new()
    assert read.points[-1].n_read == report["n_read"]
    assert read.points[-1].n_curated == report["n_curated"]
