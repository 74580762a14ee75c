"""Deciding on batches of one partition, against the plain reference."""

from __future__ import annotations

from collections import Counter as Multiset
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from final_reference import accepted_of
from hostile_messages import Message, arrow, hostile_messages
from hypothesis import given
from hypothesis import strategies as st
from kafka_workers import EXACT, SEED, fold_records, header_of, made_metadata, made_pairs, read_batch
from strategies import ENTRIES, Row, cut, offline_subset, records_of, rows

from consumers import decision as module
from consumers.decision import DUPLICATE, FORWARDED, REJECTED, UNIQUE, Decider
from consumers.ledger import LedgerRecord
from consumers.messages import ARROW_HEADERS, MessageReader, ReadBatch, encode_json, home, position
from consumers.partition_state import PartitionState
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool
from stream_curate.pairs import validate
from stream_curate.sources import ColumnChoice
from stream_curate.table.state import Numbers

METADATA = Metadata.from_entries(ENTRIES)
N_PARTITIONS = 2


class Partition:
    """One partition, as its owner sees it."""

    def __init__(self, number: int = 0, n_partitions: int = N_PARTITIONS, metadata: Metadata = METADATA, **rule: Any):
        self.header = header_of(metadata, n_partitions=n_partitions, **rule)
        self.decider = Decider(self.header, metadata, SEED)
        self.state = PartitionState(self.header, number, len(metadata))
        self.state.next = 0
        self.records: list[LedgerRecord] = []

    def commit(self, batch: ReadBatch, next_position: int | None = None) -> tuple[Any, list[LedgerRecord]]:
        decision = self.decider.decide(batch, self.state)
        if next_position is None:
            next_position = int(batch.positions[-1]) + 1 if len(batch) else self.state.next
        records = self.decider.ledger_records(decision, self.state, next_position)
        self.state.next = next_position
        self.records += records
        return decision, records


def as_messages(stream: list[Row], first: int) -> list[Message]:
    """Each row as an Arrow message, since JSON cannot hold all of them; with holes between the offsets."""
    return [
        Message(2 * (first + k), arrow(url=pa.array([url], pa.binary()), text=pa.array([text], pa.binary())))
        for k, (url, text) in enumerate(stream)
    ]


@given(
    stream=rows(40),
    data=st.data(),
    threshold=st.integers(1, 4),
    dedup=st.sampled_from(["exact", "none"]),
    number=st.integers(0, 1),
)
def test_it_is_the_plain_rule_on_the_pairs_at_home(
    stream: list[Row], data: st.DataObject, threshold: int, dedup: Any, number: int
) -> None:
    partition = Partition(number, threshold=threshold, dedup=dedup)
    first = 0
    for part in data.draw(cut(stream)):
        decision, _ = partition.commit(read_batch(as_messages(part, first), number))
        first += len(part)
        assert len(decision.outcomes) == len(part)

    pairs, rejections = validate(records_of(stream))
    is_home = home(pairs.column("pair_id"), N_PARTITIONS) == number
    at_home = [stream[row] for row in pairs.filter(pa.array(is_home)).column("source_row").to_pylist()]
    pool = OfflinePool.read([records_of(at_home)], METADATA, dedup)
    records = partition.records
    total = Numbers()
    for record in records:
        total.add(record.numbers)
    assert total.n_unique == len(pool)
    assert total.n_duplicate == pool.n_duplicate
    assert total.n_matched == pool.n_matched
    assert total.n_forwarded == len(pairs) - len(at_home)
    assert total.rejected == dict(Multiset(str(rejection.reason) for rejection in rejections))
    assert total.n_read == len(stream)
    counts = np.zeros(len(METADATA), np.int64)
    for record in records:
        counts[record.entry_ids] += record.increments
    assert {e: int(n) for e, n in enumerate(counts) if n} == {e: n for e, n in pool.entry_counts(EXACT).items() if n}
    assert total.n_matches == counts.sum()
    assert (partition.state.view.counts == counts).all()
    admitted = [pair_id for record in records for pair_id in record.admitted.column("pair_id").to_pylist()]
    kept = offline_subset(pool, EXACT, threshold, SEED)
    assert set(admitted) >= kept
    assert fold_records([records], METADATA, threshold=threshold) == kept
    seen = np.concatenate([record.seen for record in records]) if records else np.zeros(0, np.uint64)
    if dedup == "exact":
        assert len(np.unique(seen)) == len(seen) == len(pool)
        assert len(admitted) == len(set(admitted))
    else:
        assert len(seen) == 0


