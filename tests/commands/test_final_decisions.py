"""A table with final decisions in the hands of every command: what works says which kind it is, the rest refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import crawl, inspect_json, run, write_csv, write_metadata

from stream_curate.table.view import TableView

N_PAIRS = 600
RULE = ["-t", 5, "--seed", 7, "--decisions", "final", "--pool-size", "1e3"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("final") / "crawl.csv", crawl(N_PAIRS))


@pytest.fixture(scope="module")
def table(source: Path) -> Path:
    """600 pairs of a pool of 1,000, at t=5. Nobody writes to it."""
    out = source.parent / "t"
    run("curate", source, "--out", out, "--metadata", write_metadata(source.parent / "entries.txt"), *RULE).ended(0)
    return out


def rows_of(table: Path) -> list[dict[str, Any]]:
    return [row for batch in TableView(table).read_settled() for row in batch.to_pylist()]


def test_curate_tells_what_was_accepted_for_good(tmp_path: Path, source: Path) -> None:
    metadata = write_metadata(tmp_path / "entries.txt")
    arguments = ["curate", source, "--out", tmp_path / "t", "--metadata", metadata, *RULE]
    shown = run(*arguments).ended(0).words
    report = run(*arguments, "--json").ended(0).json
    assert f"accepted {report['n_admitted']:,} of these, for good; 60.0% of the pool of 1,000 was read" in shown
    assert "evicted" not in shown
    assert (report["decisions"], report["n_evicted"], report["balanced"]) == ("final", 0, True)
    assert report["n_curated"] == report["n_admitted"] < report["n_matched"]


def test_curate_says_when_nothing_was_balanced(tmp_path: Path, source: Path) -> None:
    metadata = write_metadata(tmp_path / "entries.txt")
    rule = ["-t", 5000, "--decisions", "final", "--pool-size", N_PAIRS]
    shown = run("curate", source, "--out", tmp_path / "t", "--metadata", metadata, *rule).ended(0).words
    assert "so every matched pair was accepted" in shown
    assert "in a new folder" in shown


def test_more_pairs_than_a_known_pool_has_are_warned_of(tmp_path: Path, source: Path) -> None:
    metadata = write_metadata(tmp_path / "entries.txt")
    rule = ["-t", 5, "--seed", 7, "--decisions", "final", "--pool-size", 500, "--horizon", "known"]
    told = run("curate", source, "--out", tmp_path / "t", "--metadata", metadata, *rule, "--batch-size", 50).ended(0)
    assert told.err.count("more pairs than the pool size says") == 1


def test_inspect_says_which_kind_it_is(table: Path) -> None:
    report = inspect_json(table)
    assert (report["decisions"], report["pool_size"], report["horizon"]) == ("final", 1000, "endless")
    assert (report["threshold"], report["tail_count"], report["counter"]) == (5, 3, {"kind": "exact"})
    assert report["n_curated"] == report["n_admitted"] == len(rows_of(table))
    assert (report["n_pending"], report["n_evicted"], report["settled_n_read"]) == (0, 0, N_PAIRS)
    counts = TableView(table).entry_counts
    assert (report["n_head"], report["n_tail"]) == ((counts > 3).sum(), ((counts > 0) & (counts <= 3)).sum())
    shown = run("inspect", table).ended(0).words
    assert "decisions final no pair is taken back" in shown
    assert "pool size N 1,000 pairs that t belongs to; horizon endless" in shown
    assert not {"evicted", "pending"} & set(shown.split())


def test_a_provisional_table_says_so_too(tmp_path: Path, source: Path) -> None:
    metadata = write_metadata(tmp_path / "entries.txt")
    run("curate", source, "--out", tmp_path / "t", "--metadata", metadata, "-t", 5).ended(0)
    report = inspect_json(tmp_path / "t")
    assert (report["decisions"], report["pool_size"], report["horizon"]) == ("provisional", None, None)
    assert "decisions provisional until the table is settled" in run("inspect", tmp_path / "t").ended(0).words


def test_export_writes_what_was_accepted(table: Path, tmp_path: Path) -> None:
    shown = run("export", table, "--out", tmp_path / "pairs.parquet").ended(0).words
    assert "accepted for good up to version" in shown
    exported = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert {(row["url"], row["caption"]) for row in exported} == {(row["url"], row["text"]) for row in rows_of(table)}


def test_explain_tells_the_chance_of_now(table: Path) -> None:
    view = TableView(table)
    for text in ("a dog in the park", "a zebra", "nothing we know"):
        report = run("explain", table, "--text", text, "--json").ended(0).json
        ids = np.array([entry["entry_id"] for entry in report["matched_entries"]], np.int32)
        assert report["keep_probability"] == view.chances.of_pair(ids)
        assert report["decisions"] == "final"
    shown = run("explain", table, "--text", "a dog").ended(0).words
    assert "P(accept) now = " in shown
    assert "accepts now with probability" in shown


def test_explain_never_tells_a_draw_of_a_pair_that_is_not_in_the_table(table: Path) -> None:
    held = {row["url"] for row in rows_of(table)}
    dropped = next((url, text) for url, text in crawl(N_PAIRS) if url not in held and text != "no match")
    for url, text in (dropped, ("http://never.read/", "a dog")):
        shown = run("explain", table, "--url", url, "--text", text, "--seed", 7).ended(0)
        report = run("explain", table, "--url", url, "--text", text, "--seed", 7, "--json").ended(0).json
        assert not report["in_table"]
        assert "draw" not in shown.words
        assert "verdict" not in report
        assert all(entry.keys() == {"entry", "entry_id", "count", "chance"} for entry in report["matched_entries"])


def test_explain_of_an_accepted_pair_shows_its_draws_and_no_keeper(table: Path) -> None:
    row = rows_of(table)[0]
    report = run("explain", table, "--pair-id", row["pair_id"].hex(), "--seed", 7, "--json").ended(0).json
    assert report["verdict"].startswith("accepted for good when it came")
    assert all(0 <= entry["draw"] < 1 and "keeps" not in entry for entry in report["matched_entries"])
    shown = run("explain", table, "--pair-id", row["pair_id"].hex(), "--seed", 7).ended(0).words
    assert "draw = " in shown


def test_report_is_written(table: Path, tmp_path: Path) -> None:
    run("report", table, "--out", tmp_path / "report.html").ended(0)
    written = (tmp_path / "report.html").read_text()
    picture = json.loads(written.partition('id="kept">')[2].partition("</script>")[0])["picture"]
    card = picture["card"]
    assert (card["decisions"], card["pool_size"], card["horizon"], card["tail_count"]) == ("final", 1000, "endless", 3)
    assert picture["balance"]["n_head"] == inspect_json(table)["n_head"]
    assert picture["history"][-1]["n_curated"] == len(rows_of(table))
    assert {each["what"] for each in picture["decisions"]} == {"kept"}


def test_what_needs_an_offline_run_is_refused_in_words(table: Path, source: Path) -> None:
    with_seed = ["verify", table, source, "--seed", 7]
    for arguments in (["verify", table, source], with_seed, ["inspect", table, "--what-if", "3"]):
        refused = run(*arguments).ended(2)
        assert "was made with final decisions" in refused.err
        assert "does not apply to it" in refused.err


def test_the_threshold_of_final_decisions_cannot_be_changed(table: Path, source: Path) -> None:
    refused = run("curate", source, "--out", table, "--seed", 7, "-t", 4).ended(3)
    assert "threshold: the table has 5 for good" in refused.err
