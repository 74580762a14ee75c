"""Replay: the same shards as a stream, in many ways, each compared with offline at several prefixes.

It shows on data of one's own what is promised: whatever the order, the batch size, the interruptions and the counter, a
settled prefix of the stream holds exactly what offline gives for that prefix. And it measures what is not promised to
be nothing: how much too much the table holds before it is settled, how far a prefix still is from the whole, and what a
sketch changes; each against the *noise floor*, the distances between offline runs that differ in their seed alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_curate.agreement import (
    jaccard,
    kl_divergence,
    matches_per_entry,
    over_admission,
    tail_coverage,
    total_variation,
)
from stream_curate.counting import Counter
from stream_curate.curate import Curation, Pace
from stream_curate.curator import Curator
from stream_curate.errors import UsageError
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, records_of
from stream_curate.pairs import Records, validate
from stream_curate.rule import Dedup, Rule
from stream_curate.sources import Source
from stream_curate.stop import StopRequest
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.data_files import read_batches
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import Identity
from stream_curate.table.state import Numbers

PREFIXES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ORDERS = ("given", "reversed", "by-text", "by-url", "shuffled-1", "shuffled-2")
BATCH_SIZES = (1_000, 7, 65_536)
COUNTERS = (Counter("exact"), Counter("count-min"))
EXACT = Counter("exact")
MAX_BYTES = 2**31 - 1  # of urls, and of texts: Arrow counts them in 32 bits once they are in one piece

_DECIDED = ["pair_id", "entry_ids"]


@dataclass(frozen=True)
class Variation:
    """One way to run the stream.

    Attributes:
        order: `given`, `reversed`, `by-text`, `by-url`, or `shuffled-N` with N the seed of the shuffle.
        batch_size: pairs decided on together, at most.
        counter: of the online run, and of the offline runs that it is compared with.
        n_interruptions: how often the run is broken off, within this process and without a checkpoint, to be opened
            anew from the last checkpoint of a table on disk. With 0 there is no table on disk.
    """

    order: str
    batch_size: int
    counter: Counter
    n_interruptions: int = 0


@dataclass(frozen=True)
class Agreement:
    """How far a set of pairs a agrees with another, b; equal sets have 1, 0 and 0.

    Attributes:
        jaccard: of the pairs, from 0 to 1.
        total_variation: of the entry distributions, from 0 to 1.
        kl_divergence: of the entry distributions, D(a || b) in nats.
    """

    jaccard: float
    total_variation: float
    kl_divergence: float


@dataclass(frozen=True)
class Point:
    """The stream after a prefix.

    Attributes:
        n_read: pairs read.
        n_unique: of these, distinct.
        n_provisional: pairs in the table before it was settled. A run without interruptions settles a copy
            and goes on unsettled, so that this is what a table would hold that is never settled.
        n_curated: pairs in it once settled.
        n_offline: pairs that offline keeps of the prefix.
        digest: of the settled table.
        is_equal: whether offline gives this digest for the same prefix.
        over_admission: n_provisional / n_offline.
        tail_coverage: the share of tail entries (1 to t matches in this prefix) that the settled table covers.
        provisional: the table before it was settled against offline for the prefix.
        settled: the settled table against offline for the prefix.
        whole: the settled table against offline for the whole stream.
        exact: the settled table against offline for the prefix with exact counts.
    """

    n_read: int
    n_unique: int
    n_provisional: int
    n_curated: int
    n_offline: int
    digest: str
    is_equal: bool
    over_admission: float
    tail_coverage: float
    provisional: Agreement
    settled: Agreement
    whole: Agreement
    exact: Agreement


@dataclass(frozen=True)
class Run:
    """A variation and how it went, a point for each prefix."""

    variation: Variation
    points: list[Point]

    @property
    def is_equal(self) -> bool:
        """Whether every prefix was equal to offline."""
        return all(point.is_equal for point in self.points)


@dataclass(frozen=True)
class ReplayReport:
    """What a replay found. The same shards and settings give the same report.

    Attributes:
        rule: of the first run; the others differ in the counter at most.
        sources: the names of what was read.
        n_records: records read, with those that are no valid pairs.
        n_pairs: valid pairs among them, those that come again included.
        n_unique, n_matched: distinct pairs; of these, with at least one matched entry.
        n_entries: entries of the metadata.
        n_head, n_tail: entries matched more than t times; 1 to t times.
        runs: the baseline first.
        noise: offline with the baseline's counter for the whole stream, with two seeds, for every two of a few.
    """

    rule: Rule
    sources: list[str]
    n_records: int
    n_pairs: int
    n_unique: int
    n_matched: int
    n_entries: int
    n_head: int
    n_tail: int
    runs: list[Run]
    noise: list[Agreement]

    @property
    def is_equal(self) -> bool:
        """Whether every run was equal to offline at every prefix."""
        return all(run.is_equal for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON report; a number that is not finite becomes None."""
        values: dict[str, Any] = finite(asdict(self))
        values["rule"] = self.rule.as_dict()
        for values_of_run, run in zip(values["runs"], self.runs, strict=True):
            values_of_run["variation"]["counter"] = run.variation.counter.as_dict()
        return values | {"is_equal": self.is_equal}


