"""A curated table as a reader sees it, also while a writer is at work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rig import ENTRIES, MemorySource, Setup, small_stream, table_digest

from stream_curate import failpoints
from stream_curate.checked_file import read_checked, write_checked
from stream_curate.counting import Counter
from stream_curate.curate import Pace
from stream_curate.errors import ConfigError, OutputError, StreamCurateError
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, records_of
from stream_curate.stop import StopRequest
from stream_curate.table import view as view_module
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import TableFolder
from stream_curate.table.state import settled_counts_path, state_path
from stream_curate.table.view import TableView

SETUP = Setup(small_stream(200), threshold=6)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    SETUP.run(tmp_path / "t")
    return tmp_path / "t"


@pytest.fixture(scope="module")
def pool() -> OfflinePool:
    return OfflinePool.read(records_of(SETUP.sources), SETUP.metadata)


def stop_after(setup: Setup, out: Path, n_batches: int) -> None:
    curation = setup.open(out)
    stop = StopRequest()
    n_left = n_batches

    def count(source: object, numbers: object) -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left:
            stop.request()

    curation.run(setup.sources, stop=stop, on_batch=count)
    curation.table.close()


def test_a_folder_without_a_table_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no curated table: make one with `stream-curate curate`"):
        TableView(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no curated table"):
        TableView(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no curated table"):
        TableView(tmp_path / "empty")


class Crash(BaseException):
    """Stops a run as a power cut would."""


def crash_at(step: str) -> Callable[[str], None]:
    def listener(reached: str) -> None:
        if reached == step:
            raise Crash

    return listener


@pytest.mark.parametrize("step", ["create.begin", "create.made", "checkpoint.begin", "checkpoint.files_moved"])
def test_a_table_without_a_commit_says_so(tmp_path: Path, step: str) -> None:
    with pytest.raises(Crash), failpoints.listening(crash_at(step)):
        SETUP.run(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"holds no curated table|nothing has been committed"):
        TableView(tmp_path / "t")


def test_what_was_not_settled_yet_is_told_in_words_and_its_numbers_are_there(tmp_path: Path) -> None:
    setup = replace(SETUP, pace=Pace(20, 0.0, 1.5, first_settle=10**9))
    stop_after(setup, tmp_path / "t", 3)
    view = TableView(tmp_path / "t")
    assert view.state.numbers.n_read == 60
    assert view.n_pending == view.state.numbers.n_in_table > 0
    with pytest.raises(ConfigError, match="has not been settled yet: run the same `stream-curate curate`"):
        view.digest()


def test_after_a_stop_the_settled_version_is_what_it_was_and_the_rest_is_pending(tmp_path: Path) -> None:
    out = tmp_path / "t"
    replace(SETUP, sources=SETUP.sources[:1]).run(out)
    digest = table_digest(out)
    stop_after(replace(SETUP, pace=Pace(20, 0.0, 1e9)), out, 2)
    view = TableView(out)
    assert view.digest() == digest
    assert (view.settled.n_read, view.state.numbers.n_read) == (100, 140)
    assert view.state.numbers.n_evicted > 0
    assert view.n_pending == sum(file.n_rows for file in DeltaLog(out).files()) - view.settled.n_curated > 0


def test_counts_are_those_of_the_settled_cut(tmp_path: Path) -> None:
    out = tmp_path / "t"
    first = replace(SETUP, sources=SETUP.sources[:1])
    first.run(out)
    stop_after(replace(SETUP, pace=Pace(20, 0.0, 1e9)), out, 2)
    pool = OfflinePool.read(records_of(first.sources), SETUP.metadata)
    entry_counts = pool.entry_counts(SETUP.counter)
    view = TableView(out)
    expected = [entry_counts.get(row, 0) for row in range(len(SETUP.metadata))]
    assert view.settled_entry_counts.tolist() == expected
    assert view.counts.total > sum(expected)  # the counter itself has gone on
    kept = pool.kept(entry_counts, SETUP.threshold, SETUP.seed)
    curated = np.bincount([e for i in kept for e in pool.matched(i)], minlength=len(SETUP.metadata))
    assert view.curated_entry_counts.tolist() == curated.tolist()


@pytest.mark.parametrize("counter", [Counter("exact"), Counter("count-min", 2, 16)], ids=["exact", "count-min"])
def test_sizes_at_lower_thresholds_are_those_of_offline(tmp_path: Path, pool: OfflinePool, counter: Counter) -> None:
    replace(SETUP, counter=counter).run(tmp_path / "t")
    thresholds = [6, 5, 4, 3, 2, 1]
    sizes = TableView(tmp_path / "t").sizes_at(thresholds, SETUP.seed)
    counts = pool.entry_counts(counter)
    assert sizes == {t: len({pool.pair_ids[index] for index in pool.kept(counts, t, SETUP.seed)}) for t in thresholds}
    assert len(set(sizes.values())) > 2


@pytest.mark.parametrize("threshold", [7, 0, -1])
def test_sizes_that_the_table_cannot_know_are_refused(out: Path, threshold: int) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to its own 6, not for {threshold}"):
        TableView(out).sizes_at([5, threshold], SETUP.seed)


def test_another_seed_is_refused_by_fingerprints(out: Path) -> None:
    view = TableView(out)
    view.check_seed(SETUP.seed)
    with pytest.raises(ConfigError, match=view.rule.seed_fingerprint):
        view.check_seed(8)
    with pytest.raises(ConfigError, match="fingerprint"):
        view.sizes_at([5], 8)


def files_of(out: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(out.rglob("*"))}


def test_a_reader_writes_nothing_and_takes_no_lock(out: Path) -> None:
    writer = SETUP.open(out)
    try:
        before = files_of(out)
        view = TableView(out)
        view.digest()
        view.sizes_at([3], SETUP.seed)
        assert view.curated_entry_counts.sum() > 0
        assert files_of(out) == before
    finally:
        writer.table.close()


def test_a_view_stays_readable_until_the_writer_has_settled_again(tmp_path: Path) -> None:
    """Opened at any commit, it still reads the same table after the next checkpoint."""
    out = tmp_path / "t"
    views: list[tuple[TableView, str, int]] = []
    n_read_again = 0

    def look(step: str) -> None:
        nonlocal n_read_again
        if not step.endswith(".cleaned"):
            return
        if views and views[-1][0].state.settled is not None:
            view, digest, checkpoint = views.pop()
            assert DeltaLog(out).checkpoint > checkpoint
            assert view.digest() == digest
            n_read_again += 1
        view = TableView(out)
        if view.state.settled is not None:
            views.append((view, view.digest(), view.state.checkpoint))

    with failpoints.listening(look):
        replace(SETUP, pace=Pace(10, 0.0, 3.0, first_settle=20)).run(out)
    assert n_read_again > 10


def test_a_state_replaced_while_it_is_read_is_read_anew(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer committed between the look into the log and the look at the state."""
    newest, writer = DeltaLog(out).checkpoint, DeltaLog(out).writer
    answers = iter([newest - 2, newest - 2, newest])

    class StaleLog:
        exists = staticmethod(DeltaLog.exists)

        def __init__(self, folder: Path) -> None:
            self.checkpoint = next(answers)
            self.writer = writer

    monkeypatch.setattr(view_module, "DeltaLog", StaleLog)
    assert TableView(out).state.checkpoint == newest


