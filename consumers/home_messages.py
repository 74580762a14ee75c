"""Pairs as Arrow messages, each of them for one partition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

ARROW_MESSAGE_PAIRS = 4_096
ARROW_MESSAGE_BYTES = 1024 * 1024  # of url, text and kept columns; a pair may have half of that


def home_messages(pairs: pa.RecordBatch, homes: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The pairs by the partition where they are at home, in pieces that fit into a message.

    Args:
        pairs: in the columns of `pairs.pair_schema`.
        homes: int64[n_pairs], see `messages.home`.
    """
    for partition in np.unique(homes).tolist():
        of_partition = pairs.take(pa.array(np.flatnonzero(homes == partition)))
        for message in message_sized(of_partition):
            yield partition, message


def message_sized(pairs: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Pairs in pieces that fit into a message; none of no pairs."""
    if pairs.num_rows > ARROW_MESSAGE_PAIRS or (pairs.num_rows > 1 and pairs.nbytes > ARROW_MESSAGE_BYTES):
        n_first = min(ARROW_MESSAGE_PAIRS, pairs.num_rows // 2)
        yield from message_sized(pairs.slice(0, n_first))
        yield from message_sized(pairs.slice(n_first))
    elif pairs.num_rows:
        yield pairs