def replay(
    sources: Sequence[Source],
    metadata: Metadata,
    *,
    threshold: int,
    seed: int,
    dedup: Dedup = "exact",
    prefixes: Sequence[float] = PREFIXES,
    orders: Sequence[str] = ORDERS,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    counters: Sequence[Counter] = COUNTERS,
    n_interruptions: int = 4,
    n_noise_seeds: int = 3,
    on_run: Callable[[int, int, Variation], None] = lambda number, n_runs, variation: None,
) -> ReplayReport:
    """Run the sources as a stream in every variation, and compare with offline at every prefix.

    The baseline is the first order, batch size and counter, without interruption. Then one of them changes at a time,
    and at last all.
    The pairs are held in memory, url and text twice: it is meant for fixed shards, up to a few million pairs.

    Args:
        sources: read once, from their first row.
        metadata: the entries.
        threshold: t.
        seed: of the draws, 0 <= seed < 2^128.
        dedup: `exact` or `none`.
        prefixes: shares of the pairs after which to compare, above 0 and at most 1.
        orders: see `Variation`.
        batch_sizes: pairs decided on together, at most.
        counters: of the online runs.
        n_interruptions: how often the interrupted run is broken off; 0 leaves that run out.
        n_noise_seeds: how many seeds (0, 1, 2, ...: not the one given) the noise floor is taken from.
        on_run: told before each run its number from 1 on, how many there will be, and the variation.

    Raises:
        UsageError: for a prefix, order or batch size that cannot be, sources without a valid pair, or too much input.
        ConfigError: for a setting of the rule that is out of range.
        InputError: a source cannot be read.
    """
    check_prefixes(prefixes)
    if not (orders and batch_sizes and counters):
        raise UsageError("a replay needs at least one order, batch size and counter")
    for order in orders:
        _check_order(order)
    if min(batch_sizes) < 1:
        raise UsageError(f"a batch holds at least 1 pair, not {min(batch_sizes)}")
    rule = Rule.of(metadata, threshold=threshold, seed=seed, counter=counters[0], dedup=dedup)
    shards = _Shards(sources, metadata, rule, seed)
    stops = sorted({max(1, round(prefix * shards.n_pairs)) for prefix in prefixes})
    variations = _variations(orders, batch_sizes, counters, n_interruptions)
    runs = []
    for number, variation in enumerate(variations, 1):
        on_run(number, len(variations), variation)
        runs.append(Run(variation, list(shards.run(variation, stops))))
    entry_counts = shards.pool.entry_counts(EXACT)
    return ReplayReport(
        rule=rule,
        sources=[source.name for source in sources],
        n_records=shards.pool.n_read,
        n_pairs=shards.n_pairs,
        n_unique=len(shards.pool),
        n_matched=shards.pool.n_matched,
        n_entries=len(metadata),
        n_head=sum(count > threshold for count in entry_counts.values()),
        n_tail=sum(count <= threshold for count in entry_counts.values()),
        runs=runs,
        noise=shards.noise(counters[0], range(n_noise_seeds)),
    )


