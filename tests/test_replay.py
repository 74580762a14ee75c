"""Replay: it finds what is equal equal and what is not not, in every variation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import ENTRIES, MemorySource, small_stream
from strategies import COUNTERS, DEDUPS, EXACT, METADATA, SEEDS, TINY, Row, rows

from stream_curate import replay as replay_module
from stream_curate.counting import Counter
from stream_curate.curator import Curator
from stream_curate.errors import ConfigError, StreamCurateError, UsageError
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, records_of
from stream_curate.pairs import validate
from stream_curate.replay import Agreement, ReplayReport, Variation, replay
from stream_curate.rule import Dedup
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.table.curated_table import CuratedTable

SHARDS = Path(__file__).parent / "shards"
METADATA_OF_ENTRIES = Metadata.from_entries(ENTRIES)
ONE_VALID: Row = (b"http://x.org/valid", b"a dog")
IDENTICAL = Agreement(1.0, 0.0, 0.0)


def small_replay(**options: Any) -> ReplayReport:
    """100 records, 77 of them distinct pairs, in all variations."""
    defaults = {"threshold": 3, "seed": 7, "batch_sizes": (10, 1, 1000), "counters": (EXACT, TINY)}
    return replay(small_stream(), METADATA_OF_ENTRIES, **(defaults | options))


# What must be equal


@pytest.mark.slow
@given(rows(), METADATA, SEEDS, COUNTERS, DEDUPS, st.integers(1, 12), st.integers(1, 70))
def test_made_streams_are_equal_to_offline_in_every_order(
    stream: list[Row],
    metadata: Metadata,
    seed: int,
    counter: Counter,
    dedup: Dedup,
    threshold: int,
    batch_size: int,
) -> None:
    report = replay(
        [MemorySource("memory:", [*stream, ONE_VALID])],
        metadata,
        threshold=threshold,
        seed=seed,
        dedup=dedup,
        counters=(counter,),
        batch_sizes=(batch_size,),
        n_interruptions=0,
    )
    assert report.is_equal
    for run in report.runs:
        assert all(point.settled == IDENTICAL for point in run.points)
        assert run.points[-1].whole == IDENTICAL
        assert all(point.n_provisional >= point.n_curated == point.n_offline for point in run.points)


@settings(max_examples=10)
@given(rows(), METADATA, COUNTERS, DEDUPS, st.integers(1, 5), st.integers(1, 70), st.integers(1, 6))
def test_made_streams_are_equal_to_offline_when_interrupted(
    stream: list[Row],
    metadata: Metadata,
    counter: Counter,
    dedup: Dedup,
    threshold: int,
    batch_size: int,
    n_interruptions: int,
) -> None:
    report = replay(
        [MemorySource("memory:", [*stream, ONE_VALID])],
        metadata,
        threshold=threshold,
        seed=7,
        dedup=dedup,
        prefixes=(0.4, 1.0),
        orders=("given",),
        counters=(counter,),
        batch_sizes=(batch_size,),
        n_interruptions=n_interruptions,
    )
    assert [run.variation.n_interruptions for run in report.runs] == [0, n_interruptions]
    assert report.is_equal
    assert report.runs[0].points[-1].digest == report.runs[1].points[-1].digest


@pytest.mark.slow
def test_the_shards_give_the_golden_set_in_every_variation(golden_metadata: Metadata) -> None:
    golden = "f12dfa9b0679fedc1cf5c7d593dadbc7d9ce8c41e4cadd409d2b451afcf5a413"
    sketched = "b4ab0fa6a6a929e7f78df4e5f801f6351e9fecc380e49e509b8208070603bc9a"
    sources = [
        *open_sources([str(SHARDS / "laion-10k.parquet"), str(SHARDS / "gcc-validation.jsonl")], ColumnChoice()),
        *open_sources([str(SHARDS / "gcc-validation.tsv")], ColumnChoice(headerless=("caption", "url"))),
    ]
    report = replay(
        sources,
        golden_metadata,
        threshold=20,
        seed=7,
        prefixes=(0.3, 1.0),
        orders=("given", "by-url", "shuffled-1"),
        batch_sizes=(1_000, 65_536),
        counters=(EXACT, Counter("count-min", 4, 1024)),
    )
    assert report.is_equal
    assert (report.n_records, report.n_pairs, report.n_unique, report.n_matched) == (25_833, 25_832, 25_832, 25_229)
    for run in report.runs:
        assert run.points[-1].digest == (golden if run.variation.counter == EXACT else sketched)
    distances = {run.variation.counter.kind: run.points[-1].exact.total_variation for run in report.runs}
    assert distances["exact"] == 0 < distances["count-min"]
    assert [run.points[-1].tail_coverage for run in report.runs if run.variation.counter == EXACT] == [1] * 5
    assert 0 < max(agreement.total_variation for agreement in report.noise) < distances["count-min"]


# What is not equal


def test_a_stream_that_is_not_settled_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Curator, "settle", lambda self, admitted: list(admitted))
    report = small_replay(n_interruptions=0, orders=("given",), batch_sizes=(10,), counters=(EXACT,))

    last = report.runs[0].points[-1]
    assert not report.is_equal
    assert not last.is_equal
    assert last.n_curated == last.n_provisional > last.n_offline
    assert last.over_admission == last.n_provisional / last.n_offline
    assert last.settled == last.provisional
    assert last.settled.jaccard == last.n_offline / last.n_provisional
    assert last.settled.total_variation > 0
    assert last.settled.kl_divergence > 0


def test_a_pair_that_is_lost_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Curator.settle
    monkeypatch.setattr(Curator, "settle", lambda self, admitted: [b.slice(1) for b in settle(self, admitted)])
    report = small_replay(n_interruptions=0)

    assert not any(run.is_equal for run in report.runs)


# The variations


def test_one_thing_changes_at_a_time_and_at_last_all() -> None:
    report = small_replay(orders=("given", "reversed"), n_interruptions=2)

    assert [run.variation for run in report.runs] == [
        Variation("given", 10, EXACT),
        Variation("given", 1, EXACT),
        Variation("given", 1000, EXACT),
        Variation("given", 10, TINY),
        Variation("given", 10, EXACT, n_interruptions=2),
        Variation("reversed", 10, EXACT),
        Variation("reversed", 1000, TINY, n_interruptions=2),
    ]
    assert report.is_equal


def test_a_single_variation_runs_once() -> None:
    report = small_replay(orders=("given",), batch_sizes=(10,), counters=(EXACT,), n_interruptions=0)
    assert [run.variation for run in report.runs] == [Variation("given", 10, EXACT)]


def test_an_interrupted_run_opens_its_table_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_table(root: Path, *arguments: Any) -> CuratedTable:
        opened.append(root)
        return open_before(root, *arguments)

    open_before = CuratedTable.open
    monkeypatch.setattr(CuratedTable, "open", open_table)
    report = small_replay(
        orders=("given",), batch_sizes=(3,), counters=(EXACT,), prefixes=(0.5, 1.0), n_interruptions=4
    )

    assert report.is_equal
    assert len(opened) == 4 + 2, "once after each interruption, and once for each prefix"
    assert not any(root.exists() for root in opened), "nothing is left on disk"


@pytest.mark.parametrize("order", ["given", "reversed", "by-text", "by-url", "shuffled-1", "shuffled-2"])
@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_an_order_brings_every_pair_once_and_as_it_says(
    monkeypatch: pytest.MonkeyPatch, order: str, dedup: Dedup
) -> None:
    observed: list[pa.RecordBatch] = []

    class Watched(Curator):
        def observe(self, pairs: pa.RecordBatch) -> pa.RecordBatch:
            observed.append(pairs)
            return super().observe(pairs)

    monkeypatch.setattr(replay_module, "Curator", Watched)
    small_replay(orders=(order,), batch_sizes=(7,), counters=(EXACT,), n_interruptions=0, dedup=dedup)

    pairs = [validate(records)[0].select(["url", "text"]) for records in records_of(small_stream())]
    given_rows = pa.Table.from_batches(pairs).to_pylist()
    replayed = pa.Table.from_batches([batch.select(["url", "text"]) for batch in observed]).to_pylist()
    assert sorted(map(str, replayed)) == sorted(map(str, given_rows))
    if order == "given":
        assert replayed == given_rows
    elif order == "reversed":
        assert replayed == given_rows[::-1]
    elif order.startswith("by-"):
        column = order.removeprefix("by-")
        assert [row[column] for row in replayed] == sorted(row[column] for row in replayed)
    else:
        assert replayed not in (given_rows, given_rows[::-1])


def test_two_shuffles_differ_and_each_is_the_same_again() -> None:
    once, again = (small_replay(orders=("shuffled-1", "shuffled-2"), n_interruptions=0) for _ in range(2))
    assert once == again
    first, second = (run for run in once.runs if run.variation.batch_size == 10 and run.variation.counter == EXACT)
    assert [point.digest for point in first.points[:-1]] != [point.digest for point in second.points[:-1]]
    assert first.points[-1].digest == second.points[-1].digest


# The report


def test_the_numbers_of_a_report() -> None:
    report = small_replay(prefixes=(1.0, 0.25), n_noise_seeds=4)
    pool = OfflinePool.read(records_of(small_stream()), METADATA_OF_ENTRIES)
    kept = pool.kept(pool.entry_counts(EXACT), 3, 7)

    assert report.n_records == 100 == report.n_pairs + sum(pool.n_rejected.values())
    assert (report.n_unique, report.n_matched) == (len(pool), pool.n_matched)
    assert report.n_entries == len(ENTRIES)
    assert report.n_head == sum(count > 3 for count in pool.entry_counts(EXACT).values())
    assert report.n_head + report.n_tail == len(pool.entry_counts(EXACT))
    assert report.sources == ["memory:one", "memory:two"]
    assert len(report.noise) == math.comb(4, 2)
    for run in report.runs:
        assert [point.n_read for point in run.points] == [round(0.25 * report.n_pairs), report.n_pairs]
    last = report.runs[0].points[-1]
    assert (last.n_unique, last.n_offline) == (len(pool), len(kept))
    assert last.digest == digest(pool.pair_ids[index] for index in kept)


def test_every_run_is_announced() -> None:
    heard: list[tuple[int, int, Variation]] = []
    report = small_replay(n_interruptions=0, on_run=lambda *run: heard.append(run))
    assert heard == [(number, len(report.runs), run.variation) for number, run in enumerate(report.runs, 1)]


def test_a_report_is_json_without_the_seed_or_an_infinity() -> None:
    # one entry that every pair matches, so that at a threshold of 1 a prefix can have nothing left after it is settled
    stream = [(b"http://x.org/%d" % i, b"a dog") for i in range(300)]
    report = replay(
        [MemorySource("memory:", stream)],
        Metadata.from_entries(["dog"]),
        threshold=1,
        seed=123_456_789_123,
        orders=("given",),
        batch_sizes=(1,),
        counters=(EXACT,),
        prefixes=tuple(i / 100 for i in range(1, 101)),
        n_interruptions=0,
    )
    points = [point for run in report.runs for point in run.points]
    assert any(math.isinf(point.over_admission) for point in points)
    assert any(math.isinf(point.provisional.kl_divergence) for point in points)

    written = json.dumps(report.as_dict(), allow_nan=False)
    assert "123456789123" not in written
    values = json.loads(written)
    assert values["rule"]["seed_fingerprint"] == report.rule.seed_fingerprint
    assert values["is_equal"] is True
    assert values["runs"][0]["variation"] == {
        "order": "given",
        "batch_size": 1,
        "counter": {"kind": "exact"},
        "n_interruptions": 0,
    }


# What is refused


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"prefixes": ()}, UsageError, "above 0 and at most 1"),
        ({"prefixes": (0.0, 1.0)}, UsageError, "above 0 and at most 1"),
        ({"prefixes": (1.5,)}, UsageError, "above 0 and at most 1"),
        ({"prefixes": (math.nan,)}, UsageError, "above 0 and at most 1"),
        ({"orders": ("sideways",)}, UsageError, "there is no order 'sideways'"),
        ({"orders": ()}, UsageError, "at least one order"),
        ({"batch_sizes": (10, 0)}, UsageError, "at least 1 pair, not 0"),
        ({"counters": ()}, UsageError, "at least one order"),
        ({"threshold": 0}, ConfigError, "threshold is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_run(
    options: dict[str, Any], kind: type[StreamCurateError], words: str
) -> None:
    heard: list[Variation] = []
    with pytest.raises(kind, match=words):
        small_replay(on_run=lambda number, n_runs, variation: heard.append(variation), **options)
    assert not heard


def test_sources_without_a_valid_pair_are_refused() -> None:
    for stream in ([], [(b"ftp://x.org/1", b"a dog")]):
        with pytest.raises(UsageError, match="no valid pair"):
            replay([MemorySource("memory:", stream)], METADATA_OF_ENTRIES, threshold=3, seed=7)
    with pytest.raises(UsageError, match="no valid pair"):
        replay([], METADATA_OF_ENTRIES, threshold=3, seed=7)


def test_more_than_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="give fewer shards"):
        small_replay()
