"""What workers and the settler tell in numbers, as Prometheus reads it: deploy/metrics.md explains each.

Every process, and every test, has a registry of its own. Nothing here is called for a single record: a commit, a poll,
a settle at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from stream_curate import __version__
from stream_curate.pairs import VALIDATOR_VERSION
from stream_curate.reasons import DROPPED, REJECTED
from stream_curate.table.state import Numbers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WORKER_STAGES = ("group", "restore", "read", "decide", "wait", "write")
SETTLER_STAGES = ("read", "fold", "commit", "settle", "publish")

_COMMIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SETTLE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)

Role = Literal["worker", "settler"]


class _Registry(CollectorRegistry):
    """Without the times at which counters were made, which prometheus-client adds as metrics of their own."""

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class Stages:
    """Adds up the seconds of one thread in each stage of its work; those of an inner stage are not the outer one's.

    >>> spent = dict.fromkeys(("read", "decide"), 0.0)
    >>> def add(name: str, seconds: float) -> None:
    ...     spent[name] += seconds
    >>> times = iter([0.0, 1.0, 5.0, 6.0])
    >>> stage = Stages(add, lambda: next(times))
    >>> with stage("read"):
    ...     with stage("decide"):
    ...         pass
    >>> spent
    {'read': 2.0, 'decide': 4.0}
    """

    def __init__(self, add: Callable[[str, float], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._add = add
        self._clock = clock
        self._open: list[str] = []
        self._since_s = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of the `with` body for the stage `name`."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now_s = self._clock()
        if self._open:
            self._add(self._open[-1], now_s - self._since_s)
        self._since_s = now_s


class _Metrics:
    """Those that both roles have.

    Attributes:
        registry: of this process alone.
        stage: around each stage of the main thread's work.
    """

    def __init__(self, role: Role, stages: tuple[str, ...]) -> None:
        self.registry: CollectorRegistry = _Registry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        info = self._gauge("build_info", "Always 1: which program this is", "version", "role", "validator_version")
        info.labels(__version__, role, str(VALIDATOR_VERSION)).set(1)
        seconds = self._counter("stage_seconds_total", "Seconds spent in each stage of the work", "stage")
        self._stage_seconds = {name: seconds.labels(name) for name in stages}
        self.stage = Stages(self.add_stage_seconds)
        commits = self._counter(
            "commits_total", "Transactions of a worker, commits of the settler to the table", "result"
        )
        self._committed, self._failed = commits.labels("committed"), commits.labels("failed")
        self._commit_seconds = Histogram(
            "stream_curate_commit_seconds",
            "How long the successful commits took",
            buckets=_COMMIT_BUCKETS_S,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of them, in the format 0.0.4 of Prometheus."""
        return generate_latest(self.registry)

    def add_stage_seconds(self, stage: str, seconds: float) -> None:
        """Count time for a stage, also of another thread."""
        self._stage_seconds[stage].inc(seconds)

    def commit_failed(self) -> None:
        """A commit did not go well, and will be done again."""
        self._failed.inc()

    def _add_commit(self, seconds: float) -> None:
        self._committed.inc()
        self._commit_seconds.observe(seconds)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"stream_curate_{name}", words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"stream_curate_{name}", words, labels, registry=self.registry)


