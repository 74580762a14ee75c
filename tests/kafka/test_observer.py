"""The ends of partitions are told while they grow, and when no broker answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing

import pytest
from kafka_workers import made_pairs, send, transaction

from consumers.dev_broker import free_port
from consumers.observer import Observer
from consumers.settings import KafkaSettings

pytestmark = pytest.mark.slow

WAIT_S = 30.0


class Seen:
    """What an observer has told."""

    def __init__(self) -> None:
        self.ends: list[Mapping[int, int] | None] = []

    def look(self, ends: Mapping[int, int] | None) -> None:
        self.ends.append(ends)

    def wait_for(self, condition: Callable[[Mapping[int, int] | None], object]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not (self.ends and condition(self.ends[-1])):
            assert time.monotonic() < end_s, self.ends[-5:]
            time.sleep(0.05)


def test_the_ends_of_the_wanted_partitions_are_told_as_they_grow(topics: KafkaSettings) -> None:
    wanted = [0, 2]
    seen = Seen()
    with closing(Observer(topics, topics.topics.pairs, lambda: wanted, seen.look)):
        seen.wait_for(lambda ends: ends == {0: 0, 2: 0})
        send(topics, made_pairs(10), to=2)
        seen.wait_for(lambda ends: ends == {0: 0, 2: 10})
        wanted = [1]
        seen.wait_for(lambda ends: ends == {1: 0})
        wanted = []
        seen.wait_for(lambda ends: ends == {0: 0})


def test_an_end_is_not_behind_an_open_transaction(topics: KafkaSettings) -> None:
    seen = Seen()
    with closing(Observer(topics, topics.topics.pairs, lambda: [0], seen.look)):
        with transaction(topics) as producer:
            producer.send(topics.topics.pairs, b"{}", partition=0).get(timeout=WAIT_S)
            n_seen = len(seen.ends)
            seen.wait_for(lambda ends: len(seen.ends) > n_seen + 1)
            assert seen.ends[-1] == {0: 0}
        seen.wait_for(lambda ends: ends == {0: 2})  # with the marker


def test_that_no_broker_answers_is_told_and_closing_does_not_wait() -> None:
    seen = Seen()
    away = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", give_up_after_s=1)
    observer = Observer(away, "pairs", lambda: [0], seen.look)
    try:
        seen.wait_for(lambda ends: ends is None)
    finally:
        begun_s = time.monotonic()
        observer.close()
    assert time.monotonic() - begun_s < 3


def test_what_look_raises_does_not_end_it(topics: KafkaSettings) -> None:
    seen = Seen()

    def look(ends: Mapping[int, int] | None) -> None:
        seen.look(ends)
        if len(seen.ends) == 1:
            raise ValueError("a mistake")

    with closing(Observer(topics, topics.topics.pairs, lambda: [0], look)):
        seen.wait_for(lambda ends: len(seen.ends) > 1)
