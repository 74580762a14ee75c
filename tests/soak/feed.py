"""The producer of a soak, in a process of its own: pairs as JSON messages, at a steady rate or as fast as it may.

First each of the known pairs comes once. From then on nearly all that comes are known pairs again, chosen by chance;
one in a hundred is new, so that there is always something to admit, to settle and to publish. A few messages go to
another partition than their home, and a few are no valid pairs.

What is not acknowledged is sent again, all of that tick. What could not be sent while no broker answered is not made up
for, but for the last second of it.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any, Self

import numpy as np
import pyarrow as pa
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka_feed import INVALID, distinct_pairs

from consumers.clients import end_producer, make_producer
from consumers.messages import encode_json, home
from consumers.settings import KafkaSettings
from stream_curate.logs import configure_logs

SHARE_NEW = 0.01
SHARE_AWAY = 0.01
SHARE_INVALID = 0.002
TICK_S = 0.1
FASTEST_TICK = 2_000  # messages at once, when there is no rate
END_S = 60.0

# what is no valid pair and can be sent as it is; a client wants a key with a message of None
_INVALID = [each for each in INVALID if each is not None]


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        settings: where to; its `give_up_after_s` bounds one try.
        seed: of all chance.
        n_known: pairs that come again and again.
        n_new: further pairs, at most.
        rate: messages a second, None for as many as go.
    """

    settings: KafkaSettings
    seed: int
    n_known: int
    n_new: int
    rate: float | None

    def pairs(self) -> pa.RecordBatch:
        """All that may be sent, in the order in which each comes for the first time."""
        return distinct_pairs(self.n_known + self.n_new)


class SoakFeed:
    """Sends from the moment it is entered until `stop`. Use it in a `with`."""

    def __init__(self, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self._stopping = context.Event()
        self._counts: tuple[Synchronized[int], ...] = tuple(context.Value("q", 0) for _ in range(3))
        arguments = (plan, self._stopping, *self._counts)
        self._process = context.Process(target=_send, args=arguments, daemon=True, name="feed")

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def n_sent(self) -> int:
        """Messages that were acknowledged."""
        return self._counts[0].value

    @property
    def n_distinct(self) -> int:
        """So many of the plan's pairs stand in the topic: these, and no others."""
        return self._counts[1].value

    @property
    def n_retries(self) -> int:
        """How often a tick was sent again."""
        return self._counts[2].value

    def check(self) -> None:
        """Raise AssertionError when it has ended by itself."""
        assert self._process.exitcode is None, f"the feed ended by itself with {self._process.exitcode}"

    def stop(self) -> None:
        """Send what has been begun, and no more."""
        self.check()
        self._stopping.set()
        self._process.join(END_S)
        assert self._process.exitcode == 0, f"the feed ended with {self._process.exitcode}"


class _Messages:
    """The values of a plan, and which of them come next."""

    def __init__(self, plan: Plan) -> None:
        pairs = plan.pairs()
        self.n_begun = 0  # pairs that came at least once
        self._plan = plan
        self._values = encode_json(pairs)
        self._homes = home(pairs.column("pair_id"), plan.settings.partitions)
        self._chance = np.random.default_rng(plan.seed)

    def next(self, n_messages: int) -> list[tuple[int, bytes]]:
        """Partition and value of so many, and of the few that are no pairs."""
        plan, chance = self._plan, self._chance
        n_partitions = plan.settings.partitions
        if self.n_begun < plan.n_known:
            n_first = min(n_messages, plan.n_known - self.n_begun)
            rows = np.arange(self.n_begun, self.n_begun + n_first)
        else:
            n_first = min(int(chance.binomial(n_messages, SHARE_NEW)), len(self._values) - self.n_begun)
            again = chance.integers(0, plan.n_known, n_messages - n_first)
            rows = chance.permutation(np.concatenate([np.arange(self.n_begun, self.n_begun + n_first), again]))
        self.n_begun += n_first
        away = chance.random(len(rows)) < SHARE_AWAY
        partitions = np.where(away, chance.integers(0, n_partitions, len(rows)), self._homes[rows])
        messages = [(p, self._values[row]) for p, row in zip(partitions.tolist(), rows.tolist(), strict=True)]
        for _ in range(int(chance.binomial(n_messages, SHARE_INVALID))):
            messages.append((int(chance.integers(n_partitions)), _INVALID[int(chance.integers(len(_INVALID)))]))
        return messages


def _send(
    plan: Plan,
    stopping: Event,
    n_sent: Synchronized[int],
    n_distinct: Synchronized[int],
    n_retries: Synchronized[int],
) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it
    configure_logs()
    messages = _Messages(plan)
    per_tick = FASTEST_TICK if plan.rate is None else max(1, round(plan.rate * TICK_S))
    producer: KafkaProducer | None = None
    next_s = time.monotonic()
    while not stopping.is_set():
        batch = messages.next(per_tick)
        while True:
            try:
                producer = producer or make_producer(plan.settings)
                _send_batch(producer, plan.settings, batch)
                break
            except KafkaError:
                n_retries.value += 1
                if producer is not None:
                    with suppress(KafkaError):
                        end_producer(producer)
                producer = None
        n_sent.value += len(batch)
        n_distinct.value = messages.n_begun
        if plan.rate is not None:
            next_s = max(next_s + TICK_S, time.monotonic() - 1.0)
            stopping.wait(max(0.0, next_s - time.monotonic()))
    if producer is not None:
        end_producer(producer)


def _send_batch(producer: KafkaProducer, settings: KafkaSettings, batch: list[tuple[int, bytes]]) -> None:
    futures: list[Any] = [producer.send(settings.topics.pairs, value, partition=p) for p, value in batch]
    for future in futures:
        future.get(timeout=settings.give_up_after_s)
