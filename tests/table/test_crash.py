"""Whatever moment a run is stopped at, the same run started again ends with the same table."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from rig import MemorySource, Setup, small_stream, table_digest
from structlog.testing import capture_logs

from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.errors import OutputError
from stream_curate.offline import OfflinePool, records_of
from stream_curate.settling import SettlingOutlook
from stream_curate.table.data_files import read_batches, table_schema
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import TableFolder
from stream_curate.table.state import counts_path, state_path
from stream_curate.table.view import TableView


class Crash(BaseException):
    """Stops a run as a power cut would: nothing on its way out handles it."""


def crash_at(index: int) -> Callable[[str], None]:
    """A listener that raises at the step of that index."""
    n_reached = 0

    def listener(step: str) -> None:
        nonlocal n_reached
        n_reached += 1
        if n_reached == index + 1:
            raise Crash(step)

    return listener


def steps_of(setup: Setup, out: Path) -> list[str]:
    """The names of all steps of a run, in order."""
    steps: list[str] = []
    with failpoints.listening(steps.append):
        setup.run(out)
    return steps


def run_until(setup: Setup, out: Path, index: int) -> str:
    """Run until the step of that index; returns its name."""
    with pytest.raises(Crash) as crash, failpoints.listening(crash_at(index)):
        setup.run(out)
    return str(crash.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def newest_state(out: Path) -> Path:
    newest = DeltaLog(out)
    return state_path(TableFolder(out).own, newest.checkpoint, newest.writer)


def test_the_steps_cover_checkpoint_settle_compaction_and_vacuum(tmp_path: Path) -> None:
    steps = set(steps_of(Setup(small_stream()), tmp_path / "t"))
    assert {
        "create.begin",
        "create.made",
        *(
            f"{kind}.{step}"
            for kind in ("checkpoint", "settle")
            for step in (
                "begin",
                "files_closed",
                "counts_saved",
                "state_written",
                "files_moved",
                "committed",
                "cleaned",
            )
        ),
        "checkpoint.appended",
        "settle.appended",
        "settle.counts_written",
        *(f"compact.{step}" for step in ("begin", "files_closed", "files_moved", "committed")),
        "vacuum.before_file",
        "vacuum.after_file",
    } <= steps


@pytest.mark.slow
@pytest.mark.parametrize("counter", [Counter("exact"), Counter("count-min", 2, 16)], ids=["exact", "count-min"])
def test_a_run_stopped_at_any_step_continues_to_the_same_table(tmp_path: Path, counter: Counter) -> None:
    setup = Setup(small_stream(), counter=counter)
    steps = steps_of(setup, tmp_path / "whole")
    numbers = setup.run(tmp_path / "whole")
    assert table_digest(tmp_path / "whole") == setup.offline_digest()
    for index, step in enumerate(steps):
        out = tmp_path / f"stopped-{index}"
        assert run_until(setup, out, index) == step
        again = setup.run(out)
        assert table_digest(out) == setup.offline_digest(), f"stopped at step {index}, {step}"
        again.n_admitted, again.n_evicted = numbers.n_admitted, numbers.n_evicted  # these may differ: settles move
        assert again == numbers, f"stopped at step {index}, {step}"


@pytest.mark.slow
def test_a_run_stopped_twice_continues_to_the_same_table(tmp_path: Path) -> None:
    setup = Setup(small_stream(60))
    n_steps = len(steps_of(setup, tmp_path / "whole"))
    for index in range(0, n_steps, 3):
        out = tmp_path / f"stopped-{index}"
        run_until(setup, out, index)
        steps_left = steps_of_rest(setup, out)
        for second in range(0, steps_left, 5):
            copy = tmp_path / f"stopped-{index}-{second}"
            run_until(setup, copy, index)
            run_until(setup, copy, second)
            setup.run(copy)
            assert table_digest(copy) == setup.offline_digest(), f"stopped at steps {index} and then {second}"


def steps_of_rest(setup: Setup, out: Path) -> int:
    """How many steps a continued run still takes."""
    return len(steps_of(setup, out))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
def test_with_a_damaged_newest_state_the_checkpoint_before_is_gone_back_to(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    setup = Setup(small_stream())
    steps = steps_of(setup, tmp_path / "whole")
    n_restored = 0
    for index in range(len(steps)):
        out = tmp_path / f"stopped-{index}"
        run_until(setup, out, index)
        folder = TableFolder(out)
        if not DeltaLog.exists(out) or not (newest := DeltaLog(out)).checkpoint:
            continue
        damage(state_path(folder.own, newest.checkpoint, newest.writer))
        reached = steps_of(setup, out)
        assert "restore.committed" in reached
        n_restored += 1
        assert table_digest(out) == setup.offline_digest(), f"stopped at step {index}, {steps[index]}"
    assert n_restored > len(steps) // 2


@pytest.mark.slow
def test_a_run_stopped_while_it_goes_back_continues_to_the_same_table(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    n_steps = len(steps_of(setup, tmp_path / "whole"))
    for name in ("restore.begin", "restore.committed"):
        out = tmp_path / name
        run_until(setup, out, n_steps // 2)
        flip_a_bit(newest_state(out))

        def stop(step: str, wanted: str = name) -> None:
            if step == wanted:
                raise Crash(step)

        with pytest.raises(Crash), failpoints.listening(stop):
            setup.run(out)
        setup.run(out)
        assert table_digest(out) == setup.offline_digest()


def test_damage_in_the_seen_pairs_of_the_last_checkpoint_is_found_and_gone_back_from(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    steps = steps_of(setup, tmp_path / "whole")
    second = [index for index, step in enumerate(steps) if step == "checkpoint.committed"][1]
    run_until(setup, out, second)
    path = TableFolder(out).seen_file
    data = bytearray(path.read_bytes())
    data[TableView(out).state.seen.n_bytes - 1] ^= 1
    path.write_bytes(data)
    assert "restore.committed" in steps_of(setup, out)
    assert table_digest(out) == setup.offline_digest()


def change_the_rejects(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"url_scheme", b"url_schema", 1))


@pytest.mark.parametrize("damage", [change_the_rejects, truncate, remove])
def test_a_list_of_rejected_records_that_was_changed_is_begun_anew_with_a_warning(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    replace(setup, sources=setup.sources[:1]).run(out)
    damage(TableFolder(out).rejects_file)
    with capture_logs() as logs:
        steps = steps_of(setup, out)
    assert [line["log_level"] for line in logs if "list of rejected records was changed" in line["event"]] == [
        "warning"
    ]
    assert "restore.begin" not in steps
    assert table_digest(out) == setup.offline_digest()
    listed = [json.loads(line)["source"] for line in TableFolder(out).rejects_file.read_bytes().splitlines()]
    assert set(listed) == {setup.sources[1].uri}
    assert not [line for line in reopened(setup, out) if "rejected" in line["event"]]


def reopened(setup: Setup, out: Path) -> list[Any]:
    """What is logged when the same is run once more."""
    with capture_logs() as logs:
        setup.run(out)
    return list(logs)


def test_one_flipped_bit_in_the_newest_counts_is_gone_back_from(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    setup.run(out)
    state = TableView(out).state
    flip_a_bit(counts_path(TableFolder(out).own, state.checkpoint, state.writer))
    assert "restore.committed" in steps_of(setup, out)
    assert table_digest(out) == setup.offline_digest()
    assert_no_row_twice(out)


def stop_before(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("torn", [lambda data: b"", stop_before, lambda data: bytes(len(data))])
@pytest.mark.parametrize("step", ["checkpoint.committed", "settle.committed", "compact.committed", None])
def test_a_torn_newest_commit_never_happened(tmp_path: Path, torn: Callable[[bytes], bytes], step: str | None) -> None:
    """As a power cut leaves it: the name is there, what it should hold is not."""
    setup = Setup(small_stream(60))
    out = tmp_path / "t"
    if step is None:
        setup.run(out)
    else:
        with pytest.raises(Crash), failpoints.listening(at_second(step, Crash(step))):
            setup.run(out)
    commit = max((out / "_delta_log").glob("*.json"))
    commit.write_bytes(torn(commit.read_bytes()))
    with capture_logs() as logs:
        setup.run(out)
    assert [line["file"] for line in logs if "torn" in line["event"]] == [commit.name]
    assert table_digest(out) == setup.offline_digest()
    assert_no_row_twice(out)


def at_second(step: str, error: BaseException) -> Callable[[str], None]:
    """A listener that raises when it hears of the step for the second time."""
    n_heard = 0

    def listener(heard: str) -> None:
        nonlocal n_heard
        n_heard += heard == step
        if heard == step and n_heard == 2:
            raise error

    return listener


def assert_no_row_twice(out: Path) -> None:
    """Rows are counted, not only distinct pairs; and the table's own number agrees."""
    rows = DeltaTable(str(out)).to_pyarrow_table(columns=["pair_id"]).column("pair_id").to_pylist()
    assert len(rows) == len(set(rows)) == TableView(out).state.numbers.n_in_table


