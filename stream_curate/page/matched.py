"""What a text matches, with counts and the probability to be kept: never a draw, and never a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from stream_curate.balance import keep_probability
from stream_curate.matching import Matcher, make_matcher
from stream_curate.metadata import Metadata
from stream_curate.page.curves import MAX_ENTRY_BYTES
from stream_curate.pairs import MAX_TEXT_BYTES, Records, validate
from stream_curate.printable import printable

N_MATCHES_SHOWN = 100


def matched_entries(
    metadata: Metadata, entry_ids: np.ndarray, entry_counts: np.ndarray, threshold: int, n_shown: int
) -> dict[str, Any]:
    """The matched entries of one text, rarest first, and P(keep) of a pair with this text.

    P(keep) is over all seeds: that of another url with the same text is the same, while their draws differ.

    Args:
        metadata: the entries.
        entry_ids: int32[n_matches].
        entry_counts: int64[n_entries].
        threshold: t.
        n_shown: entries listed at most.
    """
    counts = entry_counts[entry_ids]
    shown = np.argsort(counts, kind="stable")[:n_shown]
    return {
        "n_matched": len(entry_ids),
        "keep_probability": keep_probability(counts, threshold),
        "is_tail": bool(len(counts)) and int(counts.min()) <= threshold,
        "entries": [
            {
                "entry": printable(metadata.entry(int(entry_ids[i])), MAX_ENTRY_BYTES),
                "count": int(counts[i]),
                "keep_probability": min(1.0, threshold / max(int(counts[i]), 1)),
            }
            for i in shown.tolist()
        ],
    }


class TextBox:
    """Answers for any text. Making it takes about a second and, for the shipped list, 50 MB."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._matcher: Matcher = make_matcher("trie", metadata.entries)

    def answer(self, text: bytes, entry_counts: np.ndarray, threshold: int) -> dict[str, Any]:
        """What `text` matches; `refused` is the reason when no pair can have it.

        Args:
            text: up to 64 KiB, UTF-8 or not.
            entry_counts: int64[n_entries].
            threshold: t.
        """
        records = Records("page:", 0, pa.array([b"http://x"], pa.binary()), pa.array([text], pa.binary()))
        pairs, rejections = validate(records)
        if rejections:
            return {"refused": rejections[0].reason.value, "max_bytes": MAX_TEXT_BYTES}
        matches = self._matcher.match(pairs.column("text"))
        return {
            "refused": None,
            "threshold": threshold,
            **matched_entries(self._metadata, matches.entry_ids, entry_counts, threshold, N_MATCHES_SHOWN),
        }