@given(
    stream=rows(40),
    data=st.data(),
    threshold=st.integers(1, 4),
    dedup=st.sampled_from(["exact", "none"]),
    horizon=st.sampled_from(["known", "endless"]),
    max_bytes=st.sampled_from([-1, 300, 10**9]),
)
def test_final_decisions_are_those_of_the_reference_however_the_stream_is_cut(
    stream: list[Row], data: st.DataObject, threshold: int, dedup: Any, horizon: Any, max_bytes: int
) -> None:
    """With all of it at home, and no published counts, it is what `curate` accepts; each pair is given out once."""
    final = FinalDecisions(30, horizon)
    partition = Partition(0, 1, threshold=threshold, dedup=dedup, final=final)
    first = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_COLUMN_BYTES", max_bytes)
        for part in data.draw(cut(stream)):
            partition.commit(read_batch(as_messages(part, first)))
            first += len(part)

    pool = OfflinePool.read([records_of(stream)], METADATA, dedup)
    records = partition.records
    admitted = [pair_id for record in records for pair_id in record.admitted.column("pair_id").to_pylist()]
    assert admitted == accepted_of(pool, threshold, SEED, final)
    counts, coins = np.zeros(len(METADATA), np.int64), np.zeros(len(METADATA), np.int64)
    restored = PartitionState(partition.header, 0, len(METADATA))
    for record in records:
        assert len(record.coins) == len(record.entry_ids)
        counts[record.entry_ids] += record.increments
        coins[record.entry_ids] += record.coins
        restored.take(LedgerRecord.decode(record.encode(), "here"), "here")
    restored.finish()
    for view in (partition.state.view, restored.view):
        assert (view.counts == counts).all()
        assert (view.coins == coins).all()
        assert view.n_unique == len(pool)
    assert len(restored.seen) == len(partition.state.seen) == (len(pool) if dedup == "exact" else len(admitted))


# --- one commit in several records


def many_kinds(n: int = 400) -> ReadBatch:
    """JSON and Arrow messages with holes, strangers, duplicates and rejected ones; some were forwarded."""
    pairs = made_pairs(n)
    values = encode_json(pairs)
    rng = np.random.default_rng(5)
    messages: list[Message] = []
    offset = 3
    for k in range(0, n, 10):
        offset += int(rng.integers(1, 4))
        forwarded = [("forwarded-from", b"1")] if k % 30 == 0 else []
        part = pairs.slice(k, 10)
        if k % 20:
            value = arrow(url=part.column("url"), text=part.column("text"))
            messages.append(Message(offset, value, [*ARROW_HEADERS, *forwarded]))
        else:
            for value in values[k : k + 10]:
                messages.append(Message(offset, value, forwarded))
                offset += 1
        if k % 50 == 0:
            messages.append(Message(offset + 1, values[k]))
            messages.append(Message(offset + 2, None))
            messages.append(Message(offset + 3, b"no json"))
            offset += 3
    return read_batch(messages)


@pytest.mark.parametrize("max_bytes", [-1, 300, 1_000, 2_000])
def test_a_divided_commit_tells_the_same_in_parts_that_tile(max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = many_kinds()
    end = int(batch.positions[-1]) + 70_000
    _, (whole,) = Partition(metadata=made_metadata()).commit(batch, end)
    monkeypatch.setattr(module, "_MAX_COLUMN_BYTES", max_bytes)
    partition = Partition(metadata=made_metadata())
    decision, parts = partition.commit(batch, end)

    assert len(parts) == len(batch) if max_bytes < 0 else 1 < len(parts) < len(batch)
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[0].first, parts[-1].next) == (whole.first, whole.next) == (0, end)
    for before, after in pairwise(parts):
        assert before.next == after.first
        assert before.first < before.next
    numbers = Numbers()
    for part in parts:
        numbers.add(part.numbers)
    assert numbers == whole.numbers
    assert sum(part.n_received for part in parts) == whole.n_received > 0
    assert np.concatenate([part.seen for part in parts]).tolist() == whole.seen.tolist()
    tables = pa.Table.from_batches([part.admitted for part in parts])
    assert tables.equals(pa.Table.from_batches([whole.admitted]))
    counts, wanted = (np.zeros(5, np.int64) for _ in range(2))
    for part in parts:
        counts[part.entry_ids] += part.increments
        places = part.admitted.column("source_row").to_numpy()
        assert ((places >= part.first) & (places < part.next)).all()
        assert part.view_cut == whole.view_cut
    wanted[whole.entry_ids] += whole.increments
    assert (counts == wanted).all()
    assert max_bytes < 1_000 or all(part.nbytes <= max_bytes for part in parts)
    assert numbers.rejected == {"null_value": 8, "bad_json": 8}
    for part in parts:  # each rejection is told by the part that it lies in
        told = Multiset(str(each.reason) for each in decision.rejections if part.first <= each.source_row < part.next)
        assert part.numbers.rejected == dict(told)


