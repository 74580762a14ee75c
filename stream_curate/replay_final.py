"""Replay of final decisions: how near the accepted pairs come to offline's distribution, by the order of the stream.

Final decisions equal no offline run, so that there is nothing to be found equal. What is measured is the total
variation distance between the entry distributions of the accepted pairs and of offline, for several prefixes of the
stream: offline gets the same prefix, and the part of the threshold that belongs to it. The measure is the *noise
floor*, the distance between two offline runs that differ in their seed alone. All is done with several seeds, as one
run scatters: the distance is the mean over all pairs of an online and an offline run with different seeds, just as the
noise floor is between two offline runs. With the same seed both toss the same coins, and are nearer to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from stream_curate.agreement import matches_per_entry, total_variation
from stream_curate.balance import keep
from stream_curate.counting import Counter
from stream_curate.draws import bases
from stream_curate.errors import UsageError
from stream_curate.final_rule import FinalDecisions, Horizon, decide
from stream_curate.matching import Matches, make_matcher
from stream_curate.metadata import Metadata
from stream_curate.offline import records_of
from stream_curate.pairs import PAIR_ID, validate
from stream_curate.replay import PREFIXES, check_prefixes, finite
from stream_curate.rule import Dedup, Rule
from stream_curate.sources import Source

ORDERS = ("given", "shuffled", "by-domain", "by-length")
N_SEEDS = 8
SHUFFLE_SEED = 1


@dataclass(frozen=True)
class FinalPoint:
    """The stream after a prefix; numbers of pairs are means over the seeds.

    Attributes:
        n_decided: pairs of the prefix.
        threshold: t * n / N, offline's for this prefix.
        n_accepted: pairs accepted.
        n_offline: pairs that offline keeps of the prefix.
        distance: total variation between online and offline with other seeds, the mean.
        distance_same_seed: the same with the same seed.
        floor: total variation between offline with different seeds, the mean; `floor_least` and `floor_most` are the
            extremes.
    """

    n_decided: int
    threshold: float
    n_accepted: float
    n_offline: float
    distance: float
    distance_same_seed: float
    floor: float
    floor_least: float
    floor_most: float

    @property
    def multiple(self) -> float:
        """The distance in multiples of the noise floor; 1 where there is neither."""
        return _ratio(self.distance, self.floor)

    @property
    def multiple_same_seed(self) -> float:
        """The same of the distance with the same seed."""
        return _ratio(self.distance_same_seed, self.floor)


@dataclass(frozen=True)
class Admission:
    """What was let in too much and too little at the end of the stream, by the matches of each entry.

    The matches of an entry are the mean over the seeds, online and offline; what one has more than the other is added
    up over the entries of the head (more than t * n / N matches in the whole stream) or of the tail (the others), and
    told as a share of what offline has there. Offline keeps all of the tail.

    Attributes:
        head_over, head_under, tail_over, tail_under: shares of the matches.
        tail_loss: the share of the pairs with a tail entry that were dropped.
    """

    head_over: float
    head_under: float
    tail_over: float
    tail_under: float
    tail_loss: float


@dataclass(frozen=True)
class FinalRun:
    """One order and threshold, with a point for each prefix."""

    order: str
    threshold: int
    points: list[FinalPoint]
    admission: Admission


@dataclass(frozen=True)
class FinalReplayReport:
    """What a replay found. The same shards and settings give the same report.

    Attributes:
        rule: of the first threshold; the others differ in it alone.
        sources: the names of what was read.
        n_records: records read, with those that are no valid pairs.
        n_pairs: distinct valid pairs (under `dedup: none` all valid ones).
        n_matched: of these, with at least one matched entry.
        n_entries: entries of the metadata.
        n_seeds: how many seeds each number is the mean over.
        runs: by threshold, then by order.
    """

    rule: Rule
    sources: list[str]
    n_records: int
    n_pairs: int
    n_matched: int
    n_entries: int
    n_seeds: int
    runs: list[FinalRun]

    @property
    def final(self) -> FinalDecisions:
        """What the thresholds belong to."""
        if self.rule.final is None:
            raise ValueError("a replay of final decisions has a rule of such")
        return self.rule.final

    @property
    def thresholds(self) -> list[int]:
        """Each once."""
        return list(dict.fromkeys(run.threshold for run in self.runs))

    @property
    def orders(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(run.order for run in self.runs))

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON report; a number that is not finite becomes None."""
        values = asdict(self) | {"rule": self.rule.as_dict()}
        for values_of_run, run in zip(values["runs"], self.runs, strict=True):
            for values_of_point, point in zip(values_of_run["points"], run.points, strict=True):
                values_of_point |= {"multiple": point.multiple, "multiple_same_seed": point.multiple_same_seed}
        found: dict[str, Any] = finite(values)
        return found


