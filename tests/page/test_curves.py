"""Head and tail before and after, the target, and the distance from it."""

from __future__ import annotations

import numpy as np
import pytest

from stream_curate.agreement import total_variation
from stream_curate.metadata import Metadata
from stream_curate.page.curves import N_ENTRIES_SHOWN, balance_of


def entries(n: int) -> Metadata:
    return Metadata.from_entries([f"entry {i}" for i in range(n)])


def test_the_curves_end_at_the_sums_and_never_fall(rng: np.random.Generator) -> None:
    n = 3_000
    counts = rng.zipf(1.4, n).clip(0, 50_000) - 1
    curated = np.minimum(counts, 20) + (counts > 20) * 3
    balance = balance_of(entries(n), counts, curated, 20)
    cumulative = balance["cumulative"]
    assert cumulative["n_entries"][0] == 0
    assert cumulative["n_entries"][-1] == balance["n_seen"] == np.count_nonzero(counts)
    for name, total in (("before", counts.sum()), ("after", curated.sum()), ("target", np.minimum(counts, 20).sum())):
        assert cumulative[name][-1] == total
        assert (np.diff(cumulative[name]) >= 0).all()
    assert len(cumulative["n_entries"]) < 250
    at = cumulative["n_entries"][50]
    assert cumulative["before"][50] == np.sort(counts[counts > 0])[:at].sum()


def test_ranks_hold_every_seen_entry_once(rng: np.random.Generator) -> None:
    counts = rng.zipf(1.5, 2_000).clip(0, 9_000) - 1
    ranks = balance_of(entries(2_000), counts, counts, 5)["ranks"]
    assert len(ranks["rank"]) < 100
    assert ranks["rank"][0] == 1
    assert ranks["before"][0] == counts.max()
    assert (np.diff(ranks["before"]) <= 0).all()
    assert max(ranks["target"]) == 5


def test_the_distance_is_that_of_the_distributions() -> None:
    counts, curated = np.array([100, 3, 0, 7]), np.array([12, 3, 0, 7])
    balance = balance_of(entries(4), counts, curated, 10)
    target = np.array([10, 3, 0, 7])
    assert balance["distance_before"] == total_variation(counts, target)
    assert balance["distance_after"] == total_variation(curated, target)
    assert balance["distance_after"] < balance["distance_before"]
    assert (balance["n_head"], balance["n_seen"], balance["n_never_seen"]) == (1, 3, 1)
    assert balance["tail_share_before"] == pytest.approx(10 / 110)
    assert balance["tail_share_after"] == pytest.approx(10 / 22)


def test_entries_cut_most_and_seen_least() -> None:
    counts = np.array([100, 3, 0, 7, 50, 3])
    curated = np.array([12, 3, 0, 7, 10, 3])
    balance = balance_of(entries(6), counts, curated, 10)
    assert [row["entry"] for row in balance["most_cut"]] == ["entry 0", "entry 4"]
    assert balance["most_cut"][0] == {"entry": "entry 0", "count": 100, "target": 10, "curated": 12}
    assert {row["entry"] for row in balance["least_seen"][:2]} == {"entry 1", "entry 5"}
    assert [row["count"] for row in balance["least_seen"]] == [3, 3, 7, 50, 100]


def test_of_equals_the_same_are_shown_each_time() -> None:
    counts = np.ones(5_000, np.int64)
    shown = [balance_of(entries(5_000), counts, counts, 5)["least_seen"] for _ in range(2)]
    assert shown[0] == shown[1]
    assert len(shown[0]) == N_ENTRIES_SHOWN
    assert [row["entry"] for row in shown[0]] != [f"entry {i}" for i in range(N_ENTRIES_SHOWN)]


def test_nothing_matched_is_no_curve() -> None:
    none = np.zeros(3, np.int64)
    balance = balance_of(entries(3), none, none, 5)
    assert balance["cumulative"]["n_entries"] == balance["ranks"]["rank"] == balance["most_cut"] == []
    assert balance["distance_after"] == 0


def test_entries_are_escaped() -> None:
    metadata = Metadata.from_entries(["a\u202eb", "x" * 500])
    rows = balance_of(metadata, np.array([1, 1]), np.array([1, 1]), 5)["least_seen"]
    assert {row["entry"] for row in rows} == {r"a\u202eb", "x" * 120}
