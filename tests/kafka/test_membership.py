"""The group's word on who has which partition."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kafka import TopicPartition
from kafka_workers import QUICK, made_pairs, send

from consumers.clients import make_admin, make_consumer
from consumers.membership import Membership
from consumers.settings import KafkaSettings
from consumers.topics import create_topics

pytestmark = pytest.mark.slow

Join = Callable[..., Membership]


@pytest.fixture
def settings(kafka: Callable[..., KafkaSettings]) -> KafkaSettings:
    made = kafka(**QUICK, partitions=4)
    create_topics(made)
    return made


@pytest.fixture
def join(settings: KafkaSettings) -> Iterator[Join]:
    """Makes members, which leave at the end."""
    members: list[Membership] = []

    def make() -> Membership:
        members.append(Membership(settings))
        return members[-1]

    yield make
    for member in members:
        member.close()


def poll_until(members: list[Membership], condition: Callable[[], bool], timeout_s: float = 30) -> list[set[int]]:
    """Poll all in turn until it holds; what was taken from each meanwhile."""
    taken: list[set[int]] = [set() for _ in members]
    end_s = time.monotonic() + timeout_s
    while not condition():
        for place, member in enumerate(members):
            taken[place] |= member.poll(50)
        assert time.monotonic() < end_s, [sorted(member.partitions) for member in members]
    return taken


def all_are_owned_once(members: list[Membership], least: int = 0) -> bool:
    owned = sorted(partition for member in members for partition in member.partitions)
    return owned == [0, 1, 2, 3] and all(len(member.partitions) >= least for member in members)


def test_a_member_gets_all_and_gives_up_what_another_gets(join: Join) -> None:
    first = join()
    assert first.partitions == frozenset()
    assert not first.has_joined
    poll_until([first], lambda: all_are_owned_once([first]))
    assert first.has_joined
    n_changes = first.n_changes
    assert n_changes >= 1
    first.poll(50)
    assert first.n_changes == n_changes

    second = join()
    both = [first, second]
    taken = poll_until(both, lambda: all_are_owned_once(both, least=2))
    assert taken[0] == set(second.partitions)
    assert taken[1] == set()
    assert first.n_changes > n_changes

    second.close()
    taken = poll_until([first], lambda: all_are_owned_once([first]))
    assert taken == [set()]  # those that it kept never were away


def test_what_was_away_in_between_is_told_although_it_is_back(join: Join) -> None:
    """Another may have had it. So also when the member was not heard of: all that it had is then lost."""
    member = join()
    poll_until([member], lambda: all_are_owned_once([member]))
    member._listener.on_partitions_lost([TopicPartition(member._topic, 2)])

    assert member.poll() == {2}
    assert member.partitions == {0, 1, 2, 3}
    assert member.poll() == set()


def test_it_reads_nothing(settings: KafkaSettings, join: Join) -> None:
    """Else the messages of the whole topic would go through each worker twice."""
    send(settings, made_pairs(500))
    member = join()
    poll_until([member], lambda: all_are_owned_once([member]))
    for _ in range(10):
        assert member.poll(50) == set()

    paused = member._consumer.paused()
    assert {place.partition for place in paused} == {0, 1, 2, 3}
    positions = [member._consumer.position(place) for place in sorted(paused)]
    assert sum(filter(None, positions)) <= 500


def test_progress_is_shown_for_what_it_owns(settings: KafkaSettings, join: Join) -> None:
    member = join()
    member.show_progress({0: 5})  # it owns nothing yet
    poll_until([member], lambda: all_are_owned_once([member]))
    member.show_progress({0: 7, 3: 2, 99: 1})

    def shown() -> dict[int, int]:
        admin = make_admin(settings)
        try:
            offsets = admin.list_group_offsets([settings.group_id])[settings.group_id]
        finally:
            admin.close()
        return {place.partition: offset.offset for place, offset in offsets.items() if offset.offset >= 0}

    poll_until([member], lambda: shown() == {0: 7, 3: 2})


def test_progress_does_not_decide_where_anything_is_read(settings: KafkaSettings) -> None:
    consumer = make_consumer(settings)
    try:
        assert consumer.config["group_id"] is None
    finally:
        consumer.close()


def test_a_member_joins_one_that_is_busy_between_its_polls(join: Join) -> None:
    """The time between two polls is work; the answers to a member come meanwhile."""
    first, second = join(), join()
    end_s = time.monotonic() + 10
    while not all_are_owned_once([first, second], least=1):
        assert time.monotonic() < end_s, [sorted(each.partitions) for each in (first, second)]
        for member in (first, second):
            member.poll(0)
        work_s = time.monotonic() + 0.3
        while time.monotonic() < work_s:
            sum(range(1_000))
