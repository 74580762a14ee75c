"""What a curation on Kafka must come to: read slowly from `pairs`, by the offline rule, at any cut.

A pair belongs to what lies below a cut if it stands below it in its home partition. What stands elsewhere is forwarded,
and belongs to it where it lands. This shares the decoding of messages with the workers; `audit` does not.
"""

from __future__ import annotations

import json
import re
from collections import Counter as Multiset
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from kafka_topics import read_partition

from consumers.ledger import LedgerRecord
from consumers.messages import MessageReader, home, position
from consumers.settings import KafkaSettings
from stream_curate.counting import Counter
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, draw, siphash_2_4
from stream_curate.pairs import Records
from stream_curate.table.view import TableView

EXACT = Counter("exact")


@dataclass(frozen=True)
class SettledVersion:
    """A settled version of a table, as the Delta log tells of it."""

    version: int
    threshold: int
    n_curated: int
    n_unique: int
    cut: dict[str, int]


def settled_versions(out: Path) -> list[SettledVersion]:
    """All of a table, from its log, in their order."""
    found = []
    for path in sorted((out / "_delta_log").glob("*.json")):
        if not re.fullmatch(r"\d{20}\.json", path.name):
            continue
        for line in path.read_text().splitlines():
            told = json.loads(line).get("commitInfo", {}).get("stream_curate")
            info = json.loads(told) if told else {}
            if info.get("kind") == "settle":
                settled = info["settled"]
                assert settled["version"] == int(path.stem)
                names = ("version", "threshold", "n_curated", "n_unique", "cut")
                found.append(SettledVersion(**{name: settled[name] for name in names}))
    return found


def rows_of_version(out: Path, version: int) -> list[bytes]:
    """The pair_ids of a version of the table, by time travel."""
    table = DeltaTable(str(out), version=version)
    columns = [pq.read_table(path, columns=["pair_id"]).column("pair_id") for path in table.file_uris()]
    return [pair_id for column in columns for pair_id in column.to_pylist()]


