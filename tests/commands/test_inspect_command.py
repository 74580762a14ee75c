"""`stream-curate inspect`: what is told of a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import (
    ENTRIES,
    crawl,
    inspect_json,
    offline_digest,
    run,
    small_table,
    write_csv,
    write_metadata,
    write_parquet,
)

from stream_curate.draws import seed_fingerprint
from stream_curate.metadata import Metadata

DOCUMENTED = {
    "n_read",
    "n_unique",
    "n_matched",
    "n_admitted",
    "n_evicted",
    "n_curated",
    "n_pending",
    "n_duplicate",
    "n_rejected",
    "digest",
    "settled_version",
    "threshold",
    "counter",
    "metadata_sha256",
}


def test_json_has_the_documented_keys_and_the_numbers_add_up(tmp_path: Path) -> None:
    pairs = [*crawl(100), *crawl(30), ("ftp://x.org/1", "a dog"), ("", "a dog")]
    metadata = write_metadata(tmp_path / "entries.txt")
    source = write_csv(tmp_path / "in.csv", pairs)
    run("curate", source, "--out", tmp_path / "t", "--metadata", metadata, "-t", 5, "--counter", "exact").ended(0)
    report = inspect_json(tmp_path / "t")
    assert report.keys() >= DOCUMENTED
    assert report["n_read"] == report["n_unique"] + report["n_duplicate"] + report["n_rejected"]
    assert (report["n_read"], report["n_unique"], report["n_duplicate"]) == (132, 100, 30)
    assert report["rejected"] == {"url_missing": 1, "url_scheme": 1}
    assert report["n_curated"] + report["n_pending"] == report["n_admitted"] - report["n_evicted"]
    assert report["n_pending"] == 0
    assert report["cut"] == {source.as_uri(): 132}
    assert report["metadata_sha256"] == Metadata.from_entries(ENTRIES).fingerprint
    assert report["seed_fingerprint"] == seed_fingerprint(0)
    assert report["counter"]["kind"] == "exact"
    assert report["counter_error_bound"] == 0


def test_counts_before_and_after_are_those_of_the_pairs(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    report = inspect_json(table)
    top = report["top_entries"]
    n_cat = sum(f" {text} ".count(" cat ") > 0 for _, text in crawl(300))
    assert next(row for row in top if row["entry"] == "cat")["count"] == n_cat
    assert all(0 < row["curated"] <= row["count"] for row in top)
    assert [row["count"] for row in top] == sorted((row["count"] for row in top), reverse=True)
    assert report["n_head"] + report["n_tail"] <= report["n_entries"] == len(ENTRIES)
    assert report["n_head"] == sum(row["count"] > 5 for row in top)


def test_the_same_stands_in_words_for_people(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    report = inspect_json(table)
    shown = run("inspect", table).ended(0).words
    for value in (f"{report['n_curated']:,}", report["digest"], report["seed_fingerprint"], "exact"):
        assert str(value) in shown
    for title in ("Rule", "Numbers", "Balance", "Entries matched most", "Settled cut: 300 records read"):
        assert title in shown


def test_a_sketch_is_shown_with_its_error(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(50))
    metadata = write_metadata(tmp_path / "entries.txt")
    config = tmp_path / "small.yaml"
    config.write_text("count_min: {num_hashes: 3, num_buckets: 100}\n")
    run("curate", source, "--out", tmp_path / "t", "--metadata", metadata, "--config", config).ended(0)
    report = inspect_json(tmp_path / "t")
    assert report["counter"] == {"kind": "count-min", "num_hashes": 3, "num_buckets": 100}
    assert report["counter_error_bound"] == pytest.approx(2.718281828 / 100 * report["n_matches"])
    assert report["counter_error_probability"] == pytest.approx(0.049787, rel=1e-4)
    assert "count-min 3 x 100 cells" in run("inspect", tmp_path / "t").ended(0).words


def test_what_if_tells_what_offline_gives_at_those_thresholds(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    report = inspect_json(table, "--what-if", "4,2,1,5", "--seed", 7)
    assert list(report["what_if"]) == ["4", "2", "1", "5"]
    for threshold, size in report["what_if"].items():
        rule = ["--metadata", tmp_path / "entries.txt", "-t", threshold, "--seed", 7]
        offline = run("offline", source, *rule, "--out", tmp_path / "o.parquet", "--json").ended(0).json
        assert size == offline["n_curated"], threshold
    assert report["what_if"]["5"] == report["n_curated"]
    assert len(set(report["what_if"].values())) > 2
    shown = run("inspect", table, "--what-if", "2", "--seed", 7).ended(0).words
    assert f"t = 2 {report['what_if']['2']} pairs" in shown


def test_what_if_above_the_tables_threshold_is_refused(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    refused = run("inspect", table, "--what-if", "4,6", "--seed", 7).ended(3)
    assert "from 1 to its own 5, not for 6: what a higher one keeps was dropped" in refused.words


def test_what_if_needs_the_tables_seed(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    missing = run("inspect", table, "--what-if", "4").ended(3)
    assert f"was made with a seed of fingerprint {seed_fingerprint(7)}, which is needed here" in missing.words
    wrong = run("inspect", table, "--what-if", "4", "--seed", 424242).ended(3)
    assert f"not {seed_fingerprint(424242)}" in wrong.words
    assert "424242" not in wrong.words
    environment = {"STREAM_CURATE_SEED": "7"}
    run("inspect", table, "--what-if", "4", environment=environment).ended(0)


@pytest.mark.parametrize("value", ["many", "4;3", "", "4,"])
def test_what_if_takes_numbers(tmp_path: Path, value: str) -> None:
    table, _ = small_table(tmp_path, 20)
    assert "--what-if takes thresholds" in run("inspect", table, "--what-if", value, "--seed", 7).ended(2).words


def test_the_digest_is_offlines(tmp_path: Path) -> None:
    table, source = small_table(tmp_path)
    rule = ["--metadata", tmp_path / "entries.txt", "-t", 5, "--seed", 7]
    assert inspect_json(table)["digest"] == offline_digest([source], *rule, out=tmp_path / "o.parquet")


def test_many_sources_are_shortened_for_people_and_listed_in_json(tmp_path: Path) -> None:
    sources = [write_csv(tmp_path / f"{i:02d}.csv", crawl(3, 3 * i)) for i in range(13)]
    metadata = write_metadata(tmp_path / "entries.txt")
    run("curate", *sources, "--out", tmp_path / "t", "--metadata", metadata).ended(0)
    assert "and 3 more sources; --json lists all" in run("inspect", tmp_path / "t").ended(0).words
    report = inspect_json(tmp_path / "t")
    assert len(report["cut"]) == len(report["sources"]) == 13
    assert all(source["finished"] and source["n_rows"] == 3 for source in report["sources"])


@pytest.mark.parametrize("entry", ["[red]", "[/red]", "[bold]x[/bold]", "\x1b[31m", "\u202edog", "a\x9bb"])
def test_an_entry_is_shown_as_it_is_or_escaped(tmp_path: Path, entry: str) -> None:
    """Entries are anybody's words: no markup, no emoji names, nothing that moves a terminal."""
    metadata = write_metadata(tmp_path / "entries.txt", ["dog", entry])
    source = write_parquet(tmp_path / "in.parquet", [("http://x.org/1", f"a {entry} dog")])
    run("curate", source, "--out", tmp_path / "t", "--metadata", metadata).ended(0)
    shown = run("inspect", tmp_path / "t").ended(0)
    assert all(line.isprintable() for line in shown.out.splitlines())
    if entry.isprintable():
        assert entry in shown.out
    as_json = run("inspect", tmp_path / "t", "--json").ended(0)
    assert entry in [row["entry"] for row in as_json.json["top_entries"]]
    assert all(line.isprintable() for line in as_json.out.splitlines()), "JSON is printed to terminals too"


def test_what_is_no_table_is_refused_in_words_that_fit(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "holds no curated table" in run("inspect", tmp_path / "photos").ended(3).words
    assert "holds no curated table" in run("inspect", tmp_path / "none").ended(3).words
    (tmp_path / "photos" / "1.jpg").write_text("")
    for name in ("photos", "photos/1.jpg"):
        refused = run("inspect", tmp_path / name).ended(3)
        assert "empty or does not exist yet" not in refused.words, "advice for who makes a table, not for who reads one"


def test_a_damaged_table_is_told_with_7(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    for path in (table / "_stream_curate").glob("state-*"):
        path.write_bytes(path.read_bytes()[:-1])
    assert "Run the same `stream-curate curate` again" in run("inspect", table).ended(7).words