def replay_final(
    sources: Sequence[Source],
    metadata: Metadata,
    *,
    thresholds: Sequence[int],
    seed: int,
    pool_size: int | None = None,
    horizon: Horizon = "endless",
    dedup: Dedup = "exact",
    prefixes: Sequence[float] = PREFIXES,
    orders: Sequence[str] = ORDERS,
    n_seeds: int = N_SEEDS,
    on_run: Callable[[int, int, str, int], None] = lambda number, n_runs, order, threshold: None,
) -> FinalReplayReport:
    """Decide on the sources as a stream in several orders, and measure the distance to offline at every prefix.

    Args:
        sources: read once, from their first row; the pairs are held in memory.
        metadata: the entries.
        thresholds: t, one or more.
        seed: of the draws, 0 <= seed < 2^128; the others are 0, 1, 2, ... without it.
        pool_size: N; None for the number of distinct valid pairs in the sources.
        horizon: `known` or `endless`.
        dedup: `exact` or `none`.
        prefixes: shares of the pairs after which to compare, above 0 and at most 1.
        orders: of `ORDERS`. Pairs of one domain, or with captions of one length, are shuffled among themselves.
        n_seeds: how many, at least 2.
        on_run: told before each run its number from 1 on, how many there will be, the order and the threshold.

    Raises:
        UsageError: for a prefix that cannot be, or sources without a valid pair.
        ConfigError: for a setting of the rule that is out of range.
        InputError: a source cannot be read.
    """
    check_prefixes(prefixes)
    pool = _Pool(sources, metadata, dedup)
    final = FinalDecisions(len(pool) if pool_size is None else pool_size, horizon)
    exact = Counter("exact")
    rules = [
        Rule.of(metadata, threshold=threshold, seed=seed, counter=exact, dedup=dedup, final=final)
        for threshold in dict.fromkeys(thresholds)
    ]
    seeds = [seed, *(other for other in range(n_seeds) if other != seed)][:n_seeds]
    base = [bases(pool.pair_ids, each) for each in seeds]
    stops = sorted({max(1, round(prefix * len(pool))) for prefix in prefixes})
    runs: list[FinalRun] = []
    for rule in rules:
        for order in orders:
            on_run(len(runs) + 1, len(rules) * len(orders), order, rule.threshold)
            rows = pool.rows_in(order)
            points, admission = measure(
                taken(pool.matches, rows),
                [each[rows] for each in base],
                pool.entry_keys,
                rule.threshold,
                final,
                stops,
                pool.pairs[rows] if dedup == "none" else None,
            )
            runs.append(FinalRun(order, rule.threshold, points, admission))
    return FinalReplayReport(
        rule=rules[0],
        sources=[source.name for source in sources],
        n_records=pool.n_records,
        n_pairs=len(pool),
        n_matched=int(np.count_nonzero(np.diff(pool.matches.offsets))),
        n_entries=len(metadata),
        n_seeds=len(seeds),
        runs=runs,
    )


def measure(
    matches: Matches,
    base: Sequence[np.ndarray],
    entry_keys: np.ndarray,
    threshold: int,
    final: FinalDecisions,
    stops: Sequence[int],
    pairs: np.ndarray | None = None,
) -> tuple[list[FinalPoint], Admission]:
    """Decide on a stream with several seeds, and compare with offline at each stop.

    Args:
        matches: of the pairs, in the order of the stream.
        base: for each of two or more seeds, uint64[n_pairs], the keyed hashes of the pairs.
        entry_keys: uint64[n_entries].
        threshold: t.
        final: what the threshold belongs to.
        stops: numbers of pairs, ascending, from 1 on; the last one is where `Admission` is told of.
        pairs: int64[n_pairs], a number for each distinct pair, where one can come several times (`dedup: none`): of
            those that are accepted, or kept, the first one stands for all.
    """
    online = [_accepted(matches, each, entry_keys, threshold, final) for each in base]
    points = []
    for stop in stops:
        prefix = _first(matches, stop)
        counts = matches_per_entry(prefix.entry_ids, len(entry_keys))
        part = final.threshold_at(stop, threshold)
        offline = [_once(keep(each[:stop], prefix, entry_keys, counts, part), pairs) for each in base]
        held = [_once(accepted[:stop], pairs) for accepted in online]
        of_online = [_matches_of(prefix, accepted, len(entry_keys)) for accepted in held]
        of_offline = [_matches_of(prefix, kept, len(entry_keys)) for kept in offline]
        floors = [total_variation(a, b) for a, b in combinations(of_offline, 2)]
        distances = [total_variation(of_online[i], of_offline[j]) for i, j in permutations(range(len(base)), 2)]
        points.append(
            FinalPoint(
                n_decided=stop,
                threshold=part,
                n_accepted=fmean(int(np.count_nonzero(accepted)) for accepted in held),
                n_offline=fmean(int(np.count_nonzero(kept)) for kept in offline),
                distance=fmean(distances),
                distance_same_seed=fmean(map(total_variation, of_online, of_offline)),
                floor=fmean(floors),
                floor_least=min(floors),
                floor_most=max(floors),
            )
        )
    is_tail = counts <= part
    lost = fmean(_tail_loss(prefix, is_tail, accepted[:stop]) for accepted in online)
    return points, _admission(np.mean(of_online, axis=0), np.mean(of_offline, axis=0), is_tail, lost)


