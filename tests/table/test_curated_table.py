"""The table's folder: who may write to it, what is refused, and what is kept on disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from rig import MemorySource, Setup, small_stream, table_digest

from stream_curate import failpoints
from stream_curate.balance import N_OUTLOOKS
from stream_curate.checked_file import read_checked, write_checked
from stream_curate.counting import Counter
from stream_curate.curate import Pace
from stream_curate.errors import ConfigError, OutputError
from stream_curate.metadata import Metadata
from stream_curate.rule import Dedup
from stream_curate.table import curated_table, spill
from stream_curate.table.data_files import read_batches
from stream_curate.table.delta import APPLICATION, DeltaLog
from stream_curate.table.folder import TableFolder
from stream_curate.table.state import read_state
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
    infos = [json.loads(commit["stream_curate"]) for commit in table.history() if "stream_curate" in commit]
    info = next(info for info in infos if info["kind"] == "settle")
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
        before = read_state(view.folder.own, view.state.checkpoint - 1, log.writer_before)
        assert {file.name for file in before.files} <= present
        if view.state.settled is not None:
            assert set(view.settled.files) <= present
            assert view.digest() == setup.offline_digest(view.settled.cut)
        n_checked += 1

    with failpoints.listening(check):
        setup.run(out)
    assert n_checked > 10
    setup.open(out).table.close()
    view = TableView(out)
    states = sorted(path.name[:18] for path in view.folder.own.glob("state-*"))
    assert states == [f"state-{n:012d}" for n in (view.state.checkpoint - 1, view.state.checkpoint)]
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
    assert max(n_files) <= setup.max_small_files + N_OUTLOOKS  # one more of each class before they are merged
    assert table_digest(out) == setup.offline_digest()


def test_a_settle_commits_what_was_appended_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one version, with no checkpoint before it."""
    setup = Setup(small_stream(), pace=Pace(10, 1e9, 1e9, first_settle=10**9))
    out = tmp_path / "t"
    curation = setup.open(out)
    settle = curation.table.settle
    steps: list[str] = []
    monkeypatch.setattr(curation, "checkpoint", lambda: None)
    monkeypatch.setattr(curation.table, "settle", lambda *args: settle(*args[:3], curation._state()))
    with failpoints.listening(steps.append):
        curation.run(setup.sources)
    curation.table.close()
    assert [step for step in steps if step.endswith(".committed")] == ["settle.committed"]
    assert DeltaLog(out).version == 1
    view = TableView(out)
    assert view.digest() == setup.offline_digest()
    assert {source.uri: source.n_rows for source in view.state.sources} == view.settled.cut
    setup.run(out)
    assert DeltaLog(out).version == 1, "nothing was new"


@pytest.mark.parametrize("dedup", ["exact", "none"])
@pytest.mark.parametrize(
    ("max_in_memory", "max_waiting"), [(0, 0), (0, 2_000), (2_000, 10**9), (10**9, 0), (10**9, 2_000)]
)
def test_wherever_rows_wait_the_table_is_the_offline_subset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_in_memory: int, max_waiting: int, dedup: Dedup
) -> None:
    """In memory, aside on the disk, in files before the commit: some of them go at the first settle, others later."""
    monkeypatch.setattr(spill, "MAX_BYTES_IN_MEMORY", max_in_memory)
    monkeypatch.setattr(curated_table, "MAX_WAITING_BYTES", max_waiting)
    setup = Setup(small_stream(200), pace=Pace(10, 0.0, 1.5, first_settle=20), dedup=dedup)
    out = tmp_path / "t"
    curation = setup.open(out)
    settle = curation.table.settle
    monkeypatch.setattr(curation, "checkpoint", lambda: None)
    monkeypatch.setattr(curation.table, "settle", lambda *args: settle(*args[:3], curation._state()))
    curation.run(setup.sources)
    curation.table.close()
    assert table_digest(out) == setup.offline_digest()
    assert DeltaTable(str(out)).to_pyarrow_table().num_rows == TableView(out).settled.n_curated


