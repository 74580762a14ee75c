"""The data card and the numbers, held against what inspect says."""

from __future__ import annotations

from pathlib import Path

from command_line import inspect_json, run, write_csv, write_metadata

from stream_curate.page.card import card_of, cut_of, numbers_of
from stream_curate.table.view import TableView


def test_card_and_numbers_are_those_of_inspect(table: Path) -> None:
    report = inspect_json(table)
    view = TableView(table)
    card, numbers = card_of(view), numbers_of(view)
    same = ["threshold", "seed_fingerprint", "metadata_sha256", "n_entries", "dedup", "counter", "settled_version"]
    assert {key: card[key] for key in same} == {key: report[key] for key in same}
    assert card["counter_error_bound"] == report["counter_error_bound"]
    shared = numbers.keys() & report.keys()
    assert len(shared) >= 12
    assert {key: numbers[key] for key in shared} == {key: report[key] for key in shared}
    assert card["cut"] == [{"source": uri, "position": n, "unit": "rows"} for uri, n in report["cut"].items()]


def test_the_outcomes_add_up_to_what_was_read(table: Path) -> None:
    numbers = numbers_of(TableView(table))
    outcomes = [numbers["n_curated"], numbers["n_pending"], numbers["n_evicted"], *numbers["dropped"].values()]
    assert sum(outcomes) + numbers["n_rejected"] + numbers["n_forwarded"] == numbers["n_read"]


def test_of_kafka_the_cut_is_told_in_offsets(table: Path) -> None:
    view = TableView(table)
    object.__setattr__(view.identity, "origin", "kafka:pairs,ledger/2")
    cut = {"kafka:pairs/0": 5 * 65_536 + 7, "kafka:pairs/1": 3 * 65_536, "kafka:ledger/0": 9}
    assert cut_of(view, cut) == [("pairs/0", 5, "offset, and 7 rows of it"), ("pairs/1", 3, "offset")]


def test_names_and_sources_are_escaped_and_hold_no_password(tmp_path: Path) -> None:
    view = TableView(_table(tmp_path / "a\u202eb"))
    assert card_of(view)["name"] == r"a\u202eb"
    assert cut_of(view, {"s3://key:secret@bucket/x.parquet": 1}) == [("s3://***@bucket/x.parquet", 1, "rows")]


def _table(root: Path) -> Path:
    source = write_csv(root.parent / "in.csv", [("http://x.org/1", "a dog")])
    metadata = write_metadata(root.parent / "entries.txt")
    run("curate", source, "--out", root, "--metadata", metadata, "--counter", "exact").ended(0)
    return root
