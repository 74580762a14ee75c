"""`stream-curate explain`: why a pair is kept; and nothing of draws for a pair that is not in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from command_line import Outcome, crawl, run, small_table, write_csv, write_metadata, write_parquet

from stream_curate.draws import seed_fingerprint
from stream_curate.offline import draw, siphash_2_4
from stream_curate.pairs import make_pairs
from stream_curate.table.view import TableView

ABOUT_DRAWS = {"draw", "keeps", "verdict"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("explain"))[0]


@pytest.fixture(scope="module")
def rows(table: Path) -> list[dict[str, Any]]:
    """The pairs in the settled table."""
    return pa.Table.from_batches(TableView(table).read_settled()).to_pylist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def dropped(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """A pair that was read and matched, and is not in the table."""
    urls = {row["url"] for row in rows}
    return next((url, text) for url, text in crawl(300) if url not in urls and text == "a dog in the park")


def explain(table: Path, *flags: object) -> Any:
    return run("explain", table, *flags, "--json").ended(0).json


def keys_in(report: Any) -> set[str]:
    """All keys, however deep."""
    if isinstance(report, dict):
        return set(report) | {key for value in report.values() for key in keys_in(value)}
    return {key for value in report for key in keys_in(value)} if isinstance(report, list) else set()


def test_a_pair_in_the_table_is_told_with_its_draws_and_verdict(table: Path, rows: list[dict[str, Any]]) -> None:
    counts = TableView(table).settled_entry_counts
    for row in rows[:10]:
        report = explain(table, "--pair-id", row["pair_id"].hex(), "--seed", 7)
        assert report["in_table"] is True
        assert report["text"] == row["text"]
        entries = report["matched_entries"]
        assert [entry["entry_id"] for entry in entries] == row["entry_ids"]
        base = siphash_2_4((7).to_bytes(16, "little"), row["pair_id"])
        for entry in entries:
            assert entry["count"] == counts[entry["entry_id"]]
            assert entry["draw"] == draw(base, entry["entry"])
            assert entry["keeps"] == (entry["draw"] * entry["count"] < 5)
        keepers = [entry["entry"] for entry in entries if entry["keeps"]]
        assert keepers
        assert all(entry in report["verdict"] for entry in keepers)


def test_a_pair_is_found_by_its_id_and_by_url_and_text(table: Path, rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    by_id = explain(table, "--pair-id", row["pair_id"].hex().upper(), "--seed", 7)
    assert by_id == explain(table, "--url", row["url"], "--text", row["text"], "--seed", 7)


def test_the_probability_is_that_of_one_coin_for_each_matched_entry(
    table: Path, rows: list[dict[str, Any]], dropped: tuple[str, str]
) -> None:
    reports = [
        explain(table, "--pair-id", rows[0]["pair_id"].hex(), "--seed", 7),
        explain(table, "--text", dropped[1]),
        explain(table, "--text", "a zebra in the park"),
    ]
    for report in reports:
        lost = 1.0
        for entry in report["matched_entries"]:
            lost *= 1 - min(1.0, 5 / max(entry["count"], 1))
        assert report["matched_entries"]
        assert report["threshold"] == 5
        assert report["keep_probability"] == pytest.approx(1 - lost)


def is_silent(report: Any, shown: Outcome) -> bool:
    """Whether neither a draw nor a verdict is told."""
    words = shown.words.lower()
    return not keys_in(report) & ABOUT_DRAWS and not any(word in words for word in ("draw", "verdict", "kept by"))


def test_of_a_pair_that_is_not_in_the_table_no_draw_and_no_verdict_is_told(
    table: Path, dropped: tuple[str, str]
) -> None:
    """They would tell a site which urls get in; with the right seed as without."""
    for url in (dropped[0], "http://never.read/"):
        for seed in ([], ["--seed", 7]):
            flags = ["--url", url, "--text", dropped[1], *seed]
            report = explain(table, *flags)
            assert report["in_table"] is False
            assert report["pair_id"] == make_pairs([url], [dropped[1]]).column("pair_id")[0].as_py().hex()
            assert report["matched_entries"]
            assert is_silent(report, run("explain", table, *flags).ended(0))


def test_of_a_text_alone_no_draw_and_no_verdict_is_told(table: Path, rows: list[dict[str, Any]]) -> None:
    report = explain(table, "--text", rows[0]["text"], "--seed", 7)
    assert (report["pair_id"], report["in_table"]) == (None, False)
    assert [entry["entry_id"] for entry in report["matched_entries"]] == rows[0]["entry_ids"]
    assert is_silent(report, run("explain", table, "--text", rows[0]["text"], "--seed", 7).ended(0))


def test_a_pair_that_is_pending_is_not_in_the_settled_table(tmp_path: Path) -> None:
    """Its draws say whether a settle will keep it; so they are not told either."""
    table, _ = small_table(tmp_path, 20)
    new = ("http://new.org/1", "zebra")
    bad = tmp_path / "b.csv"
    bad.write_text("address\n")
    run("curate", write_csv(tmp_path / "a.csv", [new]), bad, "--out", table, "--seed", 7).ended(3)
    assert TableView(table).state.numbers.n_read == 21
    assert TableView(table).settled.n_read == 20
    report = explain(table, "--url", new[0], "--text", new[1], "--seed", 7)
    assert report["in_table"] is False
    assert not keys_in(report) & ABOUT_DRAWS


def test_a_text_without_a_match_is_never_kept(table: Path) -> None:
    report = explain(table, "--text", "nothing of that")
    assert (report["matched_entries"], report["keep_probability"]) == ([], 0.0)
    shown = run("explain", table, "--text", "nothing of that").ended(0)
    assert "no entry matches: such a pair is always dropped" in shown.words
    assert run("explain", table, "--text", "", "--json").ended(0).json["keep_probability"] == 0.0


def test_for_people_the_entries_their_counts_and_the_verdict_are_shown(table: Path, rows: list[dict[str, Any]]) -> None:
    report = explain(table, "--pair-id", rows[0]["pair_id"].hex(), "--seed", 7)
    shown = run("explain", table, "--pair-id", rows[0]["pair_id"].hex(), "--seed", 7).ended(0).words
    assert "in the settled table" in shown
    assert f"P(keep) = {report['keep_probability']:.4f}" in shown
    assert report["verdict"] in shown
    for entry in report["matched_entries"]:
        assert f"{entry['entry']} {entry['count']}" in shown


def test_without_the_seed_a_pair_in_the_table_is_told_but_its_draws(table: Path, rows: list[dict[str, Any]]) -> None:
    pair_id = rows[0]["pair_id"].hex()
    report = explain(table, "--pair-id", pair_id)
    full = explain(table, "--pair-id", pair_id, "--seed", 7)
    assert report["in_table"] is True
    assert not keys_in(report) & ABOUT_DRAWS
    for known, told in zip(full["matched_entries"], report["matched_entries"], strict=True):
        assert told.items() <= known.items()
        assert (told["entry"], told["count"]) == (known["entry"], known["count"])
    shown = run("explain", table, "--pair-id", pair_id).ended(0).words
    assert "its draws are not shown: they need the table's seed" in shown
    assert not any(word in shown for word in ("draw x count", "keeps it", full["verdict"]))


def test_a_seed_that_is_given_must_be_the_tables_own(table: Path, rows: list[dict[str, Any]]) -> None:
    pair_id = rows[0]["pair_id"].hex()
    wrong = run("explain", table, "--pair-id", pair_id, "--seed", 777777).ended(3)
    assert seed_fingerprint(777777) in wrong.words
    assert "777777" not in wrong.words
    assert not any(word in wrong.words for word in ("draw", "verdict", "keeps"))


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--url", "http://x.org/1"],
        ["--pair-id", "0" * 32, "--text", "a dog"],
        ["--pair-id", "0" * 32, "--url", "http://x.org/1"],
        ["--pair-id", "0" * 31],
        ["--pair-id", "g" * 32],
        ["--pair-id", "0" * 30 + " 0"],
        ["--pair-id", "\x1b[31m"],
        ["--pair-id", "0" * 32],  # not in the table
        ["--url", "ftp://x.org/1", "--text", "a dog"],
        ["--url", "http://x.org/\x1b[31m", "--text", "a dog"],
        ["--url", "", "--text", "a dog"],
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(table: Path, flags: list[str]) -> None:
    refused = run("explain", table, *flags).ended(2)
    assert all(line.isprintable() for line in refused.err.splitlines())


@pytest.mark.parametrize(
    "text",
    ["a dog \x1b[31m", "a dog \u202e", "a \x9b dog", "a dog [/red]", "a [red] dog", "a :dog: dog", "a dog\u2028\ufeff"],
)
def test_texts_are_shown_as_they_are_or_escaped(tmp_path: Path, text: str) -> None:
    metadata = write_metadata(tmp_path / "entries.txt", ["dog", "[red]", ":dog:"])
    source = write_parquet(tmp_path / "in.parquet", [("http://x.org/1", text)])
    run("curate", source, "--out", tmp_path / "t", "--metadata", metadata).ended(0)
    for flags in (["--text", text], ["--url", "http://x.org/1", "--text", text]):
        shown = run("explain", tmp_path / "t", *flags).ended(0)
        assert all(line.isprintable() for line in shown.out.splitlines())
        if text.isprintable():
            assert text in shown.out
        as_json = run("explain", tmp_path / "t", *flags, "--json").ended(0)
        assert as_json.json["text"] == text
        assert all(line.isprintable() for line in as_json.out.splitlines()), "JSON is printed to terminals too"
