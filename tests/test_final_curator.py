"""The curator with final decisions: the pairs of plain Python, in their order, whatever the batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from final_reference import accepted_of
from hypothesis import given
from hypothesis import strategies as st
from rig import ENTRIES, small_stream
from strategies import DEDUPS, METADATA, SEEDS, Row, batches, ids, records_of
from structlog.testing import capture_logs

from stream_curate import FinalCurator, FinalDecisions, Metadata, make_pairs
from stream_curate.counting import Counter, empty_counts
from stream_curate.final_rule import Horizon
from stream_curate.offline import OfflinePool
from stream_curate.offline import records_of as records_in
from stream_curate.pairs import validate
from stream_curate.rule import Dedup

FINALS = st.builds(FinalDecisions, st.sampled_from([1, 10, 40, 1000]), st.sampled_from(["known", "endless"]))
METADATA_OF_ENTRIES = Metadata.from_entries(ENTRIES)


@given(batches(), METADATA, SEEDS, DEDUPS, st.integers(1, 6), FINALS)
def test_what_is_accepted_is_what_plain_python_accepts_in_its_order(
    cut: list[list[Row]], metadata: Metadata, seed: int, dedup: Dedup, threshold: int, final: FinalDecisions
) -> None:
    curator = FinalCurator(metadata, final, threshold=threshold, seed=seed, dedup=dedup)
    accepted = ids(curator.observe(validate(records_of(rows))[0]) for rows in cut)

    pool = OfflinePool.read([records_of(rows) for rows in cut], metadata, dedup)
    assert accepted == accepted_of(pool, threshold, seed, final)
    assert (curator.tally.n_unique, curator.tally.n_admitted) == (len(pool), len(accepted))
    expected = np.zeros(len(metadata), np.int64)
    for entry_id, count in pool.entry_counts(Counter("exact")).items():
        expected[entry_id] = count
    assert (curator.entry_counts() == expected).all()
    assert (curator.counts.coins <= expected).all()


@given(batches(), st.integers(1, 6), FINALS)
def test_a_curator_that_goes_on_from_saved_counts_decides_the_same(
    cut: list[list[Row]], threshold: int, final: FinalDecisions
) -> None:
    def new() -> FinalCurator:
        return FinalCurator(METADATA_OF_ENTRIES, final, threshold=threshold, seed=7)

    def accepted(*, restart: bool) -> list[bytes]:
        curator, found = new(), []
        for rows in cut:
            found.append(curator.observe(validate(records_of(rows))[0]))
            if restart:
                before, curator = curator, new()
                counts = before.rule.load_counts(len(METADATA_OF_ENTRIES), before.counts.to_bytes())
                curator.resume(counts, before.tally)
                curator.seen = before.seen
        return ids(found)

    assert accepted(restart=True) == accepted(restart=False)


def many(n: int, first: int = 0) -> pa.RecordBatch:
    return make_pairs([f"http://x.org/{i}" for i in range(first, first + n)], n * ["a dog"])


@pytest.mark.parametrize(("horizon", "n_warnings"), [("known", 1), ("endless", 0)])
def test_more_pairs_than_a_known_pool_has_are_warned_of_once(horizon: Horizon, n_warnings: int) -> None:
    curator = FinalCurator(METADATA_OF_ENTRIES, FinalDecisions(30, horizon), threshold=3, seed=7)
    with capture_logs() as logs:
        curator.observe(many(30))
        assert not logs
        for first in range(30, 90, 10):
            curator.observe(many(10, first))
    assert [line["log_level"] for line in logs] == n_warnings * ["warning"]
    assert all("more pairs than the pool size" in line["event"] for line in logs)


def test_the_accepted_pairs_stay_whatever_is_asked() -> None:
    curator = FinalCurator(METADATA_OF_ENTRIES, FinalDecisions(100), threshold=3, seed=7)
    accepted = [curator.observe(validate(records)[0]) for records in records_in(small_stream())]

    assert ids(curator.settle(accepted)) == ids(accepted)
    with pytest.raises(ValueError, match="stays as it is"):
        curator.lower_threshold(2)


def test_counts_without_coins_cannot_be_gone_on_with() -> None:
    curator = FinalCurator(METADATA_OF_ENTRIES, FinalDecisions(100), threshold=3)
    with pytest.raises(ValueError, match="counts and coins"):
        curator.resume(empty_counts(Counter("exact"), len(ENTRIES)), curator.tally)
