"""The report: one file that holds it all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import inspect_json

from stream_curate.errors import ConfigError, OutputError
from stream_curate.page import write_report
from stream_curate.page.report import _html


def kept_in(report: Path) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="kept">(.*?)</script>', report.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_it_holds_the_picture_and_the_digest(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    digest = write_report(table, out)
    inspected = inspect_json(table)
    values = kept_in(out)
    assert values["digest"] == digest == inspected["digest"]
    picture = values["picture"]
    assert picture["numbers"]["n_curated"] == inspected["n_curated"]
    assert picture["balance"]["n_head"] == inspected["n_head"]
    assert picture["card"]["seed_fingerprint"] == inspected["seed_fingerprint"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_it_refers_to_nothing_outside(table: Path, tmp_path: Path) -> None:
    write_report(table, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "page.css" not in text
    assert 'src="page.js"' not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "default-src 'none'" in text
    assert "unsafe" not in text


def test_what_is_in_it_cannot_end_the_script() -> None:
    html = _html(json.dumps({"picture": "</script><!--<script>&"}).encode()).decode()
    assert html.count("</script>") == 2
    assert json.loads(html.split('id="kept">')[1].split("</script>")[0]) == {"picture": "</script><!--<script>&"}


def test_the_same_table_gives_the_same_report_but_for_the_time(table: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(table, tmp_path / name)
    a, b = kept_in(tmp_path / "a.html"), kept_in(tmp_path / "b.html")
    assert a["picture"] == b["picture"]


def test_what_cannot_be_written_is_told(table: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(table, tmp_path / "none" / "report.html")


def test_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_report(tmp_path, tmp_path / "report.html")
