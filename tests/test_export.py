"""The settled pairs for other tools: parquet as img2dataset reads it, uids as DataComp reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import crawl, run, write_csv, write_metadata, write_parquet

from stream_curate.errors import ConfigError, OutputError
from stream_curate.export import export_pairs, export_uids
from stream_curate.table import view as view_module
from stream_curate.table.view import TableView

N_PAIRS = 120


def uids(n: int) -> list[str]:
    """As DataComp's: 32 hex digits, in no order, some beyond 2^63 in either half."""
    return [f"{(i * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}" for i in range(1, n + 1)]


def table_of(folder: Path, source: Path, *flags: object) -> TableView:
    metadata = write_metadata(folder / "entries.txt")
    rule = ["--metadata", metadata, "-t", 5, "--seed", 7, "--counter", "exact"]
    run("curate", source, "--out", folder / "t", *rule, *flags).ended(0)
    return TableView(folder / "t")


@pytest.fixture
def with_uids(tmp_path: Path) -> TableView:
    return table_of(tmp_path, write_parquet(tmp_path / "in.parquet", crawl(N_PAIRS), uid=uids(N_PAIRS)))


@pytest.fixture
def without_uids(tmp_path: Path) -> TableView:
    return table_of(tmp_path, write_csv(tmp_path / "in.csv", crawl(N_PAIRS)))


def curated(view: TableView, *columns: str) -> pa.Table:
    return pa.Table.from_batches(view.read_settled(columns)).sort_by(columns[0])


def test_pairs_are_written_as_img2dataset_reads_them(without_uids: TableView, tmp_path: Path) -> None:
    n_pairs = export_pairs(without_uids, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.names == ["url", "caption"]
    assert {field.type for field in written.schema} == {pa.string()}
    assert n_pairs == len(written) == without_uids.settled.n_curated < N_PAIRS
    assert written.sort_by("url").columns == curated(without_uids, "url", "text").columns


def test_a_uid_goes_with_its_pair(with_uids: TableView, tmp_path: Path) -> None:
    export_pairs(with_uids, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet").to_pylist()
    known = dict(zip((url for url, _ in crawl(N_PAIRS)), uids(N_PAIRS), strict=True))
    assert written
    assert all(row["uid"] == known[row["url"]] for row in written)


def test_uids_are_written_as_datacomp_reads_them(with_uids: TableView, tmp_path: Path) -> None:
    n_uids = export_uids(with_uids, tmp_path / "out.npy")
    loaded = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert loaded.dtype == np.dtype("u8,u8")
    expected = sorted(curated(with_uids, "uid")["uid"].to_pylist())
    assert [f"{high:016x}{low:016x}" for high, low in loaded.tolist()] == expected
    assert n_uids == len(expected)


def test_pairs_of_several_inputs_may_have_a_uid_or_none(tmp_path: Path) -> None:
    view = table_of(tmp_path, write_parquet(tmp_path / "in.parquet", crawl(20), uid=uids(20)))
    run("curate", write_csv(tmp_path / "more.csv", crawl(20, first=20)), "--out", tmp_path / "t", "--seed", 7).ended(0)
    view = TableView(tmp_path / "t")
    export_pairs(view, tmp_path / "out.parquet")
    column = pq.read_table(tmp_path / "out.parquet")["uid"]
    assert 0 < column.null_count < len(column)
    with pytest.raises(ConfigError, match="some of these pairs have none"):
        export_uids(view, tmp_path / "out.npy")


MALFORMED = {
    "short": "ab",
    "too_long": "0" * 33,
    "no_hex": "g" * 32,
    "empty": "",
    "underscore": "0_0" + "1" * 29,
    "minus": "-" + "1" * 31,
    "plus": "+" + "1" * 31,
    "prefix": "0x" + "1" * 30,
    "space": " " + "1" * 31,
    "line_end": "1" * 31 + "\n",
    "other_digits": "\u0661" * 32,
    "escape": "\x1b[31m" + "1" * 27,
}


@pytest.mark.parametrize("uid", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_uid_is_refused_for_datacomp(tmp_path: Path, uid: str) -> None:
    pairs = [("http://x.org/1", "a dog"), ("http://x.org/2", "a cat")]
    view = table_of(tmp_path, write_parquet(tmp_path / "in.parquet", pairs, uid=[uid, "1" * 32]))
    with pytest.raises(ConfigError, match="is not 32 hex digits") as refusal:
        export_uids(view, tmp_path / "out.npy")
    assert str(refusal.value).isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entries.txt", "in.parquet", "t"]


def test_upper_case_hex_is_a_uid_too(tmp_path: Path) -> None:
    pairs = [("http://x.org/1", "a dog")]
    view = table_of(tmp_path, write_parquet(tmp_path / "in.parquet", pairs, uid=["AB" * 16]))
    export_uids(view, tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy", allow_pickle=False).tolist() == [(0xABABABABABABABAB, 0xABABABABABABABAB)]


def test_a_table_without_pairs_gives_empty_files(tmp_path: Path) -> None:
    view = table_of(tmp_path, write_csv(tmp_path / "in.csv", [("http://x.org/1", "nothing")]))
    assert export_pairs(view, tmp_path / "out.parquet") == 0
    assert export_uids(view, tmp_path / "out.npy") == 0
    assert pq.read_table(tmp_path / "out.parquet").schema.names == ["url", "caption"]
    assert np.load(tmp_path / "out.npy", allow_pickle=False).shape == (0,)


def test_what_was_there_is_replaced_only_at_the_end(
    with_uids: TableView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TableView, columns: Any = None) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"url": ["http://x.org/1"], "text": ["a dog"], "uid": ["1" * 32]}).select(columns)
        raise OSError(28, "No space left on device")

    (tmp_path / "out.parquet").write_text("before")
    monkeypatch.setattr(TableView, "read_settled", fail)
    with pytest.raises(OutputError, match=r"out\.parquet cannot be written: No space left on device"):
        export_pairs(with_uids, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "before"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["none/out.parquet", "folder"])
def test_a_place_that_cannot_be_written_is_refused_in_words(with_uids: TableView, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for export in (export_pairs, export_uids):
        with pytest.raises(OutputError, match=f"{name} cannot be written"):
            export(with_uids, tmp_path / name)
    assert not list(tmp_path.rglob("*.unfinished"))


def test_only_the_settled_files_and_the_columns_needed_are_read(
    with_uids: TableView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, list[str]]] = []
    original = view_module.read_batches

    def spy(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        assert columns is not None
        read.append((path.name, list(columns)))
        return original(path, columns)

    with_uids.folder.metadata_file.unlink()  # neither the entries nor the counts are needed
    for path in with_uids.folder.own.glob("settled-*"):
        path.unlink()
    monkeypatch.setattr(view_module, "read_batches", spy)
    export_pairs(TableView(tmp_path / "t"), tmp_path / "out.parquet")
    export_uids(TableView(tmp_path / "t"), tmp_path / "out.npy")
    assert {name for name, _ in read} == set(with_uids.settled.files)
    assert {column for _, columns in read for column in columns} == {"url", "text", "uid"}