def test_a_damaged_state_is_told_with_what_to_do(out: Path) -> None:
    path = state_path(TableFolder(out).own, DeltaLog(out).checkpoint, DeltaLog(out).writer)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OutputError, match="Run the same `stream-curate curate` again: it goes back one checkpoint"):
        TableView(out)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_counts_of_the_settled_version_are_told(out: Path, damage: str) -> None:
    view = TableView(out)
    path = settled_counts_path(view.folder.own, view.settled.checkpoint, view.settled.writer)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OutputError, match="the counts of the settled version cannot be read"):
        _ = view.settled_entry_counts
    assert len(view.digest()) == 64, "the digest needs no counts"


def test_a_settled_file_that_is_gone_is_told(out: Path) -> None:
    view = TableView(out)
    (out / view.settled.files[0]).unlink()
    with pytest.raises(OutputError, match="is gone"):
        view.digest()


def test_a_damaged_data_file_is_told_in_words(out: Path) -> None:
    view = TableView(out)
    path = out / view.settled.files[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StreamCurateError, match=path.name):
        view.digest()


def test_a_damaged_list_of_entries_is_told_in_words(out: Path) -> None:
    view = TableView(out)
    view.folder.metadata_file.write_bytes(view.folder.metadata_file.read_bytes()[:-9])
    with pytest.raises(StreamCurateError, match=r"metadata\.txt\.zst"):
        _ = view.metadata


def test_another_list_of_entries_than_the_tables_is_noticed(out: Path) -> None:
    """Somebody replaced the copy: entry ids would mean other entries."""
    view = TableView(out)
    Metadata.from_entries(ENTRIES[::-1]).save(view.folder.metadata_file)
    with pytest.raises(StreamCurateError):
        _ = TableView(out).metadata


def test_a_state_of_another_format_version_is_refused_naming_both(out: Path) -> None:
    path = state_path(TableFolder(out).own, DeltaLog(out).checkpoint, DeltaLog(out).writer)
    header, payload = read_checked(path)
    write_checked(path, header | {"format_version": 99}, payload)
    with pytest.raises(OutputError, match=r"version 99.*version 1"):
        TableView(out)


def test_a_copy_of_the_folder_elsewhere_is_the_same_table(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    assert table_digest(tmp_path / "copy") == table_digest(out)
    os.rename(tmp_path / "copy", tmp_path / "moved")
    more = [*SETUP.sources, MemorySource("memory:three", [(b"http://new.org/", b"a zebra")])]
    replace(SETUP, sources=more).run(tmp_path / "moved")
    assert table_digest(tmp_path / "moved") == replace(SETUP, sources=more).offline_digest()
