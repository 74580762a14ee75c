"""CI's share of `make soak`: some five minutes of faults, at a rate that leaves the machine to others."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from soak.result import Bounds
from soak.run import soak

pytestmark = pytest.mark.slow

SEED = "TEST_RANDOM_SEED"
MINUTES = 2.5  # after a warm-up of about as long: each kind of fault once
RATE = 500.0
# Processes still grow to their sizes then, and one outage of the brokers can make a step of 10 to 15 MB: what half an
# hour shows, for which `make soak` has the bound of 1, these minutes cannot.
SLOPE_MB_PER_MINUTE = 20.0
LEAST_FAULTS = 7  # of ten: a broker that starts on a busy machine takes the time of the next one


@pytest.mark.timeout(1_500)
def test_minutes_of_faults_leave_nothing_wrong_and_nothing_that_grows_fast(tmp_path: Path) -> None:
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"repeat with {SEED}={seed}")
    # how long the input waits meanwhile is a matter of the machine; at the end all of it is read soon
    bounds = Bounds(slope_mb_per_minute=SLOPE_MB_PER_MINUTE, waiting_s=None, drain_s=120.0)
    result = soak(tmp_path, minutes=MINUTES, seed=seed, rate=RATE, bounds=bounds, least_warm_up_s=0.0)
    print(result.words())
    result.save(tmp_path / "result")
    assert result.holds, result.words()
    assert len(result.faults) >= LEAST_FAULTS
