"""What Kubernetes does to workers with names that last: scales them down, and restarts one after the other.

Each gets SIGTERM and as long as it needs. In a rolling restart the highest number goes first, and the next one has its
turn when the one before is ready again.

Idle is a partition with input that nobody reads: from its last commit, or from when input came if that was later, to
its next. A member with a name that lasts does not leave the group, so its partitions are given to others when its
session is over. Until the first commit of the one who takes over it needs besides: the heartbeat with which it hears of
that, the rebalance, and for each partition, one after the other, a producer and the ledger read. That is
`TAKE_OVER_S`; it is about 3 s when nothing else runs, and the limit is higher for machines that are busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka_curation import EXIT_AFTER_TERM_S, RULE, SETTLER_PACE, finish, short_times
from kafka_feed import Feed
from kafka_fleet import Fleet
from kafka_idle import longest_idle_s

from consumers.clients import make_consumer
from consumers.dev_broker import DevBroker
from consumers.topics import create_topics

pytestmark = pytest.mark.slow

N_WORKERS = 5
SESSION_TIMEOUT_S = 6.0
TAKE_OVER_S = 14.0
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


def wait_until_all_are_read(fleet: Fleet) -> None:
    """Until a commit of each partition has come; there is input for all of them all the time."""
    settings = fleet.settings
    places = [TopicPartition(settings.topics.ledger, partition) for partition in range(settings.partitions)]
    with closing(make_consumer(settings)) as consumer:
        before = consumer.end_offsets(places)

        def have_moved() -> bool:
            now = consumer.end_offsets(places)
            return all(now[place] > before[place] for place in places)

        fleet.wait_for(have_moved, 60, "commits of all partitions", every_s=0.1)


def scale_down_slowly(fleet: Fleet, names: list[str]) -> None:
    """As KEDA does it: the next one goes when others have the partitions of the one before."""
    for name in reversed(names[1:]):
        assert fleet.terminate(name, EXIT_AFTER_TERM_S) == 0
        wait_until_all_are_read(fleet)


def scale_down_at_once(fleet: Fleet, names: list[str]) -> None:
    """As `kubectl scale` does it to pods that are managed in parallel, as those in `deploy/kubernetes` are."""
    with ThreadPoolExecutor(len(names)) as pool:
        codes = list(pool.map(lambda name: fleet.terminate(name, EXIT_AFTER_TERM_S), names[1:]))
    assert codes == [0] * len(codes)
    wait_until_all_are_read(fleet)


def restart_each(fleet: Fleet, names: list[str]) -> None:
    for name in reversed(names):
        assert fleet.terminate(name, EXIT_AFTER_TERM_S) == 0
        start_worker(fleet, name)
        wait_until_at_work(fleet, name)
    wait_until_all_are_read(fleet)


@pytest.mark.parametrize("change", [scale_down_slowly, scale_down_at_once, restart_each])
def test_nothing_is_lost_or_doubled_and_no_partition_waits_for_longer_than_a_session(
    change: Callable[[Fleet, list[str]], None], own_broker: DevBroker, tmp_path: Path
) -> None:
    settings = short_times(own_broker.bootstrap, session_timeout_s=SESSION_TIMEOUT_S)
    create_topics(settings)
    out = tmp_path / "table"
    names = [f"worker-{number}" for number in range(N_WORKERS)]
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=SEED, pairs_per_s=300, n_pairs=60_000) as feed,
    ):
        for name in names:
            start_worker(fleet, name)
        fleet.settler("settler", out, **SETTLER_PACE)
        wait_until_at_work(fleet, *names)
        wait_until_all_are_read(fleet)
        began_s = time.time()
        change(fleet, names)
        fleet.check()
        ended_s = time.time()
        assert not feed.is_done
        feed.stop()
        idle_s = longest_idle_s(settings, began_s, ended_s)
        print(f"{ended_s - began_s:.0f} s; idle at most, by partition: {[round(each, 1) for each in idle_s]} s")
        assert max(idle_s) <= SESSION_TIMEOUT_S + TAKE_OVER_S, idle_s
        finish(fleet, out, feed.pair_ids())
