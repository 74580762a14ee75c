"""The traffic that is worked out from measured bytes. The rest of the Kafka benchmark is run by test_run.py."""

from __future__ import annotations

import pytest
from bench.kafka_rates import traffic


def test_traffic_is_what_is_measured_twice_and_the_counts_for_each_worker() -> None:
    found = traffic(100, 200, 500_000)
    assert found["n_settles"] == 41
    one, most = found["by_workers"][0], found["by_workers"][-1]
    assert (one["workers"], most["workers"]) == (1, 1_000)
    assert one["pairs"] == most["pairs"] == 200
    assert one["ledger"] == most["ledger"] == 400
    assert one["counts"] == pytest.approx(2 * 41.28 * 4e6 / 1e9, abs=0.002)
    assert most["total"] == pytest.approx(600 + 1_001 / 2 * one["counts"], abs=1)