class Reference:
    """All that stands in `pairs` now, ready to be asked for the curated pairs at a cut.

    Attributes:
        pool: the distinct valid pairs at home.
        n_rejected: records of `pairs` that are no valid pair.
        n_away: valid records that are not at home.
    """

    def __init__(
        self, settings: KafkaSettings, metadata: Metadata, *, threshold: int, seed: int, counter: Counter = EXACT
    ) -> None:
        self._threshold = threshold
        self._counter = counter
        self._metadata = metadata
        self.pool = OfflinePool(metadata)
        self.n_rejected = 0
        self.n_away = 0
        self.ends = [position(0)] * settings.partitions
        topic = settings.topics.pairs
        self._sources = [f"kafka:{topic}/{partition}" for partition in range(settings.partitions)]
        positions: dict[str, np.ndarray] = {}
        for partition, source in enumerate(self._sources):
            at_home = []
            for batch in MessageReader(topic, partition).read(read_partition(settings, topic, partition)):
                pairs, rejections = batch.validate()
                self.n_rejected += len(rejections)
                self.ends[partition] = max(self.ends[partition], int(batch.positions[-1]) + 1)
                is_home = home(pairs.column("pair_id"), settings.partitions) == partition
                self.n_away += int(np.count_nonzero(~is_home))
                at_home.append(pairs.filter(pa.array(is_home)))
            if at_home:
                table = pa.Table.from_batches(at_home)
                url, text = (table.column(name).combine_chunks().cast(pa.binary()) for name in ("url", "text"))
                self.pool.add(Records(source, 0, url, text))
                positions[source] = table.column("source_row").to_numpy()
        where = [self.pool.where(index) for index in range(len(self.pool))]
        numbers = {source: number for number, source in enumerate(self._sources)}
        self._partition = np.array([numbers[source] for source, _ in where], np.int64)
        self._position = np.array([positions[source][row] for source, row in where], np.int64)
        self._entry_ids = np.array([e for i in range(len(self.pool)) for e in self.pool.matched(i)], np.int64)
        self._n_matches = np.array([len(self.pool.matched(i)) for i in range(len(self.pool))], np.int64)
        self._draws = self._all_draws(seed.to_bytes(16, "little"))

    def kept(self, cut: Mapping[str, int] | None = None, threshold: int | None = None) -> set[bytes]:
        """The pair_ids that the offline rule keeps of what lies below a cut; without one, of all."""
        below = self._below(cut)
        threshold = threshold if threshold is not None else self._threshold
        owner = np.repeat(np.arange(len(below)), self._n_matches)
        counts = np.bincount(self._entry_ids[below[owner]], minlength=len(self._metadata))
        if self._counter != EXACT:
            part = self.pool.take(np.flatnonzero(below).tolist())
            for entry_id, count in part.entry_counts(self._counter).items():
                counts[entry_id] = count
        is_met = self._draws * counts[self._entry_ids] < threshold
        is_kept = below & (np.bincount(owner, is_met, len(below)) > 0)
        return {self.pool.pair_ids[index] for index in np.flatnonzero(is_kept)}

    def n_unique(self, cut: Mapping[str, int] | None = None) -> int:
        """Distinct valid pairs below a cut."""
        return int(np.count_nonzero(self._below(cut)))

    def indices(self, partition: int, first: int, next_position: int) -> list[int]:
        """Where in the pool the pairs of a range of a partition are, in their order."""
        is_there = (self._partition == partition) & (self._position >= first) & (self._position < next_position)
        return [int(index) for index in np.flatnonzero(is_there)]

    def digest(self, cut: Mapping[str, int] | None = None) -> str:
        """Of what is kept."""
        return digest(self.kept(cut))

    def check_versions(self, out: Path) -> list[SettledVersion]:
        """Hold every settled version of a table that can still be read against the rule at its cut; returns them."""
        versions = settled_versions(out)
        cuts = [tuple(each.cut.get(source, 0) for source in self._sources) for each in versions]
        for each, before, cut in zip(versions[1:], cuts, cuts[1:], strict=False):
            assert all(a <= b for a, b in zip(before, cut, strict=True)), f"version {each.version} has a lower cut"
        for each in versions:
            rows = rows_of_version(out, each.version)
            found, wanted = set(rows), self.kept(each.cut, each.threshold)
            where = f"settled version {each.version} of {len(rows)} rows at {each.cut}"
            assert len(rows) == len(found), f"{where}: {len(rows) - len(found)} rows stand there twice"
            assert not found - wanted, f"{where}: offline does not keep {len(found - wanted)} of them"
            assert not wanted - found, f"{where}: {len(wanted - found)} that offline keeps are missing"
            assert each.n_curated == len(rows), f"{where}: it tells of {each.n_curated}"
            assert each.n_unique == self.n_unique(each.cut), f"{where}: it tells of {each.n_unique} unique pairs"
        return versions

    def check_whole(self, out: Path, pair_ids: set[bytes]) -> None:
        """The newest version is settled, holds exactly what is to be kept of all that was sent, and each row once."""
        missing = pair_ids - set(self.pool.pair_ids)
        assert not missing, f"{len(missing)} of the pairs that were sent are in no home partition"
        assert pair_ids == set(self.pool.pair_ids)
        view = TableView(out)
        cut = view.settled.cut
        short = {source: end - cut[source] for source, end in zip(self._sources, self.ends, strict=True)}
        assert all(lag <= 0 for lag in short.values()), f"the settled cut does not reach the end: {short}"
        assert view.n_pending == 0
        assert view.state.numbers.n_unique == len(self.pool)
        assert view.state.numbers.n_rejected == self.n_rejected
        assert view.state.numbers.n_forwarded == self.n_away
        rows = rows_of_version(out, DeltaTable(str(out)).version())
        assert len(rows) == len(set(rows))
        assert view.digest() == digest(rows) == self.digest()

    def _below(self, cut: Mapping[str, int] | None) -> np.ndarray:
        if cut is None:
            return np.ones(len(self.pool), bool)
        return self._position < np.array([cut.get(source, 0) for source in self._sources])[self._partition]

    def _all_draws(self, key: bytes) -> np.ndarray:
        """One draw for each pair and matched entry, by the functions of the reference."""
        draws = []
        for index, pair_id in enumerate(self.pool.pair_ids):
            base = siphash_2_4(key, pair_id)
            draws += [draw(base, self._metadata.entry(entry_id)) for entry_id in self.pool.matched(index)]
        return np.array(draws, np.float64)


def read_ledger(settings: KafkaSettings) -> list[list[LedgerRecord]]:
    """The committed records of each partition of the ledger."""
    topic = settings.topics.ledger
    return [
        [
            LedgerRecord.decode(record.value, f"{topic}/{partition}")
            for record in read_partition(settings, topic, partition)
        ]
        for partition in range(settings.partitions)
    ]


def check_ledger(settings: KafkaSettings) -> list[list[LedgerRecord]]:
    """Ranges tile, each commit is whole, and no pair is seen or admitted twice; returns the records."""
    ledger = read_ledger(settings)
    for partition, records in enumerate(ledger):
        check_tiles(partition, records)
        seen = np.concatenate([record.seen for record in records]) if records else np.zeros(0, np.uint64)
        assert len(np.unique(seen)) == len(seen), f"partition {partition}: a pair is new twice"
    admitted = Multiset(
        pair_id for records in ledger for record in records for pair_id in record.admitted.column("pair_id").to_pylist()
    )
    assert max(admitted.values(), default=1) == 1, "a pair is admitted twice"
    return ledger


def check_tiles(partition: int, records: Sequence[LedgerRecord]) -> None:
    """Each range begins where the one before ends, and the last record is the last of its commit."""
    for before, after in pairwise(records):
        assert after.first == before.next, f"partition {partition}: [{before.first}, {before.next}) then {after.first}"
        assert after.next >= after.first
    if records:
        assert records[0].first == 0
        assert records[-1].is_last, f"partition {partition} ends with half a commit"
