"""The table's folder: who may write to it, what is refused, and what is kept on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from rig import Setup, small_stream, table_digest

from stream_curate import failpoints
from stream_curate.checked_file import read_checked, write_checked
from stream_curate.curate import Pace
from stream_curate.errors import ConfigError, OutputError
from stream_curate.table.delta import APPLICATION, DeltaLog
from stream_curate.table.folder import TableFolder
from stream_curate.table.view import TableView


def test_a_table_in_use_is_refused_in_words(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    first = setup.open(tmp_path / "t")
    try:
        with pytest.raises(OutputError, match="in use"):
            setup.open(tmp_path / "t")
    finally:
        first.table.close()
    setup.run(tmp_path / "t")


def test_a_table_held_by_another_process_is_refused_until_that_ends(tmp_path: Path) -> None:
    out = tmp_path / "t"
    Setup(small_stream()).run(out)
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    lock = str(TableFolder(out).lock_file)
    with subprocess.Popen([sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="in use"):
            Setup(small_stream()).open(out)
        holder.kill()
    Setup(small_stream()).open(out).table.close()


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other files that stream-curate did not make"):
        Setup(small_stream()).open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_delta_table_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "theirs"), pa.table({"x": [1]}))
    with pytest.raises(ConfigError, match="Delta table that stream-curate did not make"):
        Setup(small_stream()).open(tmp_path / "theirs")
    assert DeltaTable(str(tmp_path / "theirs")).version() == 0


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        Setup(small_stream()).open(tmp_path / "t")


def test_another_format_version_is_refused_naming_both(tmp_path: Path) -> None:
    out = tmp_path / "t"
    Setup(small_stream()).run(out)
    path = TableFolder(out).identity_file
    header, payload = read_checked(path)
    write_checked(path, header | {"format_version": 99}, payload)
    with pytest.raises(ConfigError, match=r"version 99.*version 1"):
        Setup(small_stream()).open(out)


def test_a_damaged_identity_is_refused_in_words(tmp_path: Path) -> None:
    out = tmp_path / "t"
    Setup(small_stream()).run(out)
    path = TableFolder(out).identity_file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputError, match="checksum"):
        Setup(small_stream()).open(out)


def test_any_delta_reader_sees_the_curated_pairs_and_where_they_came_from(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    setup.run(tmp_path / "t")
    table = DeltaTable(str(tmp_path / "t")).to_pyarrow_table()
    assert table.column_names == ["pair_id", "url", "text", "entry_ids", "source", "source_row", "uid"]
    assert table.schema.field("entry_ids").type.value_type == pa.int32()
    rows = {source.uri: source.rows for source in setup.sources}
    for row in table.to_pylist():
        url, text = rows[row["source"]][row["source_row"]]
        assert (row["url"].encode(), row["text"].encode()) == (url, text)
        assert len(row["pair_id"]) == 16
        assert row["entry_ids"] == sorted(set(row["entry_ids"]))


def test_every_settled_commit_names_its_cut_for_readers_of_the_log(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    setup.run(tmp_path / "t")
    table = DeltaTable(str(tmp_path / "t"))
    info = json.loads(table.history(1)[0]["stream_curate"])
    assert info["kind"] == "settle"
    assert info["settled"]["cut"] == {source.uri: len(source.rows) for source in setup.sources}
    assert table.transaction_version(APPLICATION) == info["checkpoint"]


def test_vacuum_keeps_the_settled_version_and_the_last_two_checkpoints(tmp_path: Path) -> None:
    setup = Setup(small_stream(300), pace=Pace(10, 0.0, 2.0, first_settle=20))
    out = tmp_path / "t"
    n_checked = 0

    def check(step: str) -> None:
        nonlocal n_checked
        if step != "checkpoint.cleaned" or DeltaLog(out).checkpoint < 3:
            return
        log = DeltaLog(out)
        present = {path.name for path in out.glob("part-*.parquet")}
        view = TableView(out)
        assert {file.name for file in log.files()} <= present
        assert {file.name for file in log.files_at(view.state.version - 1)} <= present
        if view.state.settled is not None:
            assert set(view.settled.files) <= present
            assert view.digest() == setup.offline_digest(view.settled.cut)
        n_checked += 1

    with failpoints.listening(check):
        setup.run(out)
    assert n_checked > 10
    setup.open(out).table.close()
    view = TableView(out)
    states = sorted(path.name for path in view.folder.own.glob("state-*"))
    assert states == [f"state-{n:012d}.bin" for n in (view.state.checkpoint - 1, view.state.checkpoint)]
    assert not list(view.folder.own.glob("*.draft"))


def test_many_small_files_are_merged_without_a_change_of_rows(tmp_path: Path) -> None:
    setup = Setup(small_stream(200), pace=Pace(5, 0.0, 1e9, first_settle=10**9), max_small_files=4)
    out = tmp_path / "t"
    n_files: list[int] = []
    steps: list[str] = []

    def look(step: str) -> None:
        steps.append(step)
        if step == "checkpoint.begin" and DeltaLog.exists(out):
            n_files.append(len(DeltaLog(out).files()))

    with failpoints.listening(look):
        setup.run(out)
    assert "compact.committed" in steps
    assert max(n_files) <= setup.max_small_files + 1
    assert table_digest(out) == setup.offline_digest()


def test_another_writer_of_the_delta_log_is_noticed_and_loses_nothing(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"

    def interfere(step: str) -> None:
        if step == "settle.state_written":
            DeltaLog(out).commit(None, info={"kind": "somebody else"})

    with pytest.raises(OutputError, match="could not be committed"), failpoints.listening(interfere):
        setup.run(out)
    setup.run(out)
    assert table_digest(out) == setup.offline_digest()


def test_nothing_new_makes_no_new_version(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    setup.run(tmp_path / "t")
    version = DeltaLog(tmp_path / "t").version
    setup.run(tmp_path / "t")
    assert DeltaLog(tmp_path / "t").version == version
