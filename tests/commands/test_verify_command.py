"""`stream-curate verify`: a table against offline, by exit code, words and JSON."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import crawl, curate_shards, run, small_table, write_csv

from stream_curate.draws import seed_fingerprint
from stream_curate.table.view import TableView


def lose_a_row(table: Path) -> None:
    path = table / TableView(table).settled.files[0]
    rows = pq.read_table(path)
    pq.write_table(rows.slice(1), path)


def swap_entry_ids(table: Path) -> None:
    path = table / TableView(table).settled.files[0]
    rows = pq.read_table(path).to_pylist()
    other = next(row for row in rows if row["entry_ids"] != rows[0]["entry_ids"])
    rows[0]["entry_ids"], other["entry_ids"] = other["entry_ids"], rows[0]["entry_ids"]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)


def tamper_with_a_url(table: Path) -> None:
    path = table / TableView(table).settled.files[0]
    rows = pq.read_table(path).to_pylist()
    rows[0]["url"] += "/elsewhere"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)


def test_an_equal_table_ends_with_0(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    shown = run("verify", table, source, "--seed", 7).ended(0)
    assert "Table and offline MetaCLIP: equal" in shown.words
    report = run("verify", table, source, "--seed", 7, "--json").ended(0).json
    assert report["equal"] is True
    assert report["digest_table"] == report["digest_offline"]
    assert (report["n_differences"], report["differences"], report["tv_from_exact"]) == (0, [], 0)


def test_the_shards_with_the_default_sketch_are_equal_and_near_exact_counts(tmp_path: Path) -> None:
    shards = Path(__file__).parents[1] / "shards"
    curate_shards(tmp_path / "t", "--counter", "count-min")
    report = run("verify", tmp_path / "t", shards, "--columns", "caption,url", "--seed", 7, "--json").ended(0).json
    assert report["equal"] is True
    assert report["tv_from_exact"] < 0.001


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_a_row, "is kept by offline, and not in the table"),
        (swap_entry_ids, "has entry_ids"),
        (tamper_with_a_url, "is not the pair_id of its url and text"),
    ],
)
def test_a_table_that_was_changed_ends_with_5_and_the_first_differences(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    table, source = small_table(tmp_path)
    change(table)
    shown = run("verify", table, source, "--seed", 7).ended(5)
    assert "NOT EQUAL" in shown.words
    assert words in shown.words
    report = run("verify", table, source, "--seed", 7, "--json").ended(5).json
    assert report["equal"] is False
    assert 1 <= report["n_differences"] <= 2
    assert words in report["differences"][0]


def test_a_source_that_is_missing_is_asked_for_by_name(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    more = write_csv(tmp_path / "more.csv", crawl(20, 500))
    run("curate", more, "--out", table, "--seed", 7).ended(0)
    refused = run("verify", table, source, "--seed", 7).ended(2)
    assert f"{more.as_uri()} is needed too, with its first 20 rows" in refused.words
    run("verify", table, more, source, "--seed", 7).ended(0)


def test_a_source_that_is_shorter_now_is_refused(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    write_csv(source, crawl(200))
    refused = run("verify", table, source, "--seed", 7).ended(3)
    assert "has 200 rows where 300 were read before: it was cut or replaced" in refused.words


def test_a_table_that_read_standard_input_cannot_be_verified_and_says_why(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    run("curate", "-", "--out", table, "--seed", 7, stdin=b"url,text\nhttp://y.org/1,a dog\n").ended(0)
    refused = run("verify", table, source, "--seed", 7)
    assert refused.code in (2, 3)
    assert "standard input" in refused.words, "a user knows it by this name or by -, not as `stdin:`"


def test_the_tables_seed_is_needed(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    assert f"fingerprint {seed_fingerprint(7)}, which is needed here" in run("verify", table, source).ended(3).words
    wrong = run("verify", table, source, "--seed", 515151).ended(3)
    assert seed_fingerprint(515151) in wrong.words
    assert "515151" not in wrong.words


def test_a_table_that_was_never_settled_says_so(tmp_path: Path) -> None:
    bad = tmp_path / "b.csv"
    bad.write_text("address\n")
    source = write_csv(tmp_path / "a.csv", crawl(20))
    run("curate", source, bad, "--out", tmp_path / "t").ended(3)
    refused = run("verify", tmp_path / "t", source).ended(3)
    assert "has not been settled yet: run the same `stream-curate curate` to its end first" in refused.words
