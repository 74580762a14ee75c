"""`stream-curate export`: which file comes of which name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import crawl, inspect_json, run, small_table, write_metadata, write_parquet


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has uids."""
    folder = tmp_path_factory.mktemp("export")
    source = write_parquet(folder / "in.parquet", crawl(50), uid=[f"{i:032x}" for i in range(50, 0, -1)])
    metadata = write_metadata(folder / "entries.txt")
    run("curate", source, "--out", folder / "t", "--metadata", metadata, "-t", 5).ended(0)
    return folder / "t"


def test_a_parquet_for_img2dataset(table: Path, tmp_path: Path) -> None:
    shown = run("export", table, "--out", tmp_path / "out.parquet").ended(0)
    n_curated = inspect_json(table)["n_curated"]
    rows = pq.read_table(tmp_path / "out.parquet")
    assert rows.schema.names == ["url", "caption", "uid"]
    assert len(rows) == n_curated
    assert f"{n_curated} pairs of the settled version" in shown.words


def test_a_npy_for_datacomp(table: Path, tmp_path: Path) -> None:
    report = run("export", table, "--out", tmp_path / "out.npy", "--json").ended(0).json
    uids = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert uids.dtype == np.dtype("u8,u8")
    assert uids.tolist() == sorted(uids.tolist())
    inspected = inspect_json(table)
    assert report == {
        "n_pairs": inspected["n_curated"],
        "out": str(tmp_path / "out.npy"),
        "settled_version": inspected["settled_version"],
        "decisions": "provisional",
    }


def test_a_npy_needs_uids(tmp_path: Path) -> None:
    without, _ = small_table(tmp_path, 20)
    refused = run("export", without, "--out", tmp_path / "out.npy").ended(3)
    assert "needs a column uid in the input" in refused.words
    assert not (tmp_path / "out.npy").exists()


def test_no_seed_is_needed_and_the_table_stays_as_it_is(table: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in table.rglob("*")}
    run("export", table, "--out", tmp_path / "out.parquet").ended(0)
    assert {path: path.stat().st_mtime_ns for path in table.rglob("*")} == before


@pytest.mark.parametrize("name", ["none/out.parquet", "", "/", "out.csv", "out.PARQUET", "out.NPY", "out"])
def test_a_name_that_does_not_fit_never_ends_in_a_traceback_or_another_format(
    table: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("export", table, "--out", name)
    assert outcome.code in (0, 2, 3, 7), outcome
    if outcome.code == 0:
        magic = (tmp_path / name).read_bytes()[:6]
        expected = {".parquet": b"PAR1", "": b"PAR1", ".npy": b"\x93NUMPY"}
        assert magic.startswith(expected.get(Path(name).suffix.lower(), b"not one of ours"))


def test_a_table_that_was_never_settled_says_so(tmp_path: Path) -> None:
    bad = tmp_path / "b.csv"
    bad.write_text("address\n")
    run("curate", bad, "--out", tmp_path / "t").ended(3)
    refused = run("export", tmp_path / "t", "--out", tmp_path / "out.parquet").ended(3)
    assert "has not been settled yet" in refused.words
