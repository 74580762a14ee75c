"""Sample decisions: rows of the table and rejected records, escaped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from stream_curate.chances import Chances
from stream_curate.metadata import Metadata
from stream_curate.page.samples import SampledPair, newest_rejections, sample_rows, shown_url
from stream_curate.table.append_file import Mark
from stream_curate.table.view import TableView

PAIR = SampledPair(b"1" * 16, "http://u:p@x.org/?sig=1", "a dog\u202e\n", np.array([0]), 3)


def test_rows_are_those_of_the_table(table: Path) -> None:
    view = TableView(table)
    stored = {
        (pair_id, url, text)
        for batch in view.read_settled(["pair_id", "url", "text"])
        for pair_id, url, text in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    }
    sampled = sample_rows(table, view.settled.files, 10, 5, "kept")
    assert len(sampled) == 10
    assert {(pair.pair_id, pair.url, pair.text) for pair in sampled} <= stored
    assert all(len(pair.entry_ids) for pair in sampled)
    assert [pair.text for pair in sampled] == [pair.text for pair in sample_rows(table, view.settled.files, 10, 5)]


def test_no_more_rows_than_there_are(table: Path) -> None:
    assert sample_rows(table, [], 10, 1) == []
    files = TableView(table).settled.files
    assert len(sample_rows(table, files[:1], 10_000, 1)) <= 10_000


def test_a_file_that_is_gone_is_told(table: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        sample_rows(table, ["part-gone.parquet"], 1, 1)


def test_a_pair_is_shown_escaped_and_without_what_lets_somebody_in() -> None:
    shown = PAIR.as_dict(Metadata.from_entries(["dog"]), Chances(np.array([50]), 5))
    assert shown["text"] == r"a dog\u202e\x0a"
    assert shown["url"] == "http://***@x.org/?sig=***"
    assert shown["keep_probability"] == pytest.approx(0.1)
    assert shown["what"] == "admitted"
    assert len(shown_url("http://x.org/" + "a" * 9_000)) <= 200


def test_of_an_evicted_pair_the_url_is_not_told() -> None:
    evicted = PAIR.judged(is_kept=False, checkpoint=9)
    assert (evicted.what, evicted.url, evicted.checkpoint) == ("evicted", None, 9)
    kept = PAIR.judged(is_kept=True, checkpoint=9)
    assert (kept.what, kept.url) == ("kept", PAIR.url)


def test_the_newest_rejections_below_the_mark(table: Path) -> None:
    mark = TableView(table).state.rejects
    found = newest_rejections(table / "_rejects.jsonl", mark, 8)
    assert [each["reason"] for each in found] == ["url_missing", "url_scheme"]
    assert found[0].keys() == {"what", "reason", "source", "row", "preview"}
    assert [each["reason"] for each in newest_rejections(table / "_rejects.jsonl", mark, 1)] == ["url_missing"]


def test_rejections_beyond_the_mark_or_damaged_are_not_shown(tmp_path: Path) -> None:
    good = orjson.dumps(
        {"reason": "url_scheme", "source": "file:///a", "row": 3, "preview": "ftp://u:pw@x/"},
        option=orjson.OPT_APPEND_NEWLINE,
    )
    path = tmp_path / "_rejects.jsonl"
    path.write_bytes(good + b"not json\n" + b'{"reason": 3}\n' + b"[]\n" + good)
    whole = Mark(path.stat().st_size, "")
    assert len(newest_rejections(path, whole, 8)) == 2
    assert newest_rejections(path, Mark(len(good), ""), 8)[0]["preview"] == "ftp://***@x/"
    assert newest_rejections(path, Mark(0, ""), 8) == []
    assert newest_rejections(tmp_path / "none", whole, 8) == []
