"""Workers come and go all the time; no partition waits for long."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kafka_curation import EXIT_AFTER_TERM_S, RULE, SETTLER_PACE, finish, short_times
from kafka_feed import Feed
from kafka_fleet import Fleet
from kafka_idle import longest_idle_s

from consumers.dev_broker import DevBroker
from consumers.topics import create_topics

pytestmark = pytest.mark.slow

SEED = "TEST_RANDOM_SEED"
N_EVENTS = 40
MOST_WORKERS = 4
LONGEST_IDLE_S = 10.0


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[DevBroker]:
    made = DevBroker(tmp_path / "broker")
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.mark.timeout(420)
def test_forty_joins_and_leaves_leave_no_partition_idle_for_long(own_broker: DevBroker, tmp_path: Path) -> None:
    seed = int(os.environ.get(SEED) or secrets.randbits(32))
    print(f"repeat with {SEED}={seed}")
    chance = random.Random(seed)
    settings = short_times(own_broker.bootstrap)
    create_topics(settings)
    out = tmp_path / "table"
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=seed, pairs_per_s=300, n_pairs=100_000) as feed,
    ):
        running = ["worker-0", "worker-1"]
        for name in running:
            fleet.worker(name)
        fleet.settler("settler", out, **SETTLER_PACE)
        fleet.wait_for(lambda: all(fleet.members[name].steps.has("commit.done") for name in running), 60, "commits")
        began_s = time.time()
        counted = {"join": 0, "leave": 0}
        for number in range(N_EVENTS):
            joins = len(running) == 1 or (len(running) < MOST_WORKERS and chance.random() < 0.5)
            if joins:
                name = f"worker-{number + 2}"
                fleet.worker(name)
                running.append(name)
            else:
                name = running.pop(chance.randrange(len(running)))
                fleet.wait_for(fleet.members[name].last_step, 30, f"{name} to be at work")
                assert fleet.terminate(name, EXIT_AFTER_TERM_S) == 0
            counted["join" if joins else "leave"] += 1
            time.sleep(chance.uniform(1.0, 3.0))
            fleet.check()
            assert not feed.is_done
        ended_s = time.time()
        feed.stop()
        longest = longest_idle_s(settings, began_s, ended_s)
        print(f"{counted} in {ended_s - began_s:.0f} s; idle at most, by partition: {np.round(longest, 1).tolist()} s")
        assert max(longest) <= LONGEST_IDLE_S, f"idle at most, by partition: {np.round(longest, 1).tolist()} s"
        finish(fleet, out, feed.pair_ids())
