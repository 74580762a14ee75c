"""What Kubernetes does to workers with names that last: scales them down, and restarts one after the other.

As it does that to a StatefulSet: the highest number goes first, each gets SIGTERM and as long as it needs, and the next
one has its turn when the one before is ready again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka_curation import EXIT_AFTER_TERM_S, RULE, SETTLER_PACE, finish, short_times
from kafka_feed import Feed
from kafka_fleet import Fleet
from kafka_idle import longest_idle_s

from consumers.dev_broker import DevBroker
from consumers.settings import KafkaSettings
from consumers.topics import create_topics

pytestmark = pytest.mark.slow

N_WORKERS = 5
SESSION_TIMEOUT_S = 10.0
SEED = 11


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[DevBroker]:
    made = DevBroker(tmp_path / "broker")
    try:
        made.start()
        yield made
    finally:
        made.remove()


def start_worker(fleet: Fleet, name: str) -> None:
    fleet.worker(name, KAFKA__INSTANCE_ID=name)


def wait_until_at_work(fleet: Fleet, *names: str) -> None:
    """Until the process of now of each has made a commit, and so has partitions that are ready."""

    def is_at_work(name: str) -> bool:
        member = fleet.members[name]
        member.steps.read()
        return any(step.pid == member.pid and step.name == "commit.done" for step in member.steps.steps)

    fleet.wait_for(lambda: all(map(is_at_work, names)), 90, f"{', '.join(names)} to be at work")


def scale_down(fleet: Fleet, names: list[str]) -> None:
    for name in reversed(names[1:]):
        assert fleet.terminate(name, EXIT_AFTER_TERM_S) == 0
        time.sleep(1.0)  # Kubernetes takes that long, too; partitions move meanwhile


def restart_each(fleet: Fleet, names: list[str]) -> None:
    for name in reversed(names):
        assert fleet.terminate(name, EXIT_AFTER_TERM_S) == 0
        start_worker(fleet, name)
        wait_until_at_work(fleet, name)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("change", [scale_down, restart_each])
def test_nothing_is_lost_or_doubled_and_no_partition_waits_for_longer_than_a_session(
    change: Callable[[Fleet, list[str]], None], own_broker: DevBroker, tmp_path: Path
) -> None:
    settings: KafkaSettings = short_times(own_broker.bootstrap, session_timeout_s=SESSION_TIMEOUT_S)
    create_topics(settings)
    out = tmp_path / "table"
    names = [f"worker-{number}" for number in range(N_WORKERS)]
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=SEED, pairs_per_s=300, n_pairs=100_000) as feed,
    ):
        for name in names:
            start_worker(fleet, name)
        fleet.settler("settler", out, **SETTLER_PACE)
        wait_until_at_work(fleet, *names)
        began_s = time.time()
        change(fleet, names)
        fleet.check()
        assert not feed.is_done
        feed.stop()
        ended_s = time.time()
        idle_s = longest_idle_s(settings, began_s, ended_s)
        print(f"idle at most, by partition: {[round(each, 1) for each in idle_s]} s")
        assert max(idle_s) <= SESSION_TIMEOUT_S, idle_s
        finish(fleet, out, feed.pair_ids())
