"""The view of a partition: never above the counts at any later cut, whatever is published when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_workers import header_of, made_metadata

from consumers import view as view_module
from consumers.published_counts import PublishedCounts
from consumers.view import Delta, View
from stream_curate.final_rule import FinalDecisions

N_ENTRIES = 5
HEADER = header_of(made_metadata())

# (partition, entry ids with increments): one commit
COMMITS = st.lists(
    st.tuples(st.integers(0, 2), st.dictionaries(st.integers(0, N_ENTRIES - 1), st.integers(1, 9))), max_size=30
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def increments(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def published(cut: tuple[int, ...], counts: Any) -> PublishedCounts:
    return PublishedCounts(HEADER, cut, 0, np.array(counts, np.int64))


@given(commits=COMMITS, data=st.data())
def test_it_is_never_above_the_counts_at_a_later_cut(
    commits: list[tuple[int, dict[int, int]]], data: st.DataObject
) -> None:
    """And it is the counts at the published cut with the deltas of its own partition, and of no other."""
    views = [View(p, 3, N_ENTRIES) for p in range(3)]
    own: list[list[np.ndarray]] = [[], [], []]  # the deltas of each partition

    def counts_at(cut: tuple[int, ...]) -> np.ndarray:
        below = [delta for p in range(3) for delta in own[p][: cut[p]]]
        return np.sum(below, axis=0, dtype=np.int64) if below else np.zeros(N_ENTRIES, np.int64)

    cuts = [(0, 0, 0)]  # ends of commits, one after the other
    last = 0
    for partition, delta in commits:
        if data.draw(st.booleans(), label="publish"):
            last = data.draw(st.integers(last, len(cuts) - 1), label="which cut")
            news = published(cuts[last], counts_at(cuts[last]))
            for each in data.draw(st.lists(st.sampled_from(views), unique=True), label="who hears of it"):
                each.rebase(news)
        view = views[partition]
        view.add(len(own[partition]), ids(*delta), increments(*delta.values()))
        own[partition].append(np.array([delta.get(entry_id, 0) for entry_id in range(N_ENTRIES)], np.int64))
        cuts.append((len(own[0]), len(own[1]), len(own[2])))

        since = own[partition][view.cut[partition] :]
        assert (view.counts == counts_at(view.cut) + np.sum(since, axis=0)).all()
        # a cut that has this commit has at least what the published counts have, and all of the partition until now
        lowest = tuple(max(*each) for each in zip(view.cut, cuts[-1], strict=True))
        least = [*view.cut]
        least[partition] = len(own[partition])
        assert (view.counts <= counts_at(tuple(least))).all()
        assert (view.counts <= counts_at(lowest)).all()


def test_what_the_published_counts_have_is_not_added_again() -> None:
    view = View(0, 1, 3)
    for first in (0, 10, 20):
        view.add(first, ids(1), increments(5))
    view.rebase(published((10,), [0, 7, 2]))
    assert view.counts.tolist() == [0, 17, 2]
    assert view.cut == (10,)

    view.add(5, ids(0), increments(1))  # a restore comes to what lies below the cut
    assert view.counts.tolist() == [0, 17, 2]
    view.rebase(published((30,), [1, 20, 3]))
    assert view.counts.tolist() == [1, 20, 3]


def test_published_counts_are_not_changed_by_what_is_added() -> None:
    """All partitions of a worker are given the same."""
    counts = published((0,), [0, 0, 0])
    view = View(0, 1, 3)
    view.rebase(counts)
    view.add(0, ids(2), increments(1))

    assert counts.entry_counts.tolist() == [0, 0, 0]


def test_old_deltas_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then less is known after the next published counts, never more."""
    monkeypatch.setattr(view_module, "MAX_OWN_DELTAS", 4)
    view = View(0, 1, 3)
    for first in range(0, 30, 10):
        view.add(first, ids(0, 1), increments(1, 1))
    assert view.counts.tolist() == [3, 3, 0]

    view.rebase(published((0,), [0, 0, 0]))
    assert view.counts.tolist() == [2, 2, 0]


def test_coins_and_the_number_of_pairs_go_with_the_counts() -> None:
    """All three are of the same cut, and of what the partition did since."""
    final = header_of(made_metadata(), final=FinalDecisions(1_000))
    view = View(0, 2, 3)
    view.add(0, ids(1, 2), increments(5, 1), increments(2, 0), 9)
    view.add(10, ids(), increments(), increments(), 4)
    assert (view.counts.tolist(), view.coins.tolist(), view.n_unique, view.n_own) == ([0, 5, 1], [0, 2, 0], 13, 13)

    view.rebase(PublishedCounts(final, (10, 7), 100, np.array([1, 60, 3]), np.array([1, 20, 0])))
    assert (view.counts.tolist(), view.coins.tolist(), view.n_unique, view.n_own) == ([1, 60, 3], [1, 20, 0], 104, 4)

    view.counts[0] += 2
    view.coins[0] += 1
    view.remember(Delta(20, ids(0), increments(2), increments(1), 3))  # as the kernel that decides counts itself
    assert (view.counts.tolist(), view.coins.tolist(), view.n_unique, view.n_own) == ([3, 60, 3], [2, 20, 0], 107, 7)
    view.rebase(PublishedCounts(final, (20, 7), 104, np.array([1, 60, 3]), np.array([1, 20, 0])))
    assert (view.counts.tolist(), view.coins.tolist(), view.n_unique, view.n_own) == ([3, 60, 3], [2, 20, 0], 107, 3)


def test_counts_that_are_overdue_are_noticed() -> None:
    """Publishing goes by growth, and begins early."""
    final = header_of(made_metadata(), final=FinalDecisions(100_000))
    view = View(0, 2, 3)
    view.add(0, ids(1), increments(100), increments(2), 100)
    assert not view.is_alone(100)
    view.add(10, ids(1), increments(1), increments(0), 1)
    assert view.is_alone(100)
    view.rebase(PublishedCounts(final, (10, 7), 300, np.array([0, 250, 3]), np.array([0, 2, 1])))
    assert not view.is_alone(100)
    view.add(20, ids(1), increments(300), increments(0), 300)
    assert view.is_alone(100)


def test_a_delta_does_not_hold_the_record_that_it_came_in() -> None:
    """A record has the admitted pairs too, up to 16 MiB: deltas that are kept must not keep them."""
    record = np.zeros(1_000_000, np.int64)
    view = View(0, 1, 3)
    view.add(0, record[:2].astype(np.int32), record[:2])
    kept = view._own[0][2]

    assert kept.base is None or kept.base.nbytes < 100


def test_empty_deltas_are_not_collected() -> None:
    """A topic in which nothing matches would fill the memory with them."""
    view = View(0, 1, 3)
    for first in range(1_000):
        view.add(first, ids(), increments())

    assert not view._own
