"""The whole of `make bench`, at sizes that tell nothing but whether it runs."""

from __future__ import annotations

import pytest
from bench.growth import threshold_for
from bench.report import aims, markdown
from bench.run import PARTS, Sizes, measure

TINY = Sizes(
    n_entries=2_000,
    n_in_file=3_000,
    matching_pairs=500,
    matching_rounds=1,
    matching_rounds_mixed=1,
    whole_files=1,
    whole_rounds=1,
    whole_rounds_all_cores=1,
    growth_files=(1,),
    growth_rounds=1,
    growth_entries=(1_000,),
    cores_files=1,
    cores_rounds=1,
    kafka_json_pairs=2_000,
    kafka_arrow_pairs=3_000,
    kafka_rounds=1,
    kafka_commits=(1_000,),
    n_warm=1,
    n_cold=0,
)


def test_the_threshold_grows_with_the_stream() -> None:
    assert [threshold_for(n, 2) for n in (1_000, 1_000_000, 4_000_000)] == [1, 2, 8]


@pytest.mark.slow
def test_every_part_runs_and_is_reported() -> None:
    found = measure(TINY, list(PARTS))
    assert "worker, json, without transactions" in markdown(found)
    assert aims(found).count("\n") > 10
    whole = found["whole_job"]["one_core"]
    kept = {name: way["n_curated"] for name, way in whole["ways"].items()}
    assert max(kept.values()) < 1.2 * min(kept.values())  # the draws differ
    assert 0 < found["kafka"]["bytes_per_pair"]["ledger"] < 1_000
    assert found["start"]["warm"]["first_pair_taken_s"] < found["start"]["warm"]["first_pair_curated_s"]
