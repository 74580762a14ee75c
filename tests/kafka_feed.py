"""A producer that goes on in the background: pairs made from the real shards, at a bounded rate, whatever happens.

In what it sends some pairs come twice, some are not at home, some messages are no valid pairs; JSON and Arrow messages
are mixed. What is not acknowledged is sent again, so that at the end all of it is in the topic at least once.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from kafka.errors import KafkaError
from million import real_pairs

from consumers.clients import end_producer, make_producer
from consumers.messages import ARROW_HEADERS, encode_arrow, encode_json, home
from consumers.settings import KafkaSettings
from stream_curate.pairs import Records, validate

TICK_S = 0.1
SHARE_AGAIN = 0.05
SHARE_AWAY = 0.05
SHARE_INVALID = 0.01

INVALID: list[bytes | None] = [
    None,
    b"",
    b"no json",
    b'{"url": "http://x.org/1"',
    b'{"text": "a dog"}',
    b'{"url": "ftp://x.org/1", "text": "a dog"}',
    b'{"url": "http://x.org/1", "text": "\xff"}',
    b'["http://x.org/1", "a dog"]',
    b'{"url": "http://x.org/\\u0001", "text": "a dog"}',
    b"\xff\xff\xff\xff\x10\x00\x00\x00",
]


@dataclass(frozen=True)
class _Message:
    partition: int
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Feed:
    """Sends until `stop`, or until `n_pairs` distinct pairs are sent. Use it in a `with`.

    Of the distinct pairs it sends no more than `allowance`; while it waits for a higher one it sends older ones again,
    so that there is always something to do.

    Args:
        settings: where to; its `give_up_after_s` bounds one try, and there is no bound to how often it tries.
        seed: of what is sent.
        pairs_per_s: of the sending, at most.
        n_pairs: how many distinct pairs there are.

    Attributes:
        allowance: how many distinct pairs may be sent now; all of them, unless it is set.
        n_sent: distinct pairs sent and acknowledged.
        n_invalid: messages that are no valid pairs, sent at least once.
        n_retries: how often something was sent again.
    """

    def __init__(self, settings: KafkaSettings, *, seed: int, pairs_per_s: int, n_pairs: int) -> None:
        self._settings = settings
        self._chance = random.Random(seed)
        self._per_tick = max(1, round(pairs_per_s * TICK_S))
        self._n_pairs = n_pairs
        self._pairs = distinct_pairs(n_pairs)
        self._stopping = threading.Event()
        self._done = threading.Event()
        self.allowance = n_pairs
        self.n_sent = 0
        self.n_invalid = 0
        self.n_retries = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="feed")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join(self._settings.give_up_after_s + 30)

    def __len__(self) -> int:
        """The distinct pairs that it is to send."""
        return self._n_pairs

    @property
    def is_done(self) -> bool:
        """Whether all is sent; raises what went wrong, if anything did."""
        if self.error is not None:
            raise AssertionError("the feed has failed") from self.error
        return self._done.is_set()

    def stop(self, timeout_s: float = 60) -> None:
        """Send what has been begun, and no more."""
        self._stopping.set()
        assert self._done.wait(timeout_s), f"the feed did not end within {timeout_s} s"
        assert self.is_done

    def pair_ids(self) -> set[bytes]:
        """Of the distinct pairs that were sent and acknowledged."""
        return set(self._pairs.column("pair_id").slice(0, self.n_sent).to_pylist())

    def _run(self) -> None:
        producer = None
        try:
            next_s = time.monotonic()
            while not self._stopping.is_set() and self.n_sent < self._n_pairs:
                n_pairs = max(0, min(self._per_tick, self.allowance - self.n_sent, self._n_pairs - self.n_sent))
                messages = self._messages(n_pairs)
                while True:
                    try:
                        producer = producer or make_producer(self._settings)
                        futures = [
                            producer.send(
                                self._settings.topics.pairs,
                                each.value,
                                b"" if each.value is None else None,  # the client wants one of the two
                                headers=each.headers,
                                partition=each.partition,
                            )
                            for each in messages
                        ]
                        for future in futures:
                            future.get(timeout=self._settings.give_up_after_s)
                        break
                    except KafkaError:
                        self.n_retries += 1
                        if producer is not None:
                            end_producer(producer)
                        producer = None
                self.n_sent += n_pairs
                next_s = max(next_s + TICK_S, time.monotonic() - 1.0)
                self._stopping.wait(max(0.0, next_s - time.monotonic()))
        except BaseException as error:
            self.error = error
        finally:
            if producer is not None:
                end_producer(producer)
            self._done.set()

    def _messages(self, n_pairs: int) -> list[_Message]:
        """The next pairs, some older ones, and some that are none."""
        chance = self._chance
        rows = list(range(self.n_sent, self.n_sent + n_pairs))
        n_again = sum(chance.random() < SHARE_AGAIN for _ in range(self._per_tick))
        rows += [chance.randrange(self.n_sent + n_pairs) for _ in range(n_again)] if self.n_sent else []
        chance.shuffle(rows)
        batch = self._pairs.take(pa.array(rows, pa.int64()))
        homes = home(batch.column("pair_id"), self._settings.partitions)
        away = np.array([chance.random() < SHARE_AWAY for _ in rows], bool)
        elsewhere = np.array([chance.randrange(self._settings.partitions) for _ in rows], np.int64)
        homes = np.where(away, elsewhere, homes)
        messages: list[_Message] = []
        for partition in range(self._settings.partitions):
            of_partition = batch.take(pa.array(np.flatnonzero(homes == partition), pa.int64()))
            if not of_partition.num_rows:
                continue
            if chance.random() < 0.5:
                messages += [_Message(partition, value, []) for value in encode_json(of_partition)]
            else:
                messages.append(_Message(partition, encode_arrow(of_partition), list(ARROW_HEADERS)))
        for _ in rows:
            if chance.random() < SHARE_INVALID:
                self.n_invalid += 1
                partition = chance.randrange(self._settings.partitions)
                messages.append(_Message(partition, chance.choice(INVALID), []))
        return messages


def distinct_pairs(n_pairs: int) -> pa.RecordBatch:
    """The first so many: the real pairs, again and again with other urls."""
    real = real_pairs()
    urls, texts = (real.column(name).to_pylist() for name in ("url", "text"))
    rows = [divmod(i, len(urls)) for i in range(n_pairs + n_pairs // 8)]  # the shards have some pairs twice
    columns = ([f"{urls[i]}#{k}".encode() for k, i in rows], [texts[i].encode() for _, i in rows])
    valid, _ = validate(Records("feed", 0, *(pa.array(column, pa.binary()) for column in columns)))
    first: dict[bytes, int] = {}
    for index, pair_id in enumerate(valid.column("pair_id").to_pylist()):
        first.setdefault(pair_id, index)
    indices = list(first.values())[:n_pairs]
    assert len(indices) == n_pairs
    return valid.take(pa.array(indices))