def check_prefixes(prefixes: Sequence[float]) -> None:
    """Raise UsageError unless these are shares of a stream."""
    if not prefixes or not all(0 < prefix <= 1 for prefix in prefixes):
        raise UsageError("the prefixes must be shares of the stream, above 0 and at most 1, such as 0.5")


def _variations(
    orders: Sequence[str], batch_sizes: Sequence[int], counters: Sequence[Counter], n_interruptions: int
) -> list[Variation]:
    """The baseline, then one thing changed at a time, then all. Runs in the same order come one after the other."""
    baseline = Variation(orders[0], batch_sizes[0], counters[0])
    return list(
        dict.fromkeys(
            [
                baseline,
                *(replace(baseline, batch_size=batch_size) for batch_size in batch_sizes[1:]),
                *(replace(baseline, counter=counter) for counter in counters[1:]),
                replace(baseline, n_interruptions=n_interruptions),
                *(replace(baseline, order=order) for order in orders[1:]),
                Variation(orders[-1], batch_sizes[-1], counters[-1], n_interruptions),
            ]
        )
    )


@dataclass(frozen=True)
class _Subset:
    """A set of curated pairs, and how often they match each entry (int64[n_entries])."""

    pair_ids: set[bytes]
    matches: np.ndarray

    def agreement(self, other: _Subset) -> Agreement:
        return Agreement(
            jaccard(self.pair_ids, other.pair_ids),
            total_variation(self.matches, other.matches),
            kl_divergence(self.matches, other.matches),
        )


@dataclass
class _Prefix:
    """The offline subsets of one set of pairs."""

    pool: OfflinePool
    threshold: int
    _subsets: dict[tuple[Counter, int], _Subset] = field(default_factory=dict)

    def offline(self, counter: Counter, seed: int) -> _Subset:
        if (counter, seed) not in self._subsets:
            kept = self.pool.kept(self.pool.entry_counts(counter), self.threshold, seed)
            # under `dedup: none` equal pair_ids stand once
            distinct = {self.pool.pair_ids[index]: index for index in kept}
            matched = [entry_id for index in distinct.values() for entry_id in self.pool.matched(index)]
            matches = matches_per_entry(np.array(matched, np.int64), len(self.pool.metadata))
            self._subsets[counter, seed] = _Subset(set(distinct), matches)
        return self._subsets[counter, seed]

    @cached_property
    def true_counts(self) -> np.ndarray:
        """int64[n_entries]."""
        true_counts = np.zeros(len(self.pool.metadata), np.int64)
        for entry_id, count in self.pool.entry_counts(EXACT).items():
            true_counts[entry_id] = count
        return true_counts


