"""Whole runs with final decisions: the pairs of plain Python, whatever way a run is cut, stopped or damaged."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import SHARDS, inspect_json, newest_version, outcome_of, run, start, wait_until
from deltalake import DeltaTable
from final_reference import accepted_of
from rig import Setup, small_stream

from stream_curate import failpoints
from stream_curate.curate import Ending, Pace
from stream_curate.digest import digest as digest_of
from stream_curate.final_curator import FinalCurator
from stream_curate.final_rule import FinalDecisions, Horizon
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, records_of
from stream_curate.pairs import validate
from stream_curate.rule import Dedup
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.stop import StopRequest
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import TableFolder
from stream_curate.table.state import counts_path, state_path
from stream_curate.table.view import TableView

FINAL = FinalDecisions(60, "known")


class Crash(BaseException):
    """Stops a run as a power cut would: nothing on its way out handles it."""


def final_setup(n_rows: int = 100, **other: object) -> Setup:
    return replace(Setup(small_stream(n_rows), final=FINAL, threshold=2), **other)  # type: ignore[arg-type]


def expected_of(setup: Setup, up_to: dict[str, int] | None = None) -> list[bytes]:
    assert setup.final is not None
    pool = OfflinePool.read(records_of(setup.sources, up_to), setup.metadata, setup.dedup)
    return accepted_of(pool, setup.threshold, setup.seed, setup.final)


def rows_of(out: Path) -> list[bytes]:
    """The pair_ids of the table, in the order in which the stream had them."""
    batches = list(TableView(out).read_settled(["pair_id", "source", "source_row"]))
    rows = pa.Table.from_batches(batches).to_pylist() if batches else []
    return [row["pair_id"] for row in sorted(rows, key=lambda row: (row["source"], row["source_row"]))]


@pytest.mark.parametrize("dedup", ["exact", "none"])
@pytest.mark.parametrize(
    "pace",
    [Pace(1, 3_600), Pace(7, 0.0), Pace(20, 0.0), Pace(1_000, 0.0), Pace(7, 0.0, threads=3)],
    ids=["one-by-one", "by-7", "by-20", "at-once", "threads"],
)
def test_the_pace_changes_nothing(tmp_path: Path, pace: Pace, dedup: Dedup) -> None:
    setup = final_setup(pace=pace, dedup=dedup)
    numbers = setup.run(tmp_path / "t")
    expected = expected_of(setup)
    assert sorted(rows_of(tmp_path / "t")) == sorted(expected)
    assert (numbers.n_admitted, numbers.n_evicted) == (len(expected), 0)
    assert 0 < len(expected) < numbers.n_matched


@pytest.mark.parametrize(
    ("horizon", "n_accepted", "digest"),
    [
        ("known", 22_913, "afe64a34f09628c8757b4fc49768e6bfbd8746a5d861d847f2ba0248a6f49846"),
        ("endless", 22_921, "96aacab657d49c0bf79008aa6d80cd100bb39f9931c9aa55b9582accc519c2e5"),
    ],
)
def test_the_shards_give_the_golden_set(
    golden_metadata: Metadata, horizon: Horizon, n_accepted: int, digest: str
) -> None:
    """The same on every machine: a change here is a change of the rule, which needs another version of it."""
    curator = FinalCurator(golden_metadata, FinalDecisions(25_832, horizon), threshold=20, seed=7)
    accepted = []
    for records in records_of(open_sources([str(SHARDS)], ColumnChoice(headerless=("caption", "url")))):
        accepted.append(curator.observe(validate(records)[0]).column("pair_id"))
    assert curator.tally.n_admitted == n_accepted
    assert digest_of(accepted) == digest


def test_every_checkpoint_is_final_for_what_it_holds(tmp_path: Path) -> None:
    """Nothing is settled; what was accepted stays, and each checkpoint holds all that is accepted below its cut."""
    setup, out = final_setup(), tmp_path / "t"
    steps: list[str] = []
    held: list[list[bytes]] = []

    def look(step: str) -> None:
        steps.append(step)
        if step == "checkpoint.cleaned":
            view = TableView(out)
            held.append(rows_of(out))
            assert sorted(held[-1]) == sorted(expected_of(setup, view.settled.cut))
            assert (view.n_pending, view.settled.checkpoint) == (0, view.state.checkpoint)
            assert view.settled.n_curated == len(held[-1]) == view.state.numbers.n_admitted

    with failpoints.listening(look):
        setup.run(out)
    assert len(held) >= 5
    assert all(set(before) <= set(after) for before, after in pairwise(held))
    assert not any(step.startswith("settle.") for step in steps)
    assert any(step.startswith("compact.") for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_a_run_stopped_at_any_step_accepts_the_same_pairs(tmp_path: Path, dedup: Dedup) -> None:
    setup = final_setup(max_small_files=2, dedup=dedup)
    steps: list[str] = []
    with failpoints.listening(steps.append):
        setup.run(tmp_path / "whole")
    expected = rows_of(tmp_path / "whole")
    assert sorted(expected) == sorted(expected_of(setup))
    assert {"checkpoint.begin", "checkpoint.counts_saved", "checkpoint.committed", "compact.committed"} <= set(steps)
    for index, step in list(enumerate(steps))[dedup == "none" :: 2]:  # each at every other one
        out = tmp_path / f"stopped-{index}"
        stop_at(setup, out, index)
        setup.run(out)
        assert rows_of(out) == expected, f"stopped at step {index}, {step}"


def stop_at(setup: Setup, out: Path, index: int) -> None:
    n_reached = 0

    def listener(step: str) -> None:
        nonlocal n_reached
        n_reached += 1
        if n_reached == index + 1:
            raise Crash(step)

    with pytest.raises(Crash), failpoints.listening(listener):
        setup.run(out)


@pytest.mark.parametrize("path_of", [state_path, counts_path])
def test_after_damage_the_range_before_is_decided_again_and_the_same(
    tmp_path: Path, path_of: Callable[[Path, int, int], Path]
) -> None:
    setup, out = final_setup(), tmp_path / "t"
    steps: list[str] = []
    with failpoints.listening(steps.append):
        setup.run(tmp_path / "whole")
    commits = [index for index, step in enumerate(steps) if step == "checkpoint.cleaned"]
    stop_at(setup, out, commits[3])
    newest = DeltaLog(out)
    path = path_of(TableFolder(out).own, newest.checkpoint, newest.writer)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    setup.run(out)
    assert rows_of(out) == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_more_sources_go_on_where_the_stream_stood(tmp_path: Path, dedup: Dedup) -> None:
    """Without dedup, too, what was accepted stands in the table once."""
    setup, out = final_setup(200, dedup=dedup), tmp_path / "t"
    replace(setup, sources=setup.sources[:1]).run(out)
    first = rows_of(out)
    setup.run(out)
    assert sorted(rows_of(out)) == sorted(expected_of(setup))
    assert set(first) < set(rows_of(out))


def test_a_stopped_run_saves_what_it_has_decided(tmp_path: Path) -> None:
    setup, out = final_setup(pace=Pace(10, 3_600)), tmp_path / "t"
    curation = setup.open(out)
    stop = StopRequest()
    ending = curation.run(setup.sources, stop=stop, on_batch=lambda source, numbers: stop.request())
    curation.table.close()
    assert ending is Ending.INTERRUPTED
    assert sorted(rows_of(out)) == sorted(expected_of(setup, TableView(out).settled.cut))
    setup.run(out)
    assert sorted(rows_of(out)) == sorted(expected_of(setup))


def test_the_delta_table_says_of_itself_which_kind_it_is(tmp_path: Path) -> None:
    final_setup().run(tmp_path / "final")
    Setup(small_stream()).run(tmp_path / "provisional")

    properties = DeltaTable(str(tmp_path / "final")).metadata().configuration
    assert {key: value for key, value in properties.items() if key.startswith("stream_curate.")} == {
        "stream_curate.decisions": "final",
        "stream_curate.pool_size": "60",
        "stream_curate.horizon": "known",
    }
    assert list(DeltaTable(str(tmp_path / "provisional")).metadata().configuration) == ["delta.logRetentionDuration"]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_accepts_the_same_pairs(tmp_path: Path, golden_metadata: Metadata) -> None:
    """`kill -9`, each time after something new was committed; and what was accepted by then is still there at the end.

    The second file is a copy of the first, so that a pair forgotten at a kill would be decided on again.
    """
    rng = np.random.default_rng(7)
    out, first = tmp_path / "t", SHARDS / "gcc-validation.jsonl"
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(first.read_bytes())
    sources = [first, copy, SHARDS / "laion-10k.parquet"]
    entries = tmp_path / "entries.txt"
    entries.write_text("".join(f"{entry}\n" for entry in golden_metadata.entries), encoding="utf-8")
    rule = ["--metadata", entries, "-t", 20, "--seed", 7, "--decisions", "final", "--pool-size", 15_833]
    pace = ["--batch-size", 100, "--checkpoint-interval", 0]
    arguments = ["curate", *sources, "--out", out, *rule, *pace]
    accepted: set[bytes] = set()
    n_killed = 0
    for _ in range(4):
        process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = newest_version(out) + int(rng.integers(1, 9)) + (newest_version(out) < 0)
        wait_until(lambda wanted=wanted: newest_version(out) >= wanted, process)  # type: ignore[misc]
        time.sleep(float(rng.uniform(0, 0.03)))
        process.send_signal(signal.SIGKILL)
        n_killed += outcome_of(process).code == -signal.SIGKILL
        held = set(rows_of(out))
        assert accepted <= held
        accepted = held
    run(*arguments).ended(0)
    pool = OfflinePool.read(
        records_of(open_sources([str(source) for source in sources], ColumnChoice())), golden_metadata
    )
    expected = accepted_of(pool, 20, 7, FinalDecisions(15_833, "endless"))
    assert n_killed == 4
    assert accepted <= set(rows_of(out)) == set(expected)
    assert inspect_json(out)["n_admitted"] == len(expected) < pool.n_matched
