"""`stream-curate report`: one file to keep with the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import crawl, inspect_json, outcome_of, run, small_table, start, wait_until, write_metadata

from stream_curate import exit_codes


def test_a_report_is_written_and_its_digest_told(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    out = tmp_path / "report.html"
    outcome = run("report", table, "-o", out).ended(0)
    digest = inspect_json(table)["digest"]
    assert digest in outcome.out
    assert digest in out.read_text()
    assert run("report", table, "--out", out, "--json").ended(0).json == {"out": str(out), "digest": digest}


def test_errors_end_it_with_their_codes_and_words(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    assert (
        "holds no curated table" in run("report", tmp_path, "-o", tmp_path / "r.html").ended(exit_codes.BAD_INPUT).err
    )
    run("report", table).ended(exit_codes.USAGE)
    missing = run("report", table, "-o", tmp_path / "no" / "r.html").ended(exit_codes.OUTPUT)
    assert "cannot be written" in missing.err


@pytest.mark.slow
def test_a_table_that_was_never_settled_has_no_report(tmp_path: Path) -> None:
    metadata = write_metadata(tmp_path / "entries.txt")
    rule = ["--metadata", metadata, "--counter", "exact", "--batch-size", 10, "--checkpoint-interval", 0]
    process = start("curate", "-", "--format", "jsonl", "--out", tmp_path / "t", *rule, stdin=-1)
    assert process.stdin is not None
    process.stdin.write("".join(json.dumps({"url": u, "text": t}) + "\n" for u, t in crawl(30)).encode())
    process.stdin.flush()
    wait_until(lambda: len(list((tmp_path / "t").glob("_delta_log/*.json"))) >= 2, process)
    process.kill()
    outcome_of(process)
    outcome = run("report", tmp_path / "t", "-o", tmp_path / "r.html").ended(exit_codes.BAD_INPUT)
    assert "has not been settled yet" in outcome.err
    assert not (tmp_path / "r.html").exists()
