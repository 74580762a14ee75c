"""`stream-curate serve`: a live page of a table on disk."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path

import pytest
from command_line import outcome_of, run, small_table, start

from stream_curate import exit_codes


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_url_answers_and_ends_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    table, _ = small_table(tmp_path)
    process = start("serve", table, "--port", 0)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}picture", timeout=30) as answer:
            assert json.load(answer)["picture"]["numbers"]["n_read"] == 300
        process.send_signal(number)
        outcome_of(process).ended(exit_codes.DONE)
    finally:
        process.kill()
        process.wait()


def test_errors_end_it_with_their_codes_and_words(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    assert "holds no curated table" in run("serve", tmp_path, "--port", 0).ended(exit_codes.BAD_INPUT).err
    assert "cannot serve on" in run("serve", table, "--host", "192.0.2.1").ended(exit_codes.USAGE).err
    run("serve", table, "--port", 70_000).ended(exit_codes.USAGE)