class _Shards:
    """All valid pairs in memory, with what offline gives for them."""

    def __init__(self, sources: Sequence[Source], metadata: Metadata, rule: Rule, seed: int) -> None:
        self.metadata = metadata
        self.rule = rule
        self.pool = OfflinePool(metadata, rule.dedup)
        self._seed = seed
        batches = []
        for records in records_of(sources):
            self.pool.add(records)
            batches.append(validate(records)[0].select(["pair_id", "url", "text"]))
        if not len(self.pool):
            raise UsageError("there is no valid pair in the sources: nothing can be replayed")
        pairs = pa.Table.from_batches(batches)
        for name in ("url", "text"):
            if pairs.column(name).nbytes > MAX_BYTES:
                raise UsageError(f"more than 2 GiB in column {name}: replay holds all in memory, so give fewer shards")
        self._pairs: pa.RecordBatch = pairs.combine_chunks().to_batches()[0]
        self._whole = _Prefix(self.pool, rule.threshold)
        self._order = ""
        self._prefixes: dict[int, _Prefix] = {}  # of this order

    @property
    def n_pairs(self) -> int:
        return len(self._pairs)

    def run(self, variation: Variation, stops: Sequence[int]) -> Iterator[Point]:
        """The stream after so many pairs, for each of the ascending `stops`."""
        order = self._order_of(variation.order)
        if variation.order != self._order:
            self._order, self._prefixes = variation.order, {}
        stream = _Stream(self._pairs.take(pa.array(order)), stops)
        run = self._run_interrupted if variation.n_interruptions else self._run_in_memory
        for stop, (provisional, settled) in zip(stops, run(variation, stream), strict=True):
            if stop not in self._prefixes:
                members = np.unique(self._pool_index[order[:stop]]).tolist()
                self._prefixes[stop] = _Prefix(self.pool.take(members), self.rule.threshold)
            yield self._point(variation.counter, stop, self._prefixes[stop], provisional, settled)

    def noise(self, counter: Counter, seeds: Iterable[int]) -> list[Agreement]:
        """How far offline runs for the whole stream agree that differ in their seed alone."""
        subsets = [self._whole.offline(counter, seed) for seed in seeds]
        return [a.agreement(b) for a, b in combinations(subsets, 2)]

    def _point(self, counter: Counter, n_read: int, prefix: _Prefix, provisional: _Subset, settled: _Subset) -> Point:
        offline = prefix.offline(counter, self._seed)
        settled_digest = digest(settled.pair_ids)
        return Point(
            n_read=n_read,
            n_unique=len(prefix.pool),
            n_provisional=len(provisional.pair_ids),
            n_curated=len(settled.pair_ids),
            n_offline=len(offline.pair_ids),
            digest=settled_digest,
            is_equal=settled_digest == digest(offline.pair_ids),
            over_admission=over_admission(len(provisional.pair_ids), len(offline.pair_ids)),
            tail_coverage=tail_coverage(prefix.true_counts, settled.matches, self.rule.threshold),
            provisional=provisional.agreement(offline),
            settled=settled.agreement(offline),
            whole=settled.agreement(self._whole.offline(counter, self._seed)),
            exact=settled.agreement(prefix.offline(EXACT, self._seed)),
        )

    def _run_in_memory(self, variation: Variation, stream: _Stream) -> Iterator[tuple[_Subset, _Subset]]:
        curator = self._curator(variation.counter)
        admitted: list[pa.RecordBatch] = []
        for records in stream.read(0, variation.batch_size):
            admitted.append(curator.observe(validate(records)[0]).select(_DECIDED))
            if records.first_row + len(records) in stream.stops:
                admitted = pa.Table.from_batches(admitted).combine_chunks().to_batches()
                yield self._subset(admitted), self._subset(curator.settle(admitted))

    def _run_interrupted(self, variation: Variation, stream: _Stream) -> Iterator[tuple[_Subset, _Subset]]:
        """Through a table on disk, which is opened anew after each interruption and each stop."""
        fates = _fates(variation.n_interruptions, self.n_pairs)
        with TemporaryDirectory(prefix="stream-curate-replay-") as folder:
            for stop in stream.stops:
                subsets = None
                while subsets is None:
                    subsets = self._go_on(variation, stream, Path(folder) / "table", stop, fates)
                yield subsets

    def _go_on(
        self, variation: Variation, stream: _Stream, table: Path, stop: int, fates: list[_Fate]
    ) -> tuple[_Subset, _Subset] | None:
        """Curate from the table's last checkpoint on, to `stop`; None when interrupted before."""
        request = StopRequest()
        with self._curation(variation, table) as curation:

            def on_batch(source: Source, numbers: Numbers) -> None:
                while fates and numbers.n_read >= fates[0].n_read:
                    if fates.pop(0).is_interruption:
                        raise _Interrupted
                    curation.checkpoint()
                if numbers.n_read >= stop:
                    request.request()

            # interrupted just after a checkpoint at `stop`, there is nothing left to read
            if curation.numbers.n_read < stop:
                try:
                    curation.run([stream], stop=request, on_batch=on_batch)
                except _Interrupted:
                    return None
            provisional = self._rows_of(table)
            curation.settle()
            return provisional, self._rows_of(table)

    @contextmanager
    def _curation(self, variation: Variation, table: Path) -> Iterator[Curation]:
        """The table, opened as a new process does; what is not committed when it is left is lost."""
        curator = self._curator(variation.counter)
        opened = CuratedTable.open(table, Identity(curator.rule, ()), self.metadata)
        try:
            yield Curation(curator, opened, Pace(variation.batch_size, checkpoint_interval_s=math.inf))
        finally:
            opened.close()

    def _rows_of(self, table: Path) -> _Subset:
        return self._subset(
            batch for file in DeltaLog(table).files() for batch in read_batches(table / file.name, _DECIDED)
        )

    def _curator(self, counter: Counter) -> Curator:
        rule = self.rule
        return Curator(self.metadata, threshold=rule.threshold, seed=self._seed, counter=counter, dedup=rule.dedup)

    def _subset(self, batches: Iterable[pa.RecordBatch]) -> _Subset:
        pair_ids: set[bytes] = set()
        matches = np.zeros(len(self.metadata), np.int64)
        for batch in batches:
            rows = []
            for row, pair_id in enumerate(batch.column("pair_id").to_pylist()):
                if pair_id not in pair_ids:
                    pair_ids.add(pair_id)
                    rows.append(row)
            entry_ids = batch.column("entry_ids").take(pa.array(rows, pa.int64())).flatten()
            matches += matches_per_entry(entry_ids.to_numpy(), len(self.metadata))
        return _Subset(pair_ids, matches)

    @cached_property
    def _pool_index(self) -> np.ndarray:
        """int64[n_pairs]: where each pair, duplicates included, stands in the pool."""
        if self.rule.dedup == "none":
            return np.arange(self.n_pairs)
        index_of = {pair_id: index for index, pair_id in enumerate(self.pool.pair_ids)}
        return np.array([index_of[pair_id] for pair_id in self._pairs.column("pair_id").to_pylist()])

    def _order_of(self, name: str) -> np.ndarray:
        """int64[n_pairs]: the pairs' rows as given, in this order."""
        if name == "given":
            return np.arange(self.n_pairs)
        if name == "reversed":
            return np.arange(self.n_pairs)[::-1]
        if name in ("by-text", "by-url"):
            column = self._pairs.column(name.removeprefix("by-"))
            return np.asarray(pc.array_sort_indices(column)).astype(np.int64)
        seed = int(name.removeprefix("shuffled-"))
        return np.random.Generator(np.random.PCG64(seed)).permutation(self.n_pairs)


