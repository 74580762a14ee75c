"""How long partitions waited for a commit although there was something to do."""

from __future__ import annotations

import numpy as np
from kafka_topics import read_partition

from consumers.ledger import LedgerRecord
from consumers.messages import offset_and_row
from consumers.settings import KafkaSettings


def longest_idle_s(settings: KafkaSettings, began_s: float, ended_s: float) -> list[float]:
    """Of each partition the longest that it waited between these times, in seconds since 1970."""
    times = [idle_times(settings, partition, began_s, ended_s) for partition in range(settings.partitions)]
    return [float(each.max(initial=0.0)) for each in times]


def idle_times(settings: KafkaSettings, partition: int, began_s: float, ended_s: float) -> np.ndarray:
    """Of each commit of a partition, how long it had been waited for: since the one before, if input was there already.

    Times before and after the storm are left out. What was waiting at its end counts until then.
    """
    pairs = read_partition(settings, settings.topics.pairs, partition)
    offsets = np.array([record.offset for record in pairs], np.int64)
    came_s = np.array([record.timestamp / 1e3 for record in pairs])
    commits_s, reached = [began_s], [0]
    for record in read_partition(settings, settings.topics.ledger, partition):
        if not (decoded := LedgerRecord.decode(record.value, "ledger")).is_last:
            continue
        offset, row = offset_and_row(decoded.next)
        assert row == 0, "each message here is taken as a whole"
        commits_s.append(record.timestamp / 1e3)
        reached.append(offset)
    commits_s.append(ended_s)
    waiting_for = np.searchsorted(offsets, reached)  # of each commit, the first record that it did not cover
    idle = []
    for k, first in enumerate(waiting_for):
        if first < len(offsets) and k + 1 < len(commits_s):
            since_s = max(commits_s[k], came_s[first], began_s)
            idle.append(min(commits_s[k + 1], ended_s) - since_s)
    return np.array(idle)
