"""How often each entry has been matched: exactly, or in a count-min sketch."""

from stream_curate.counting.coins import CountsAndCoins
from stream_curate.counting.count_min import CountMinCounts
from stream_curate.counting.counts import COUNTER_KINDS, Counter, CounterKind, Counts
from stream_curate.counting.exact import ExactCounts
from stream_curate.counting.increments import increments_of
from stream_curate.errors import ConfigError

__all__ = [
    "COUNTER_KINDS",
    "CountMinCounts",
    "Counter",
    "CounterKind",
    "Counts",
    "CountsAndCoins",
    "ExactCounts",
    "empty_counts",
    "increments_of",
    "load_counts",
]


def empty_counts(counter: Counter, n_entries: int) -> Counts:
    """A counter that has counted nothing yet.

    Raises:
        ConfigError: for a size that no sketch can have.
    """
    if counter.kind == "exact":
        return ExactCounts(n_entries)
    if counter.kind == "count-min":
        return CountMinCounts(counter.num_hashes, counter.num_buckets)
    raise ConfigError(f"there is no counter {counter.kind!r}: choose one of {', '.join(COUNTER_KINDS)}")


def load_counts(counter: Counter, n_entries: int, data: bytes) -> Counts:
    """What `Counts.to_bytes` wrote.

    Raises:
        ValueError: when the bytes are not of this counter and size.
    """
    if counter.kind == "exact":
        return ExactCounts.from_bytes(data, n_entries)
    return CountMinCounts.from_bytes(data, counter)