WRITES = [
    *(
        f"{kind}.{step}"
        for kind in ("checkpoint", "settle")
        for step in ("begin", "files_closed", "counts_saved", "state_written", "files_moved", "committed", "cleaned")
    ),
    "checkpoint.appended",
    "settle.counts_written",
    *(f"compact.{step}" for step in ("begin", "files_closed", "files_moved", "committed")),
]


@pytest.mark.parametrize("step", WRITES)
def test_after_a_failed_write_nothing_is_written_until_the_table_is_opened_again(tmp_path: Path, step: str) -> None:
    setup = Setup(small_stream(60))
    out = tmp_path / "t"
    curation = setup.open(out)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match="No space left on device"), failpoints.listening(at_second(step, full)):
        curation.run(setup.sources)
    table = curation.table
    nothing = SettlingOutlook(table.state.rule, 7, np.zeros(1, np.uint64), np.zeros(1, np.int64))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    further: list[Callable[[], None]] = [
        lambda: table.append(pa.RecordBatch.from_pylist([], table_schema(()))),
        lambda: table.reject([]),
        lambda: table.checkpoint(table.state, bytes),
        lambda: table.settle(nothing, np.zeros(1, np.int64), bytes),
    ]
    for call in further:
        with pytest.raises(OutputError, match="an earlier write failed"):
            call()
    with pytest.raises(OutputError, match="an earlier write failed"):
        curation.run([MemorySource("memory:three", [(b"http://y.org/1", b"a dog")])])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    table.close()
    setup.run(out)
    assert table_digest(out) == setup.offline_digest()
    assert_no_row_twice(out)


