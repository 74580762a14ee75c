"""What a settle asks of the rule: which rows stay, and whether anybody has to look at them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from stream_curate.balance import EVICTED, Guard
from stream_curate.counting import Counter
from stream_curate.metadata import Metadata
from stream_curate.rule import Dedup, Rule
from stream_curate.settling import SettlingOutlook

METADATA = Metadata.from_entries(["dog", "cat"])


def outlook_at(counts: list[int], dedup: Dedup = "exact", threshold: int = 5) -> SettlingOutlook:
    rule = Rule.of(METADATA, threshold=threshold, seed=7, counter=Counter("exact"), dedup=dedup)
    return SettlingOutlook(rule, 7, METADATA.keys, np.array(counts))


def batch_of(*names: str) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "pair_id": pa.array([name.encode().ljust(16) for name in names], pa.binary()),
            "entry_ids": pa.array([[0]] * len(names), pa.list_(pa.int32())),
        }
    )


ROWS = batch_of(*(f"pair {i}" for i in range(50)))


def test_what_stays_at_later_counts_need_not_be_looked_at() -> None:
    found = outlook_at([10, 0]).of(ROWS)
    stays = found.classes != EVICTED
    assert 0 < stays.sum() < len(stays)
    guard = Guard.of(found.witnesses[stays], found.draws[stays])
    assert outlook_at([10, 99]).keeps_all(guard)
    assert not outlook_at([10, 99]).keeps_all(None), "nothing is known of such rows"
    assert not outlook_at([30, 0]).keeps_all(guard)
    assert (outlook_at([30, 0]).of(ROWS).classes[stays] == EVICTED).any()


def test_below_the_threshold_nothing_goes_and_nobody_looks() -> None:
    assert outlook_at([5, 5]).keeps_all(None)
    assert (outlook_at([5, 5]).of(ROWS).classes != EVICTED).all()


def test_without_dedup_a_pair_stays_once_and_every_row_is_looked_at() -> None:
    assert not outlook_at([5, 5]).is_ordered
    outlook = outlook_at([5, 5], dedup="none")
    assert outlook.is_ordered, "what comes twice depends on what came before"
    assert not outlook.keeps_all(Guard.of(np.zeros(0, np.int32), np.zeros(0)))
    twice = batch_of("one", "two", "one")
    assert (outlook.as_it_looks(twice).classes != EVICTED).tolist() == [True, True, True]
    assert (outlook.of(twice).classes != EVICTED).tolist() == [True, True, False]
    assert (outlook.of(twice).classes != EVICTED).tolist() == [False, False, False]


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_a_guess_says_what_the_rule_says(dedup: Dedup) -> None:
    outlook = outlook_at([10, 0], dedup)
    assert outlook.as_it_looks(ROWS).classes.tolist() == outlook.of(ROWS).classes.tolist()
