"""All that is shown of a table, while somebody writes to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import crawl, inspect_json, run, write_csv, write_metadata

from stream_curate.errors import ConfigError
from stream_curate.page.picture import N_DECISIONS, Stopped, TablePicture
from stream_curate.page.samples import SampledPair
from stream_curate.table.view import TableView


def curate(root: Path, n_pairs: int, first: int = 0) -> None:
    source = write_csv(root.parent / f"{first}.csv", crawl(n_pairs, first=first))
    metadata = write_metadata(root.parent / "entries.txt")
    rule = ["--metadata", metadata, "-t", 5, "--seed", 7, "--counter", "exact"]
    run("curate", source, "--out", root, *rule).ended(0)


def test_the_picture_is_what_inspect_says(table: Path) -> None:
    picture = TablePicture(table)
    assert picture.as_dict() is None
    assert picture.refresh()
    assert picture.lacks_settled_rows
    first = picture.as_dict()
    assert first is not None
    assert first["balance"] is None
    picture.read_settled_rows()
    assert not picture.lacks_settled_rows
    values = picture.as_dict()
    assert values is not None
    report = inspect_json(table)
    assert values["numbers"]["n_curated"] == report["n_curated"]
    assert values["is_balance_current"]
    for key in ("n_head", "tail_share_before", "tail_share_after"):
        assert values["balance"][key] == report[key]
    assert picture.digest() == report["digest"]
    kinds = {each["what"] for each in values["decisions"]}
    assert kinds == {"kept", "rejected"}
    json.dumps(values)


def test_nothing_is_read_again_until_something_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "t"
    curate(root, 200)
    picture = TablePicture(root)
    picture.refresh()
    picture.read_settled_rows()
    with monkeypatch.context() as patched:
        patched.setattr("stream_curate.page.picture.TableView", lambda root: pytest.fail("read again"))
        assert not picture.refresh()
    metadata = picture._now.metadata if picture._now else None
    curate(root, 300, first=10_000)
    assert picture.refresh()
    assert picture._now is not None
    assert picture._now.metadata is metadata
    assert picture.lacks_settled_rows
    values = picture.as_dict()
    assert values is not None
    assert values["numbers"]["n_read"] == 500
    assert not values["is_balance_current"]
    assert values["balance"] is not None


def test_admitted_pairs_are_followed_to_their_settle(tmp_path: Path) -> None:
    root = tmp_path / "t"
    curate(root, 200)
    picture = TablePicture(root)
    picture.refresh()
    rows = [
        (pair_id, text)
        for batch in TableView(root).read_settled(["pair_id", "text"])
        for pair_id, text in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]
    followed = [SampledPair(pair_id, "http://x.org", text, np.array([0]), 0) for pair_id, text in rows[:2]]
    followed.append(SampledPair(b"0" * 16, "http://x.org/gone", "a dog", np.array([0]), 0))
    later = SampledPair(b"1" * 16, "http://x.org/later", "a dog", np.array([0]), 1_000)
    picture._decisions.followed = [*followed, later]
    picture.read_settled_rows()
    values = picture.as_dict()
    assert values is not None
    by_kind = [(each["what"], each["url"]) for each in values["decisions"] if each["what"] != "rejected"]
    assert ("admitted", "http://x.org/later") in by_kind
    assert ("evicted", None) in by_kind
    assert "http://x.org/gone" not in json.dumps(values)
    assert len(by_kind) <= N_DECISIONS


def test_a_table_that_was_made_anew_is_another_table(tmp_path: Path) -> None:
    root = tmp_path / "t"
    curate(root, 200)
    picture = TablePicture(root)
    picture.refresh()
    picture.read_settled_rows()
    shutil.rmtree(root)
    with pytest.raises(ConfigError):
        picture.refresh()
    assert picture.as_dict() is not None  # the last picture stays
    curate(root, 50, first=10_000)
    assert picture.refresh()
    values = picture.as_dict()
    assert values is not None
    assert values["numbers"]["n_read"] == 50
    assert values["balance"] is None


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no curated table"):
        TablePicture(tmp_path)


def test_reading_the_rows_can_be_given_up(table: Path) -> None:
    picture = TablePicture(table)
    picture.refresh()
    with pytest.raises(Stopped):
        picture.read_settled_rows(lambda: True)
    assert picture.lacks_settled_rows


def test_a_text_is_answered_by_the_counts_of_the_table(table: Path) -> None:
    picture = TablePicture(table)
    assert picture.answer(b"a dog") is None
    picture.refresh()
    answer = picture.answer(b"a dog")
    explained = run("explain", table, "--text", "a dog", "--json").ended(0).json
    assert answer is not None
    assert answer["keep_probability"] == explained["keep_probability"]
    assert {row["entry"]: row["count"] for row in answer["entries"]} == {
        row["entry"]: row["count"] for row in explained["matched_entries"]
    }