def taken(matches: Matches, rows: np.ndarray) -> Matches:
    """The matches of these pairs, int64[n], in this order."""
    lengths = np.diff(matches.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    where = np.repeat(matches.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Matches(offsets, matches.entry_ids[where])


def _accepted(
    matches: Matches, base: np.ndarray, entry_keys: np.ndarray, threshold: int, final: FinalDecisions
) -> np.ndarray:
    counts, coins = (np.zeros(len(entry_keys), np.int64) for _ in range(2))
    return decide(base, matches, entry_keys, counts, coins, 0, threshold, final).accepted


def _once(chosen: np.ndarray, pairs: np.ndarray | None) -> np.ndarray:
    """Of the chosen pairs with the same number only the first one: bool[n]."""
    if pairs is None:
        return chosen
    rows = np.flatnonzero(chosen)
    once = np.zeros(len(chosen), np.bool_)
    once[rows[np.unique(pairs[rows], return_index=True)[1]]] = True
    return once


def _first(matches: Matches, n: int) -> Matches:
    return Matches(matches.offsets[: n + 1], matches.entry_ids[: matches.offsets[n]])


def _matches_of(matches: Matches, chosen: np.ndarray, n_entries: int) -> np.ndarray:
    """int64[n_entries]: how often each entry is matched by the chosen pairs."""
    return matches_per_entry(matches.entry_ids[np.repeat(chosen, np.diff(matches.offsets))], n_entries)


def _tail_loss(matches: Matches, is_tail: np.ndarray, accepted: np.ndarray) -> float:
    """The share of the pairs with an entry of the tail that were not accepted."""
    pair_of = np.repeat(np.arange(len(matches)), np.diff(matches.offsets))
    with_tail = np.zeros(len(matches), np.bool_)
    with_tail[pair_of[is_tail[matches.entry_ids]]] = True
    n_with_tail = int(np.count_nonzero(with_tail))
    return int(np.count_nonzero(with_tail & ~accepted)) / n_with_tail if n_with_tail else 0.0


def _admission(online: np.ndarray, offline: np.ndarray, is_tail: np.ndarray, tail_loss: float) -> Admission:
    def share(surplus: np.ndarray, members: np.ndarray) -> float:
        total = float(offline[members].sum())
        return float(np.maximum(surplus[members], 0.0).sum()) / total if total else 0.0

    more = online - offline
    return Admission(
        head_over=share(more, ~is_tail),
        head_under=share(-more, ~is_tail),
        tail_over=share(more, is_tail),
        tail_under=share(-more, is_tail),
        tail_loss=tail_loss,
    )


def _ratio(distance: float, floor: float) -> float:
    if floor == 0.0:
        return 1.0 if distance == 0.0 else float("inf")
    return distance / floor


class _Pool:
    """All pairs in memory, with the entries that they match, numbered anew without those that nothing matches."""

    def __init__(self, sources: Sequence[Source], metadata: Metadata, dedup: Dedup) -> None:
        matcher = make_matcher("trie", metadata.entries)
        self.n_records = 0
        ids, domains, lengths, n_matched, entry_ids = [], [], [], [], []
        for records in records_of(sources):
            self.n_records += len(records)
            pairs = validate(records)[0]
            matches = matcher.match(pairs.column("text"))
            ids.append(pairs.column("pair_id").cast(PAIR_ID))
            domains += [url.partition("//")[2].partition("/")[0].lower() for url in pairs.column("url").to_pylist()]
            lengths += [len(text) for text in pairs.column("text").to_pylist()]
            n_matched.append(np.diff(matches.offsets))
            entry_ids.append(matches.entry_ids)
        if not domains:
            raise UsageError("there is no valid pair in the sources: nothing can be replayed")
        all_ids = pa.concat_arrays(ids)
        present, numbers = np.unique(np.concatenate(entry_ids), return_inverse=True)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(n_matched))])
        raw = np.frombuffer(all_ids.buffers()[1], "S16", len(all_ids), 16 * all_ids.offset)
        _, first, numbers_of_pairs = np.unique(raw, return_index=True, return_inverse=True)
        rows = np.arange(len(all_ids)) if dedup == "none" else np.sort(first)
        self.pairs = numbers_of_pairs[rows]
        self.pair_ids = all_ids.take(pa.array(rows))
        self.matches = taken(Matches(offsets, numbers.astype(np.int32)), rows)
        self.entry_keys = metadata.keys[present]
        self._domains = np.array(domains)[rows]
        self._lengths = np.array(lengths)[rows]

    def __len__(self) -> int:
        return len(self.pair_ids)

    def rows_in(self, order: str) -> np.ndarray:
        """int64[n_pairs]: the rows in this order."""
        shuffled = np.random.Generator(np.random.PCG64(SHUFFLE_SEED)).permutation(len(self))
        if order == "given":
            return np.arange(len(self))
        if order == "shuffled":
            return shuffled
        if order in ("by-domain", "by-length"):
            key = self._domains if order == "by-domain" else self._lengths
            return shuffled[np.argsort(key[shuffled], kind="stable")]
        raise UsageError(f"there is no order {order!r}: choose {', '.join(ORDERS)}")
