"""The checker is checked: faults planted in the settler; see `test_planted_faults.py`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deltalake import CommitProperties
from kafka_scenarios import Bench, bench_of, finding, killed_settler, lost_table, settled_often, stalled_settler

from consumers.clients import make_producer
from consumers.ledger import LedgerRecord
from consumers.published_counts import PublishedCounts
from consumers.settings import KafkaSettings
from consumers.settler import _Settler
from consumers.settler_fold import Fold
from stream_curate.errors import OutputError
from stream_curate.table.delta import DeltaLog

# the same at each run: that other input shows no trace of a fault would be no news
INPUT_SEED = 7

pytestmark = [pytest.mark.slow, pytest.mark.timeout(45)]


@pytest.fixture
def bench(kafka: Callable[..., KafkaSettings], tmp_path: Path) -> Iterator[Bench]:
    with bench_of(kafka, tmp_path, INPUT_SEED) as bench:
        yield bench


# --- cuts


def test_every_settled_version_is_as_offline_has_it(bench: Bench) -> None:
    settled_often(bench)


def test_a_cut_inside_of_a_commit_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def each_for_itself(value: bytes, where: str) -> LedgerRecord:
        return replace(LedgerRecord.decode(value, where), is_last=True)

    monkeypatch.setattr("consumers.settler_ledger.LedgerRecord", SimpleNamespace(decode=each_for_itself))
    with finding("audit, settled cuts: .* is no end of a commit in the ledger"):
        settled_often(bench)


def test_a_lost_table_is_made_anew(bench: Bench) -> None:
    lost_table(bench)


def test_a_settle_below_the_published_cut_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fold.__init__

    def nothing_published(self: Fold, table: Any, topics: Any, rule: Any, published: PublishedCounts | None) -> None:
        made(self, table, topics, rule, None)

    monkeypatch.setattr(Fold, "__init__", nothing_published)
    with finding(r"plain, settled: version \d+ at .*, below the published"):
        lost_table(bench)


def test_a_settle_below_the_view_of_its_records_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fold, "_need", lambda self, cut: None)
    with finding(
        "plain, settled: .* that offline keeps are missing",
        "audit, admitted pairs: .* the rule keeps it at the cut of .*, and the ledger has not admitted it",
        "audit, settled cuts: .* is below the view cut",
    ):
        lost_table(bench)


# --- the order of commit and counts


@pytest.mark.parametrize(
    "step", ["fold.commit_folded", "checkpoint.files_moved", "settle.files_moved", "settle.committed", "publish.sent"]
)
def test_a_settler_that_is_killed_does_no_harm(bench: Bench, step: str) -> None:
    killed_settler(bench, step)


def test_counts_published_before_the_delta_commit_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = _Settler._settle

    def published_first(self: _Settler, fold: Fold, why: str) -> bool:
        counts = fold._counts.estimates(np.arange(len(self._metadata), dtype=np.int32))
        self._publisher.publish(PublishedCounts(self._rule.header, fold.frontier, fold.numbers.n_unique, counts))
        return settle(self, fold, why)

    monkeypatch.setattr(_Settler, "_settle", published_first)
    with finding("plain, counts: .* no settled version holds", "audit, published counts: .* no settled version"):
        killed_settler(bench, "settle.files_moved")


# --- two settlers


@pytest.mark.parametrize("step", ["fold.begin", "checkpoint.files_moved", "settle.files_moved", "publish.begin"])
def test_a_stalled_settler_does_no_harm(bench: Bench, step: str) -> None:
    stalled_settler(bench, step)


def test_retries_of_deltalake_alone_do_no_harm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits carry numbers of the same application, and of two at once deltalake then refuses the later one."""

    def with_retries(**options: Any) -> CommitProperties:
        return CommitProperties(**options | {"max_commit_retries": 15})

    monkeypatch.setattr("stream_curate.table.delta.CommitProperties", with_retries)
    stalled_settler(bench, "checkpoint.files_moved")


def test_commit_retries_on_delta_are_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = DeltaLog.commit

    def with_retry(self: DeltaLog, *args: Any, **named: Any) -> None:
        try:
            commit(self, *args, **named)
        except OutputError:  # it has opened the newest version, whoever made that
            commit(self, *args, **named)

    monkeypatch.setattr(DeltaLog, "commit", with_retry)
    with finding("plain, rows: .* stand there twice", "audit, curated table: .* stands in it twice"):
        stalled_settler(bench, "checkpoint.files_moved")


def test_a_transactional_id_for_each_settler_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_its_own(settings: KafkaSettings, *, transactional_id: str) -> Any:
        return make_producer(settings, transactional_id=f"{transactional_id}-{secrets.token_hex(4)}")

    monkeypatch.setattr("consumers.settler_publisher.make_producer", of_its_own)
    with finding("plain, counts: those at .* were published after those at"):
        stalled_settler(bench, "publish.begin")