@pytest.mark.parametrize("max_bytes", [0, 2**20])
def test_files_are_read_by_a_settle_only_where_it_is_not_known_that_all_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    """Two settles, the second one of few more rows."""
    monkeypatch.setattr(curated_table, "MAX_GUARD_BYTES", max_bytes)
    read: set[str] = set()

    def look(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        read.add(path.name.split("-")[2])
        return read_batches(path, columns)

    monkeypatch.setattr(curated_table, "read_batches", look)
    rows = [(b"http://x.org/%d" % i, b"a dog") for i in range(201)]
    pace = Pace(200, 0.0, 1.0, first_settle=200)
    setup = Setup([MemorySource("memory:one", rows)], threshold=50, pace=pace, max_small_files=99)
    out = tmp_path / "t"
    setup.run(out)
    assert table_digest(out) == setup.offline_digest()
    # one row more: only what was within a hair's breadth of going can go; 0000 are rows not sorted yet
    assert bool(read - {"0", "0000"}) == (max_bytes == 0)


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


def test_a_log_of_which_the_old_part_was_cleaned_away_is_gone_on_with(tmp_path: Path) -> None:
    """deltalake cleans commits of more than 7 days away when it has made a checkpoint of its own, at each 100th."""
    setup = Setup(small_stream(180), pace=Pace(1, 0.0, 1e9, first_settle=10**9))
    out = tmp_path / "t"
    replace(setup, sources=setup.sources[:1]).run(out)
    assert 99 < DeltaLog(out).version < 200
    age(out / "_delta_log")
    setup.run(out)
    version = DeltaLog(out).version
    assert version > 200
    assert not (out / "_delta_log" / f"{0:020d}.json").exists(), "nothing was cleaned away: this test shows nothing"
    assert table_digest(out) == setup.offline_digest()
    age(out / "_delta_log")
    setup.run(out)
    assert (DeltaLog(out).version, table_digest(out)) == (version, setup.offline_digest())
    assert DeltaTable(str(out)).to_pyarrow_table().num_rows == TableView(out).state.numbers.n_in_table


def age(folder: Path) -> None:
    """Make the files 30 days older."""
    then_s = time.time() - 30 * 86_400
    for path in folder.iterdir():
        os.utime(path, (then_s, then_s))


def test_a_table_that_lost_its_log_is_refused_in_words_and_nothing_is_deleted(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    setup.run(out)
    (out / "_delta_log").rename(tmp_path / "elsewhere")
    before = sorted(out.rglob("*"))
    for _ in range(2):
        with pytest.raises(OutputError, match="has lost its _delta_log"):
            setup.open(out)
        assert sorted(out.rglob("*")) == before
    (tmp_path / "elsewhere").rename(out / "_delta_log")
    setup.run(out)
    assert table_digest(out) == setup.offline_digest()


class Crash(BaseException):
    """Stops a run as a power cut would."""


def crash_at(step: str) -> Callable[[str], None]:
    def listener(heard: str) -> None:
        if heard == step:
            raise Crash(step)

    return listener


ANOTHER_RULE = Setup(
    small_stream(), Metadata.from_entries(["dog", "a"]), threshold=9, seed=1, counter=Counter("count-min", 2, 16)
)


@pytest.mark.parametrize("step", ["create.begin", "create.made", "checkpoint.appended", "checkpoint.files_moved"])
def test_a_first_run_that_committed_nothing_leaves_the_rule_free(tmp_path: Path, step: str) -> None:
    out = tmp_path / "t"
    with pytest.raises(Crash), failpoints.listening(crash_at(step)):
        Setup(small_stream()).run(out)
    ANOTHER_RULE.run(out)
    view = TableView(out)
    assert view.digest() == ANOTHER_RULE.offline_digest()
    assert view.identity.rule == view.rule
    assert (view.rule.threshold, view.rule.counter) == (9, ANOTHER_RULE.counter)
    assert DeltaTable(str(out)).to_pyarrow_table().num_rows == view.settled.n_curated


@pytest.mark.parametrize("n_removed", range(6))
def test_a_crash_while_an_unused_table_is_forgotten_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_removed: int
) -> None:
    out = tmp_path / "t"
    with pytest.raises(Crash), failpoints.listening(crash_at("checkpoint.files_moved")):
        Setup(small_stream()).run(out)
    n_left = n_removed

    def until_power_is_cut(remove: Callable[..., None]) -> Callable[..., None]:
        def removed(*args: object, **options: object) -> None:
            nonlocal n_left
            if not n_left:
                raise Crash
            n_left -= 1
            remove(*args, **options)

        return removed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", until_power_is_cut(Path.unlink))
        patch.setattr(shutil, "rmtree", until_power_is_cut(shutil.rmtree))
        with pytest.raises(Crash):
            ANOTHER_RULE.open(out)
    ANOTHER_RULE.run(out)
    assert table_digest(out) == ANOTHER_RULE.offline_digest()