def test_each_record_has_one_outcome() -> None:
    batch = many_kinds()
    decision, (record,) = Partition(metadata=made_metadata()).commit(batch)
    counted = Multiset(decision.outcomes.tolist())

    assert sum(counted.values()) == len(batch) == record.numbers.n_read
    assert counted[REJECTED] == len(decision.rejections) == record.numbers.n_rejected == 16
    assert counted[FORWARDED] == len(decision.foreign) == len(decision.homes) == record.numbers.n_forwarded
    assert counted[UNIQUE] == len(decision.base) == record.numbers.n_unique
    assert counted[DUPLICATE] == record.numbers.n_duplicate > 0
    assert set(decision.homes.tolist()) == {1}
    assert (home(decision.foreign.column("pair_id"), 2) == decision.homes).all()


def test_the_place_of_an_admitted_pair_is_its_position() -> None:
    batch = many_kinds()
    _, (record,) = Partition(metadata=made_metadata()).commit(batch)
    urls = dict(zip(batch.positions.tolist(), batch.records.urls.to_pylist(), strict=True))

    assert len(record.admitted) > 0
    for place, url in zip(*(record.admitted.column(name).to_pylist() for name in ("source_row", "url")), strict=True):
        assert urls[place] == url.encode()


def test_a_batch_of_nothing_is_one_record_that_moves_the_position() -> None:
    partition = Partition()
    _, (record,) = partition.commit(read_batch([]), position(9))

    assert (record.first, record.next, record.is_last) == (0, position(9), True)
    assert record.numbers.n_read == 0
    assert len(record.admitted) == len(record.seen) == len(record.entry_ids) == 0
    assert LedgerRecord.decode(record.encode(), "here").next == position(9)


def test_kept_columns_go_with_admitted_and_with_forwarded_pairs() -> None:
    kept = ("lang", "width")
    pairs = made_pairs(40)
    langs = ["en", None] * 20
    value = arrow(url=pairs.column("url"), text=pairs.column("text"), lang=pa.array(langs), width=pa.array(range(40)))
    batch = read_batch([Message(0, value, ARROW_HEADERS)], columns=ColumnChoice(keep=kept))
    decision, (record,) = Partition(metadata=made_metadata(), kept=kept, threshold=1_000).commit(batch)

    by_url = {url: (lang, str(k)) for k, (url, lang) in enumerate(zip(pairs["url"].to_pylist(), langs, strict=True))}
    found = decision.foreign.to_pylist() + record.admitted.to_pylist()
    assert {row["url"]: (row["lang"], row["width"]) for row in found}.items() <= by_url.items()
    assert min(len(decision.foreign), len(record.admitted)) > 5


def test_hostile_records_are_rejected_with_their_reasons(rng: np.random.Generator) -> None:
    hostile = hostile_messages(rng, 150)
    partition = Partition()
    messages = [Message(k, each.value, each.headers) for k, each in enumerate(hostile)]
    n_rejections = 0
    for batch in MessageReader("pairs", 0).read(messages):
        decision, _ = partition.commit(batch)
        n_rejections += len(decision.rejections)

    wanted = sum((each.reasons for each in hostile), Multiset())
    told: Multiset[str] = Multiset()
    for record in partition.records:
        told.update(record.numbers.rejected)
    assert told == {str(reason): n for reason, n in wanted.items()}
    assert n_rejections == wanted.total()
    assert sum(record.numbers.n_read for record in partition.records) == sum(each.n_records for each in hostile)


def test_the_view_that_was_used_stands_in_the_record() -> None:
    partition = Partition(metadata=made_metadata())
    assert partition.commit(read_batch([]), 5)[1][0].view_cut == (0, 0)
    partition.state.view.cut = (3, 900)

    assert partition.commit(read_batch([]), 6)[1][0].view_cut == (3, 900)


def test_pairs_that_come_after_the_head_is_full_are_admitted_less() -> None:
    """What came in commits before is in the view."""
    partition = Partition(0, 1, made_metadata(), threshold=5)
    shares = []
    for first in range(0, 2_000, 500):
        values = encode_json(made_pairs(500, first))
        _, (record,) = partition.commit(read_batch([Message(first + k, v) for k, v in enumerate(values)]))
        shares.append(record.numbers.n_admitted)

    assert shares[-1] < shares[0] < 100
