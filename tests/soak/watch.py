"""What is looked at during a soak: memory and open files of each process, how far the workers are, and their metrics.

The metrics are asked for as Prometheus does, and not looked into: to answer must leave nothing behind, either.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.clients import make_consumer
from consumers.ends import last_records, positions_at_end
from consumers.ledger import LedgerRecord
from consumers.messages import offset_and_row
from consumers.settings import KafkaSettings

EVERY_S = 1.0
LAG_EVERY_S = 2.0
SCRAPE_EVERY_S = 5.0
SCRAPE_TIMEOUT_S = 2.0
MOST_IN_SLOPE = 600


@dataclass(frozen=True)
class Sample:
    """One look at one process.

    Attributes:
        at_s: since the watch began.
        rss_bytes: its resident set.
        n_fds: its open file descriptors.
    """

    at_s: float
    rss_bytes: int
    n_fds: int


@dataclass(frozen=True)
class Life:
    """One process from its start to its end, at the times it was looked at."""

    name: str
    pid: int
    samples: list[Sample]

    def after(self, begin_s: float, end_s: float) -> Life:
        """The part of it between these times."""
        return Life(self.name, self.pid, [each for each in self.samples if begin_s <= each.at_s <= end_s])

    @property
    def seconds(self) -> float:
        """From the first look to the last."""
        return self.samples[-1].at_s - self.samples[0].at_s if self.samples else 0.0

    @property
    def at_s(self) -> np.ndarray:
        return np.array([each.at_s for each in self.samples])

    @property
    def rss_mb(self) -> np.ndarray:
        return np.array([each.rss_bytes / 1e6 for each in self.samples])

    @property
    def n_fds(self) -> np.ndarray:
        return np.array([each.n_fds for each in self.samples])


def slope_per_minute(at_s: np.ndarray, values: np.ndarray) -> float:
    """The median of the slopes between any two of the values (Theil and Sen); 0 for fewer than two.

    A buffer that grows once, a step, is no slope of it; stairs are, however wide.
    """
    every = max(1, len(values) // MOST_IN_SLOPE)
    at_s, values = at_s[::every], values[::every]
    earlier, later = np.triu_indices(len(values), 1)
    if not len(earlier):
        return 0.0
    return 60 * float(np.median((values[later] - values[earlier]) / (at_s[later] - at_s[earlier])))


def least_between(at_s: np.ndarray, values: np.ndarray, every_s: float) -> np.ndarray:
    """The least value of each interval of so many seconds, one after the other; those without a value are left out."""
    intervals = (at_s // every_s).astype(int)
    return np.array([values[intervals == each].min() for each in np.unique(intervals)])


def growth(values: np.ndarray) -> float:
    """How much higher the median of the last third is than that of the first; 0 for fewer than three values."""
    third = len(values) // 3
    return float(np.median(values[-third:]) - np.median(values[:third])) if third else 0.0


class Places:
    """How far the ledger is in the input. Not for several threads."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._places = [TopicPartition(settings.topics.pairs, p) for p in range(settings.partitions)]
        self._consumer: KafkaConsumer = make_consumer(settings)

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    def reached(self) -> list[int]:
        """Of each partition the position up to which all is in the ledger."""
        found = last_records(self._consumer, self._topics.ledger, self._settings.partitions, timeout_s=5)
        return [0 if each is None else LedgerRecord.decode(each.value, "ledger").next for each in found]

    def targets(self) -> tuple[int, ...]:
        """Of each partition the position at which it ends now."""
        return positions_at_end(self._consumer, self._topics.pairs, self._settings.partitions, timeout_s=5)

    def lag(self) -> tuple[int, int]:
        """Messages that are in the ledger, and those that wait; a few too many, as marks of transactions count."""
        ends = self._consumer.end_offsets(self._places)
        done = [offset_and_row(reached)[0] for reached in self.reached()]
        waiting = sum(max(0, ends[place] - offset) for place, offset in zip(self._places, done, strict=True))
        return sum(done), waiting


class Watch:
    """Looks until it is left. Use it in a `with`.

    Attributes:
        lags: (seconds since the watch began, messages done, messages waiting); nothing while no broker answers.
        faults: (seconds since the watch began, kind, what exactly), for others to fill.
        n_scrapes: how often metrics came.
    """

    def __init__(
        self, settings: KafkaSettings, pids: Callable[[], Mapping[str, int]], ports: Sequence[int] = ()
    ) -> None:
        self._settings = settings
        self._pids = pids
        self._ports = ports
        self._began_s = time.monotonic()
        self._over = threading.Event()
        self._samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        self.lags: list[tuple[float, int, int]] = []
        self.faults: list[tuple[float, str, str]] = []
        self.n_scrapes = 0
        targets = (self._sample, self._follow, self._scrape)
        self._threads = [threading.Thread(target=each, daemon=True) for each in targets]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(self._settings.give_up_after_s + 10)

    @property
    def now_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began_s

    @property
    def lives(self) -> list[Life]:
        """Of all processes, by name, in the order in which they were first seen."""
        found = [Life(name, pid, list(samples)) for (name, pid), samples in list(self._samples.items())]
        return sorted(found, key=lambda life: (life.name, life.samples[0].at_s))

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            for name, pid in self._pids().items():
                sample = look_at(pid, self.now_s) if pid else None
                if sample is not None:
                    self._samples[name, pid].append(sample)

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                with closing(Places(self._settings)) as places:
                    while not self._over.wait(LAG_EVERY_S):
                        self.lags.append((self.now_s, *places.lag()))
            except KafkaError:
                self._over.wait(1.0)

    def _scrape(self) -> None:
        while not self._over.wait(SCRAPE_EVERY_S):
            self.n_scrapes += sum(has_metrics(port) for port in self._ports)


def has_metrics(port: int) -> bool:
    """Whether /metrics is answered at this port of this machine."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SCRAPE_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/metrics")
            return b"stream_curate_" in connection.getresponse().read()
        except (OSError, http.client.HTTPException):  # it does not run, or is stopped
            return False


def look_at(pid: int, at_s: float) -> Sample | None:
    """A process as the system counts it now, None if it is not there."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        n_fds = len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return None
    return Sample(at_s, pages * os.sysconf("SC_PAGE_SIZE"), n_fds) if pages else None
