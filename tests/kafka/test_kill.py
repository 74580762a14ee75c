"""Workers, settler and broker are killed at moments of chance; no settled version shows a trace of it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from kafka_chaos import MIN_EACH, MIN_VERSIONS, N_BROKER_KILLS, SECTIONS, chaos

pytestmark = pytest.mark.slow

SEED = "TEST_RANDOM_SEED"
N_KILLS = 60
N_PAIRS = 40_000


@pytest.mark.timeout(900)
def test_kill_9_at_random_moments_leaves_every_settled_version_as_offline_has_it(tmp_path: Path) -> None:
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"repeat with {SEED}={seed}")
    summary = chaos(tmp_path, seed=seed, n_kills=N_KILLS, n_pairs=N_PAIRS, limit_s=540)
    print(summary.words())

    assert summary.n_counting >= N_KILLS
    assert all(summary.counting[kind] >= MIN_EACH for kind in SECTIONS)
    assert summary.n_broker_kills >= N_BROKER_KILLS
    assert summary.n_versions >= MIN_VERSIONS
    assert summary.n_pairs == N_PAIRS
