"""What an audit says of final decisions: nothing of right ones, and every kind of wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hostile_messages import Message
from kafka_workers import SEED, header_of, made_metadata, made_pairs, read_batch

from consumers.audit_final import FinalRecount, compare_topic
from consumers.audit_forwards import Forwards
from consumers.audit_ledger import LedgerRange, read_range
from consumers.audit_recount import Recount
from consumers.audit_report import AuditReport, CheckName
from consumers.decision import Decider
from consumers.messages import encode_json, position
from consumers.partition_state import PartitionState
from consumers.published_counts import PublishedCounts
from stream_curate.final_rule import FinalDecisions, Horizon
from stream_curate.rule import Dedup

METADATA = made_metadata()
FINAL = FinalDecisions(400)
N_COMMITS = 10


def problems_of(
    change: Callable[[LedgerRange], LedgerRange] = lambda record: record,
    *,
    seed: int | None = SEED,
    dedup: Dedup = "exact",
    horizon: Horizon = "endless",
) -> list[str]:
    """What is found in a ledger of which the sixth record was changed; views are of the commits before the fourth."""
    final = replace(FINAL, horizon=horizon)
    header = header_of(METADATA, n_partitions=1, final=final, dedup=dedup, threshold=4)
    decider = Decider(header, METADATA, SEED)
    state = PartitionState(header, 0, len(METADATA))
    state.next = 0
    recount = Recount("pairs", METADATA, header.rule, 1, seed, Forwards("pairs", 1))
    decisions = FinalRecount(recount, 1, header.rule.threshold, final)
    report = AuditReport("final")
    for k in range(N_COMMITS):
        if k == 4:
            view = state.view
            state.view.rebase(PublishedCounts(header, (state.next,), view.n_unique, view.counts, view.coins))
        first = 20 * (k // 2) if dedup == "none" else 20 * k  # without dedup, pairs come twice
        values = encode_json(made_pairs(20, first))
        batch = read_batch([Message(20 * k + i, value) for i, value in enumerate(values)])
        (record,) = decider.ledger_records(decider.decide(batch, state), state, position(20 * k + 20))
        state.next = record.next
        read = read_range(record.encode(), f"record {k}", k)
        outcome = recount.read(0, [batch], {})
        decisions.take(0, change(read) if k == 5 else read, outcome.pairs)
    decisions.compare(report)
    assert report.checks[CheckName.DECISIONS].n_compared == (20 * N_COMMITS if seed is not None else 0)
    assert decisions.below((state.next,)).n_unique == 20 * N_COMMITS
    return [words for _, words in report.problems]


@pytest.mark.parametrize("dedup", ["exact", "none"])
@pytest.mark.parametrize("horizon", ["known", "endless"])
def test_right_decisions_are_clean(dedup: Dedup, horizon: Horizon) -> None:
    assert not problems_of(dedup=dedup, horizon=horizon)


def test_a_pair_that_was_not_accepted_is_found() -> None:
    (words,) = problems_of(lambda record: replace(record, admitted=record.admitted.slice(1)))
    assert words.startswith("record 5: pairs, partition 0, offset ")
    assert "was dropped, and with what its view knew the rule accepts it" in words


def test_a_pair_that_was_accepted_without_a_coin_is_found() -> None:
    def with_another(record: LedgerRange) -> LedgerRange:
        ids = set(made_pairs(20, 100).column("pair_id").to_pylist()) - set(
            record.admitted.column("pair_id").to_pylist()
        )
        rows = record.admitted.to_pylist()
        rows.append(rows[0] | {"pair_id": min(ids)})
        return replace(record, admitted=pa.RecordBatch.from_pylist(rows, record.admitted.schema))

    (words,) = problems_of(with_another)
    assert "was accepted, and with what its view knew the rule drops it" in words


def test_wrong_coins_are_found_once() -> None:
    def with_more_coins(record: LedgerRange) -> LedgerRange:
        return replace(record, coins=record.coins + (record.coins == record.coins.max()))

    found = problems_of(with_more_coins)
    assert any(words.startswith("record 5: the coins won by entry ") for words in found)


def test_a_view_with_more_than_it_says_is_found() -> None:
    assert problems_of(lambda record: replace(record, view_cut=(0,))) == []  # it is all of one partition
    assert problems_of(lambda record: replace(record, increments=record.increments + 30, coins=record.coins))


def test_without_the_seed_nothing_is_said() -> None:
    assert not problems_of(lambda record: replace(record, admitted=record.admitted.slice(1)), seed=None)


# --- the topic

IDS = [bytes([k]) * 16 for k in range(6)]


def problems_on_topic(
    read: list[bytes], *, n_at_least: int = 6, n_at_most: int | None = None, begins_at: int = 0
) -> tuple[list[str], list[str]]:
    report = AuditReport("final")
    at_most = len(read) if n_at_most is None else n_at_most
    compare_topic(report, "accepted, partition 0", IDS, n_at_least, read, at_most, begins_at=begins_at)
    assert report.checks[CheckName.ACCEPTED].n_compared == len(read)
    return [words for _, words in report.problems], report.beyond_checking


def test_a_topic_with_the_accepted_pairs_is_clean() -> None:
    assert problems_on_topic(IDS) == ([], [])
    assert problems_on_topic(IDS[:4], n_at_least=4) == ([], [])  # the rest came while it was read
    assert problems_on_topic([*IDS, b"x" * 16], n_at_most=6) == ([], [])


def test_what_retention_has_removed_is_told_and_no_problem() -> None:
    assert problems_on_topic(IDS[2:], begins_at=9) == (
        [],
        ["accepted, partition 0: 2 accepted pairs that retention has removed"],
    )
    assert problems_on_topic([], begins_at=9)[0] == []
    assert problems_on_topic([*IDS[2:4], IDS[5]], begins_at=9)[0]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (IDS[:5], f"the accepted pair {IDS[5].hex()} is missing"),
        ([*IDS, IDS[5]], f"the pair {IDS[5].hex()} is one more than the ledger has accepted"),
        ([*IDS[:3], IDS[2], *IDS[3:]], f"pair 3 is {IDS[2].hex()}, where the ledger has accepted {IDS[3].hex()}"),
        ([IDS[1], IDS[0], *IDS[2:]], f"pair 0 is {IDS[1].hex()}"),
    ],
)
def test_a_topic_with_anything_else_is_told(read: list[bytes], words: str) -> None:
    (found,), _ = problems_on_topic(read)
    assert words in found


def test_coins_of_unknown_entries_do_no_harm() -> None:
    def with_strange_entry(record: LedgerRange) -> LedgerRange:
        return replace(
            record,
            entry_ids=np.append(record.entry_ids, 99),
            increments=np.append(record.increments, 1),
            coins=np.append(record.coins, 1),
        )

    assert not problems_of(with_strange_entry)
