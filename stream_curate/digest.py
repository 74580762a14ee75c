"""One value for a set of pairs: equal sets, and only those, have equal digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from stream_curate.pairs import PAIR_ID

_CHUNK_PAIRS = 2**20
_HEX = np.array([f"{byte:02x}".encode() for byte in range(256)], "S2")


def digest(pair_ids: Iterable[pa.Array]) -> str:
    """SHA-256 of the sorted distinct pair_ids in hex, each followed by a newline.

    Args:
        pair_ids: columns of 16-byte values, in any order. Needs some 40 bytes of memory a pair.

    >>> digest([]) == hashlib.sha256(b"").hexdigest()
    True
    """
    columns = [column.cast(PAIR_ID) for column in pair_ids if len(column)]
    ids = [np.frombuffer(column.buffers()[1], "S16", len(column), 16 * column.offset) for column in columns]
    distinct = np.unique(np.concatenate(ids)) if ids else np.zeros(0, "S16")
    sha256 = hashlib.sha256()
    for start in range(0, len(distinct), _CHUNK_PAIRS):
        raw = np.ascontiguousarray(distinct[start : start + _CHUNK_PAIRS]).view(np.uint8).reshape(-1, 16)
        lines = np.full((len(raw), 33), ord("\n"), np.uint8)
        lines[:, :32] = _HEX[raw].view(np.uint8)
        sha256.update(lines.tobytes())
    return sha256.hexdigest()