def test_two_damaged_states_are_refused_in_words(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    setup.run(out)
    newest = DeltaLog(out)
    for checkpoint, writer in ((newest.checkpoint, newest.writer), (newest.checkpoint - 1, newest.writer_before)):
        flip_a_bit(state_path(TableFolder(out).own, checkpoint, writer))
    with pytest.raises(OutputError, match="last two checkpoints are damaged"):
        setup.run(out)


def test_every_settled_version_holds_exactly_the_offline_subset_of_its_cut(tmp_path: Path) -> None:
    setup = Setup(small_stream(300))
    out = tmp_path / "t"
    n_checked = 0

    def check(step: str) -> None:
        nonlocal n_checked
        if step == "settle.committed":
            view = TableView(out)
            assert view.digest() == setup.offline_digest(view.settled.cut)
            assert view.n_pending == 0
            n_checked += 1

    with failpoints.listening(check):
        setup.run(out)
    assert n_checked >= 5


def test_between_settles_nothing_that_offline_keeps_is_missing(tmp_path: Path) -> None:
    setup = Setup(small_stream(300))
    out = tmp_path / "t"

    def check(step: str) -> None:
        if step == "checkpoint.committed":
            view = TableView(out)
            rows = [
                pair_id
                for file in DeltaLog(out).files()
                for batch in read_batches(out / file.name, ["pair_id"])
                for pair_id in batch.column("pair_id").to_pylist()
            ]
            cut = {source.uri: source.n_rows for source in view.state.sources}
            assert kept_offline(setup, cut) <= set(rows)
            assert len(rows) == len(set(rows)) == view.state.numbers.n_in_table

    with failpoints.listening(check):
        setup.run(out)


def kept_offline(setup: Setup, cut: dict[str, int]) -> set[bytes]:
    pool = OfflinePool.read(records_of(setup.sources, cut), setup.metadata, setup.dedup)
    return {pool.pair_ids[i] for i in pool.kept(pool.entry_counts(setup.counter), setup.threshold, setup.seed)}
