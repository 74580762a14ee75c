"""Final decisions on Kafka, looked at plainly: what was accepted, and each decision made again by the reference.

Every record of the ledger names the cut that it was decided with, and what lies below a cut stands in the ledger, so
that all of it can be decided again, pair by pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from final_reference import Reference as Rule
from kafka_reference import Reference, check_ledger
from kafka_topics import read_partition

from consumers.ledger import LedgerRecord
from consumers.messages import MessageReader
from consumers.settings import AllSettings, KafkaSettings
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.offline import draw, siphash_2_4

Cut = tuple[int, ...]


@dataclass
class Sums:
    """Counts, coins and the number of pairs of some records of the ledger."""

    counts: np.ndarray
    coins: np.ndarray
    n_unique: int = 0

    def add(self, record: LedgerRecord) -> None:
        self.counts[record.entry_ids] += record.increments
        self.coins[record.entry_ids] += record.coins
        self.n_unique += record.numbers.n_unique


def accepted_in_ledger(settings: KafkaSettings) -> list[list[bytes]]:
    """The pair_ids accepted by each partition, in their order."""
    return [accepted_by(records) for records in check_ledger(settings)]


def accepted_by(records: Sequence[LedgerRecord]) -> list[bytes]:
    return [pair_id for record in records for pair_id in record.admitted.column("pair_id").to_pylist()]


def accepted_on_topic(settings: KafkaSettings) -> list[list[bytes]]:
    """The pair_ids that whoever follows the topic has read, partition by partition, in their order."""
    topic = settings.topics.accepted
    found: list[list[bytes]] = []
    for partition in range(settings.partitions):
        found.append([])
        for batch in MessageReader(topic, partition).read(read_partition(settings, topic, partition)):
            pairs, rejections = batch.validate()
            assert not rejections
            found[-1] += pairs.column("pair_id").to_pylist()
    return found


def check_decisions(settings: AllSettings, metadata: Metadata, seed: int) -> set[Cut]:
    """Hold each decision of the ledger against the reference; returns the cuts of the views."""
    final = settings.final_decisions
    assert final is not None
    ledger = check_ledger(settings.kafka)
    pool = Reference(settings.kafka, metadata, threshold=settings.threshold, seed=seed)
    cuts = {record.view_cut for records in ledger for record in records}
    below = {cut: _below(ledger, cut, len(metadata)) for cut in cuts}
    for partition, records in enumerate(ledger):
        for number, record in enumerate(records):
            sums = Sums(below[record.view_cut].counts.copy(), below[record.view_cut].coins.copy())
            sums.n_unique = below[record.view_cut].n_unique
            for own in records[:number]:
                if own.first >= record.view_cut[partition]:
                    sums.add(own)
            _check_record(record, pool, sums, final, settings.threshold, metadata, seed)
    return cuts


def _below(ledger: Sequence[Sequence[LedgerRecord]], cut: Cut, n_entries: int) -> Sums:
    sums = Sums(np.zeros(n_entries, np.int64), np.zeros(n_entries, np.int64))
    for partition, records in enumerate(ledger):
        for record in records:
            if record.next <= cut[partition]:
                sums.add(record)
    return sums


def _check_record(
    record: LedgerRecord,
    reference: Reference,
    sums: Sums,
    final: FinalDecisions,
    threshold: int,
    metadata: Metadata,
    seed: int,
) -> None:
    indices = reference.indices(record.partition, record.first, record.next)
    pool, key = reference.pool, seed.to_bytes(16, "little")
    counts, coins = (dict(enumerate(values.tolist())) for values in (sums.counts, sums.coins))
    rule = Rule(threshold, final, sums.n_unique, counts, coins)
    bases = [siphash_2_4(key, pool.pair_ids[index]) for index in indices]
    matched = [pool.matched(index) for index in indices]
    decided = list(rule.decide(matched, lambda i, e: draw(bases[i], metadata.entry(e))))
    where = f"partition {record.partition}, [{record.first}, {record.next})"
    wanted = [pool.pair_ids[index] for index, is_accepted in zip(indices, decided, strict=True) if is_accepted]
    assert accepted_by([record]) == wanted, where
    sums.add(record)
    assert sums.n_unique == rule.n, where
    assert {e: n for e, n in enumerate(sums.counts.tolist()) if n} == {e: n for e, n in rule.counts.items() if n}, where
    assert {e: n for e, n in enumerate(sums.coins.tolist()) if n} == {e: n for e, n in rule.coins.items() if n}, where