def _check_order(name: str) -> None:
    if not re.fullmatch(r"given|reversed|by-text|by-url|shuffled-[0-9]+", name):
        raise UsageError(f"there is no order {name!r}: choose given, reversed, by-text, by-url or shuffled-N")


class _Stream:
    """Pairs in memory as a `Source`. A batch ends at every stop, so that one can look at the stream just there."""

    uri = "replay:"
    name = "replay"
    size = 0
    format = "memory"

    def __init__(self, pairs: pa.RecordBatch, stops: Sequence[int]) -> None:
        self._urls = pairs.column("url").view(pa.binary())
        self._texts = pairs.column("text").view(pa.binary())
        self.stops = stops

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        """See `Source.read`."""
        for start, stop in pairwise([0, *self.stops]):
            for row in range(max(start, first_row), stop, batch_size):
                n_rows = min(batch_size, stop - row)
                yield Records(self.uri, row, self._urls.slice(row, n_rows), self._texts.slice(row, n_rows))


class _Interrupted(Exception):
    pass


@dataclass(frozen=True)
class _Fate:
    """What happens to a run once it has read so many pairs: it is interrupted, or makes a checkpoint."""

    n_read: int
    is_interruption: bool


def _fates(n_interruptions: int, n_pairs: int) -> list[_Fate]:
    """Interruptions at equal distances, and halfway to each a checkpoint."""
    half_steps = [k * n_pairs // (2 * n_interruptions + 2) for k in range(1, 2 * n_interruptions + 1)]
    return [_Fate(max(1, n_read), k % 2 == 0) for k, n_read in enumerate(half_steps, 1)]


def finite(value: Any) -> Any:
    """`value`, with None for every infinite number in it: JSON has none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
