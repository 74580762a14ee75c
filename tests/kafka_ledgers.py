"""A model of the workers: one process that writes to the ledger what they would, made of the plain pieces.

It decides pair by pair, from a dict of counts, with the automaton and the reference's draws. Each row is one message of
its partition, so that row i stands at position(i); the rows are put into their home partitions beforehand.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka_transactions import end_transaction
from rig import ENTRIES

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.ledger import LedgerRecord, RuleHeader, admitted_schema
from consumers.messages import home, offset_and_row, position
from consumers.published_counts import CountsReader, PublishedCounts
from consumers.settings import AllSettings, KafkaSettings
from stream_curate.counting import Counter, empty_counts
from stream_curate.draws import bases
from stream_curate.matching.automaton import AutomatonMatcher
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, draw
from stream_curate.pairs import PAIR_ID, Records, validate
from stream_curate.rule import Dedup, Rule
from stream_curate.table.state import Numbers

Row = tuple[bytes | None, bytes | None]

TEXTS = [b"a dog in the park", b"hot dog , red", b"nothing", b"a blue cat", b"a zebra", b"", b"\xff", b"a a a"]


def many_rows(n_rows: int, first: int = 0) -> list[Row]:
    """Matched, unmatched, repeated and invalid rows."""
    return [
        (b"ftp://x.org/1" if i % 17 == 3 else b"http://x.org/%d" % (i % 113), TEXTS[i * i // 3 % len(TEXTS)])
        for i in range(first, first + n_rows)
    ]


@dataclass
class Curation:
    """One curation on Kafka: settings, and the rows of each partition, to which more can be added."""

    kafka: KafkaSettings
    folder: Path
    threshold: int = 3
    seed: int = 7
    counter: Counter = field(default_factory=lambda: Counter("exact"))
    dedup: Dedup = "exact"
    pace: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metadata = Metadata.from_entries(ENTRIES)
        self.rows: list[list[Row]] = [[] for _ in range(self.kafka.partitions)]

    @property
    def settings(self) -> AllSettings:
        """As the settler has them."""
        entries = self.folder / "entries.txt"
        entries.write_text("".join(f"{entry}\n" for entry in ENTRIES))
        sizes = {"num_hashes": self.counter.num_hashes, "num_buckets": self.counter.num_buckets}
        usual: dict[str, Any] = {"checkpoint_interval_s": 0.0, "first_settle_records": 10**9}
        return AllSettings(
            metadata=entries,
            threshold=self.threshold,
            seed=str(self.seed),
            counter=self.counter.kind,
            count_min=sizes if self.counter.kind == "count-min" else {},
            dedup=self.dedup,
            kafka=self.kafka.model_dump(),
            **(usual | self.pace),
        )

    @property
    def header(self) -> RuleHeader:
        rule = Rule.of(self.metadata, threshold=self.threshold, seed=self.seed, counter=self.counter, dedup=self.dedup)
        return RuleHeader(rule, self.kafka.partitions)

    def produce(self, rows: Sequence[Row]) -> None:
        """Put rows into `pairs`; what is no valid pair goes to partition 0. Only the offsets of the messages count."""
        producer = make_producer(self.kafka)
        for url, text in rows:
            pairs, _ = validate(Records("", 0, pa.array([url], pa.binary()), pa.array([text], pa.binary())))
            ids = pairs.column("pair_id").cast(PAIR_ID)
            partition = int(home(ids, len(self.rows))[0]) if len(ids) else 0
            self.rows[partition].append((url, text))
            producer.send(self.kafka.topics.pairs, b"{}", partition=partition)
        producer.flush(timeout=20)
        assert end_producer(producer)

    def offline_digest(self, cut: Sequence[int] | None = None, threshold: int | None = None) -> str:
        """What the table must come to at this cut, by the plain reference; of all rows if there is none."""
        pool = OfflinePool(self.metadata, self.dedup)
        for partition, rows in enumerate(self.rows):
            n_rows = len(rows) if cut is None else offset_and_row(cut[partition])[0]
            if n_rows:
                pool.add(_records(f"{partition}", 0, rows[:n_rows]))
        kept = pool.kept(pool.entry_counts(self.counter), threshold or self.threshold, self.seed)
        return digest(pool.pair_ids[index] for index in kept)


class ModelWorkers:
    """Writes the ledger of all partitions of a curation, commit by commit."""

    def __init__(self, curation: Curation) -> None:
        self.curation = curation
        self.header = curation.header
        self.view: PublishedCounts | None = None
        self.positions = [0] * curation.kafka.partitions
        """Of each partition, the rows worked on."""
        self._seen: list[set[bytes]] = [set() for _ in self.positions]
        self._own: list[list[tuple[int, Multiset[int]]]] = [[] for _ in self.positions]
        self._matcher = AutomatonMatcher(curation.metadata.entries)
        ledger = curation.kafka.topics.ledger
        self._producer = make_producer(curation.kafka, transactional_id=f"{ledger}-model")
        self._producer.init_transactions()

    def work_on_all(self, n_rows: int = 20, n_records: int = 2) -> None:
        """Commit for all partitions in turn, until nothing is left."""
        while any(len(rows) > at for rows, at in zip(self.curation.rows, self.positions, strict=True)):
            for partition in range(len(self.positions)):
                if len(self.curation.rows[partition]) > self.positions[partition]:
                    self.commit(partition, n_rows, n_records)

    def commit(self, partition: int, n_rows: int, n_records: int = 1) -> None:
        """One commit of the next rows of a partition, in so many records."""
        self.send(self.records(partition, n_rows, n_records))

    def records(self, partition: int, n_rows: int, n_records: int = 1) -> list[LedgerRecord]:
        """What a commit of the next rows says."""
        start = self.positions[partition]
        stop = min(start + n_rows, len(self.curation.rows[partition]))
        ends = np.linspace(start, stop, n_records + 1).astype(int).tolist()
        self.positions[partition] = stop
        made = [self._record(partition, first, last) for first, last in pairwise(ends)]
        return [replace(record, is_last=record is made[-1]) for record in made]

    def send(self, records: Sequence[LedgerRecord], *, commits: bool = True) -> None:
        """One transaction with these records."""
        producer = self._producer
        producer.begin_transaction()
        for record in records:
            producer.send(self.curation.kafka.topics.ledger, record.encode(), partition=record.partition)
        producer.flush(timeout=20)
        end_transaction(producer, self.curation.kafka, commits=commits)

    def look_at_counts(self) -> PublishedCounts | None:
        """Decide with what is published now."""
        self.view = published_counts(self.curation.kafka)
        return self.view

    def close(self) -> None:
        assert end_producer(self._producer)

    def _record(self, partition: int, start: int, stop: int) -> LedgerRecord:
        curation = self.curation
        rows = curation.rows[partition][start:stop]
        cut = self.view.cut if self.view is not None else (0,) * len(self.positions)
        known = Multiset[int]()
        if self.view is not None:
            known.update(dict(enumerate(self.view.entry_counts.tolist())))
        for first, increments in self._own[partition]:
            if position(first) >= cut[partition]:
                known.update(increments)
        pairs, rejections = validate(_records("", start, rows)) if rows else (None, [])
        numbers = Numbers(rejected=dict(Multiset(each.reason.value for each in rejections)))
        increments: Multiset[int] = Multiset()
        seen: list[int] = []
        admitted: list[dict[str, Any]] = []
        if pairs is not None and len(pairs):
            matches = self._matcher.match(pairs.column("text"))
            base = bases(pairs.column("pair_id"), curation.seed).tolist()
            for i, row in enumerate(pairs.to_pylist()):
                if curation.dedup == "exact":
                    if row["pair_id"] in self._seen[partition]:
                        numbers.n_duplicate += 1
                        continue
                    self._seen[partition].add(row["pair_id"])
                    seen.append(base[i])
                entry_ids = matches.entry_ids[matches.offsets[i] : matches.offsets[i + 1]].tolist()
                numbers.n_unique += 1
                numbers.n_matched += bool(entry_ids)
                increments.update(entry_ids)
                threshold = self.header.rule.threshold
                if any(
                    draw(base[i], curation.metadata.entry(e)) * (known[e] + increments[e]) < threshold
                    for e in entry_ids
                ):
                    admitted.append(row | {"entry_ids": entry_ids, "source_row": position(row["source_row"])})
        numbers.n_matches = increments.total()
        numbers.n_admitted = len(admitted)
        self._own[partition].append((start, increments))
        schema = admitted_schema(())
        return LedgerRecord(
            header=self.header,
            partition=partition,
            first=position(start),
            next=position(stop),
            is_last=True,
            view_cut=cut,
            numbers=numbers,
            n_received=0,
            entry_ids=np.array(list(increments), np.int32),
            increments=np.array(list(increments.values()), np.int64),
            seen=np.array(seen, np.uint64),
            admitted=pa.RecordBatch.from_pylist(
                [{name: row.get(name) for name in schema.names} for row in admitted], schema
            ),
        )


def published_counts(kafka: KafkaSettings) -> PublishedCounts | None:
    """What stands in `counts` now."""
    consumer = make_consumer(kafka)
    try:
        return CountsReader(consumer, kafka).newest()
    finally:
        consumer.close()


def estimates_at(curation: Curation, cut: Sequence[int]) -> np.ndarray:
    """int64[n_entries]: the counts at a cut as this counter has them, from the plain reference's matches."""
    pool = OfflinePool(curation.metadata, curation.dedup)
    for partition, rows in enumerate(curation.rows):
        if n_rows := offset_and_row(cut[partition])[0]:
            pool.add(_records(f"{partition}", 0, rows[:n_rows]))
    true_counts = pool.entry_counts(Counter("exact"))
    counts = empty_counts(curation.counter, len(curation.metadata))
    if true_counts:
        counts.add(np.array(list(true_counts), np.int32), np.array(list(true_counts.values()), np.int64))
    return counts.estimates(np.arange(len(curation.metadata), dtype=np.int32))


def _records(source: str, start: int, rows: Sequence[Row]) -> Records:
    urls, texts = (pa.array([row[i] for row in rows], pa.binary()) for i in (0, 1))
    return Records(source, start, urls, texts)
