"""Each metric tells what deploy/metrics.md says of it, and there are no others."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from consumers.metrics import SETTLER_STAGES, WORKER_STAGES, SettlerMetrics, WorkerMetrics
from stream_curate.reasons import DROPPED, REJECTED
from stream_curate.table.state import Numbers

DOCUMENT = Path(__file__).parents[2] / "deploy" / "metrics.md"

Kinds = dict[str, tuple[str, set[str]]]


def documented(role: str) -> Kinds:
    """Type and labels of each metric of a role."""
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0].startswith("`stream_curate_") and cells[4] in (role, "both"):
            found[cells[0].strip("`")] = (cells[1], set(re.findall(r"`(\w+)`", cells[3])))
    return found


def told(metrics: WorkerMetrics | SettlerMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The value of each sample, by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def value(metrics: WorkerMetrics | SettlerMetrics, name: str, **labels: str) -> float:
    return told(metrics)[f"stream_curate_{name}", tuple(sorted(labels.items()))]


def used_worker() -> WorkerMetrics:
    metrics = WorkerMetrics()
    numbers = Numbers(n_unique=10, n_duplicate=2, n_matched=7, n_matches=21, n_admitted=4, n_forwarded=3)
    numbers.rejected = {"bad_json": 5}
    metrics.committed(numbers, 0.02)
    metrics.commit_failed()
    metrics.rebalanced()
    metrics.show_seen(10)
    metrics.show_partitions(lags={0: 5, 3: 6}, progress_s={0: 1e9, 3: 2e9}, n_stalled=1, n_ready=2, n_owned=3)
    return metrics


def used_settler() -> SettlerMetrics:
    metrics = SettlerMetrics()
    metrics.committed(0.5)
    metrics.folded(100.0)
    metrics.show_cut(90.0)
    metrics.settled(2.0, n_evicted=15, n_curated=60)
    metrics.show_settled(60, np.array([5, 20, 21, 54], np.int64), 20, 0.25)
    metrics.show_lags({0: 1, 1: 2})
    return metrics


@pytest.mark.parametrize(("role", "made"), [("worker", used_worker), ("settler", used_settler)])
def test_the_document_lists_exactly_what_there_is(role: str, made: type[WorkerMetrics] | type[SettlerMetrics]) -> None:
    found: Kinds = {}
    for family in text_string_to_metric_families(made().text().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith("stream_curate_"):
            assert family.samples, name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (family.type, labels)
    assert found == documented(role)


@pytest.mark.parametrize(("role", "stages"), [("worker", WORKER_STAGES), ("settler", SETTLER_STAGES)])
def test_the_document_names_the_stages(role: str, stages: tuple[str, ...]) -> None:
    (line,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `stream_curate_stage_seconds")]
    assert ", ".join(f"`{stage}`" for stage in stages) in line


def test_a_commit_is_counted_by_what_became_of_its_records() -> None:
    metrics = used_worker()
    records = {key: n for (name, key), n in told(metrics).items() if name == "stream_curate_records_total" and n}
    assert records == {
        (("reason", ""), ("result", "admitted")): 4,
        (("reason", ""), ("result", "forwarded")): 3,
        (("reason", "unmatched"), ("result", "dropped")): 3,
        (("reason", "balanced"), ("result", "dropped")): 3,
        (("reason", "duplicate"), ("result", "dropped")): 2,
        (("reason", "bad_json"), ("result", "rejected")): 5,
    }
    assert sum(records.values()) == 20
    assert value(metrics, "matches_total") == 21
    assert value(metrics, "dead_letters_total", reason="bad_json") == 5
    assert value(metrics, "commits_total", result="committed") == value(metrics, "commits_total", result="failed") == 1
    assert value(metrics, "commit_seconds_sum") == value(metrics, "stage_seconds_total", stage="write") == 0.02
    assert value(metrics, "rebalances_total") == 1
    assert value(metrics, "seen_pairs") == 10
    assert value(metrics, "owned_partitions", state="restoring") == 1


def test_every_reason_is_there_from_the_start() -> None:
    """A rate of a series that appears with its first value is missed by Prometheus."""
    at_start = told(WorkerMetrics())
    for reason in DROPPED:
        assert at_start["stream_curate_records_total", (("reason", reason.value), ("result", "dropped"))] == 0
    for reason in REJECTED:
        assert at_start["stream_curate_dead_letters_total", (("reason", reason.value),)] == 0


def test_a_partition_that_went_has_no_label_any_more() -> None:
    metrics = used_worker()
    assert value(metrics, "lag_offsets", partition="3") == 6
    metrics.show_partitions(lags={0: 5}, progress_s={0: 1e9}, n_stalled=0, n_ready=1, n_owned=1)
    assert not [key for key in told(metrics) if ("partition", "3") in key[1]]
    assert value(metrics, "lag_offsets", partition="0") == 5


def test_a_settled_version_is_told() -> None:
    metrics = used_settler()
    assert value(metrics, "curated_pairs") == 60
    assert value(metrics, "evicted_pairs_total") == 15
    assert value(metrics, "over_admission_ratio") == 0.25
    assert value(metrics, "head_entries") == 2
    assert value(metrics, "tail_matches_ratio") == 0.25
    assert value(metrics, "sketch_error_matches") == 0.25
    assert (value(metrics, "ledger_timestamp_seconds"), value(metrics, "settled_cut_timestamp_seconds")) == (100, 90)
    assert value(metrics, "settle_seconds_count") == 1


def test_a_table_with_nothing_in_it_is_told() -> None:
    metrics = SettlerMetrics()
    metrics.settled(0.1, 0, 0)
    metrics.show_settled(0, np.zeros(4, np.int64), 20, 0.0)
    assert value(metrics, "over_admission_ratio") == value(metrics, "tail_matches_ratio") == 0


def test_each_has_a_registry_of_its_own() -> None:
    first, second = WorkerMetrics(), WorkerMetrics()
    first.rebalanced()
    assert value(second, "rebalances_total") == 0
    assert not [each for each in REGISTRY.collect() if each.name.startswith("stream_curate")]


def test_there_is_the_memory_of_the_process_and_no_time_of_making() -> None:
    names = {name for name, _ in told(WorkerMetrics())}
    assert "process_resident_memory_bytes" in names
    assert not [name for name in names if name.endswith("_created")]
