"""Whatever moment a run is stopped at, the same run started again ends with the same table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rig import Setup, small_stream, table_digest

from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.errors import OutputError
from stream_curate.offline import OfflinePool, records_of
from stream_curate.table.data_files import read_batches
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import TableFolder
from stream_curate.table.state import state_path
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


def test_the_steps_cover_checkpoint_settle_compaction_and_vacuum(tmp_path: Path) -> None:
    steps = set(steps_of(Setup(small_stream()), tmp_path / "t"))
    assert {
        "create.begin",
        "create.made",
        *(
            f"{kind}.{step}"
            for kind in ("checkpoint", "settle")
            for step in ("begin", "files_closed", "state_written", "files_moved", "committed", "cleaned")
        ),
        "checkpoint.appended",
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
        if not DeltaLog.exists(out) or not (newest := DeltaLog(out).checkpoint):
            continue
        damage(state_path(folder.own, newest))
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
        flip_a_bit(state_path(TableFolder(out).own, DeltaLog(out).checkpoint))

        def stop(step: str, wanted: str = name) -> None:
            if step == wanted:
                raise Crash(step)

        with pytest.raises(Crash), failpoints.listening(stop):
            setup.run(out)
        setup.run(out)
        assert table_digest(out) == setup.offline_digest()


@pytest.mark.parametrize("name", ["seen.u64", "../_rejects.jsonl"])
def test_damage_in_what_the_last_checkpoint_appended_is_found_and_gone_back_from(tmp_path: Path, name: str) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    steps = steps_of(setup, tmp_path / "whole")
    second = [index for index, step in enumerate(steps) if step == "checkpoint.committed"][1]
    run_until(setup, out, second)
    path = TableFolder(out).own / name
    state = TableView(out).state
    mark = state.seen if name == "seen.u64" else state.rejects
    data = bytearray(path.read_bytes())
    data[mark.n_bytes - 1] ^= 1
    path.write_bytes(data)
    assert "restore.committed" in steps_of(setup, out)
    assert table_digest(out) == setup.offline_digest()


def test_two_damaged_states_are_refused_in_words(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    out = tmp_path / "t"
    setup.run(out)
    newest = DeltaLog(out).checkpoint
    for checkpoint in (newest, newest - 1):
        flip_a_bit(state_path(TableFolder(out).own, checkpoint))
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