class _OfPartitions:
    """A gauge for each partition that there is, and for no other."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: set[int] = set()

    def show(self, values: Mapping[int, float]) -> None:
        for gone in self._shown - set(values):
            self._gauge.remove(str(gone))
        for partition, value in values.items():
            self._gauge.labels(str(partition)).set(value)
        self._shown = set(values)


class WorkerMetrics(_Metrics):
    """Those of a worker."""

    def __init__(self) -> None:
        super().__init__("worker", WORKER_STAGES)
        records = self._counter(
            "records_total", "What became of the records committed by this process", "result", "reason"
        )
        self._admitted, self._forwarded = records.labels("admitted", ""), records.labels("forwarded", "")
        self._dropped = {reason.value: records.labels("dropped", reason.value) for reason in DROPPED}
        self._rejected = {reason.value: records.labels("rejected", reason.value) for reason in REJECTED}
        letters = self._counter("dead_letters_total", "Records written to the topic of dead letters", "reason")
        self._letters = {reason.value: letters.labels(reason.value) for reason in REJECTED}
        self._matches = self._counter("matches_total", "Entries matched in the unique pairs among the records")
        self._rebalances = self._counter(
            "rebalances_total", "How often the group has changed what belongs to this process"
        )
        self._lag = _OfPartitions(
            self._gauge("lag_offsets", "End of the partition less the position in it", "partition")
        )
        self._last_progress = _OfPartitions(
            self._gauge(
                "last_progress_timestamp_seconds",
                "When the position moved last, or there was nothing more to read",
                "partition",
            )
        )
        self._stalled = self._gauge(
            "stalled_partitions", "Partitions with something to read whose position has not moved for the limit"
        )
        owned = self._gauge("owned_partitions", "Partitions that belong to this process", "state")
        self._owned = {state: owned.labels(state) for state in ("ready", "restoring")}
        self._seen = self._gauge("seen_pairs", "Hashes of pairs seen that are held in memory")

    def committed(self, numbers: Numbers, seconds: float) -> None:
        """A transaction of one partition is written.

        Args:
            numbers: what became of its records.
            seconds: that the transaction took.
        """
        self._add_commit(seconds)
        self.add_stage_seconds("write", seconds)
        self._admitted.inc(numbers.n_admitted)
        self._forwarded.inc(numbers.n_forwarded)
        self._matches.inc(numbers.n_matches)
        for reason, n in numbers.dropped.items():
            self._dropped[reason].inc(n)
        for reason, n in numbers.rejected.items():
            self._rejected[reason].inc(n)
            self._letters[reason].inc(n)

    def rebalanced(self) -> None:
        """The group has given or taken partitions."""
        self._rebalances.inc()

    def show_seen(self, n_pairs: int) -> None:
        """How many pairs are remembered in all partitions together."""
        self._seen.set(n_pairs)

    def show_partitions(
        self, *, lags: Mapping[int, float], progress_s: Mapping[int, float], n_stalled: int, n_ready: int, n_owned: int
    ) -> None:
        """What is known of the partitions now.

        Args:
            lags: offsets behind, of each partition of which it is known.
            progress_s: when each moved last, seconds since 1970.
            n_stalled: how many stand still.
            n_ready: how many are restored, of
            n_owned: all that belong to this process.
        """
        self._lag.show(lags)
        self._last_progress.show(progress_s)
        self._stalled.set(n_stalled)
        self._owned["ready"].set(n_ready)
        self._owned["restoring"].set(n_owned - n_ready)


class SettlerMetrics(_Metrics):
    """Those of the settler."""

    def __init__(self) -> None:
        super().__init__("settler", SETTLER_STAGES)
        self._ledger_lag = _OfPartitions(
            self._gauge("ledger_lag_offsets", "End of the ledger's partition less what is folded", "partition")
        )
        self._ledger_time = self._gauge("ledger_timestamp_seconds", "When the newest folded record was written")
        self._cut_time = self._gauge(
            "settled_cut_timestamp_seconds", "When the newest record below the last settled cut was written"
        )
        self._settle_seconds = Histogram(
            "stream_curate_settle_seconds",
            "How long the settles took",
            buckets=_SETTLE_BUCKETS_S,
            registry=self.registry,
        )
        self._curated = self._gauge("curated_pairs", "Pairs in the table at the last settled cut")
        self._evicted = self._counter("evicted_pairs_total", "Pairs taken out of the table by settles of this process")
        self._over_admission = self._gauge(
            "over_admission_ratio", "Pairs that the last settle took out, for each one that stayed"
        )
        self._head = self._gauge("head_entries", "Entries matched more than t times at the last settled cut")
        self._tail_share = self._gauge("tail_matches_ratio", "Share of the matches that entries of the tail have")
        self._sketch_error = self._gauge(
            "sketch_error_matches", "By how much an estimate of the sketch is too high, at most"
        )

    def committed(self, seconds: float) -> None:
        """A commit to the table is made."""
        self._add_commit(seconds)

    def folded(self, newest_s: float) -> None:
        """Take note of when the newest folded record of the ledger was written: seconds since 1970."""
        self._ledger_time.set(newest_s)

    def show_cut(self, newest_s: float) -> None:
        """Take note of when the newest record below the settled cut was written: seconds since 1970."""
        self._cut_time.set(newest_s)

    def settled(self, seconds: float, n_evicted: int, n_curated: int) -> None:
        """A settle is made: it took out so many pairs, and so many stay."""
        self._settle_seconds.observe(seconds)
        self._evicted.inc(n_evicted)
        self._over_admission.set(n_evicted / max(1, n_curated))

    def show_settled(self, n_curated: int, entry_counts: np.ndarray, threshold: int, error: float) -> None:
        """What the last settled version holds.

        Args:
            n_curated: its pairs.
            entry_counts: int64[n_entries], the counts at its cut.
            threshold: t of that cut.
            error: of the counter, in matches: see `Counter.error_bound`.
        """
        is_head = entry_counts > threshold
        self._curated.set(n_curated)
        self._head.set(int(np.count_nonzero(is_head)))
        self._tail_share.set(int(entry_counts[~is_head].sum()) / max(1, int(entry_counts.sum())))
        self._sketch_error.set(error)

    def show_lags(self, lags: Mapping[int, float]) -> None:
        """How many offsets of the ledger are not folded yet, of each partition."""
        self._ledger_lag.show(lags)
