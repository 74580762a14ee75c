"""What a text matches, with counts and the probability to be kept: never a draw, and never a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from stream_curate.chances import Chances
from stream_curate.matching import Matcher, make_matcher
from stream_curate.metadata import Metadata
from stream_curate.page.curves import MAX_ENTRY_BYTES
from stream_curate.pairs import MAX_TEXT_BYTES, Records, validate
from stream_curate.printable import printable

N_MATCHES_SHOWN = 100


def matched_entries(metadata: Metadata, entry_ids: np.ndarray, chances: Chances, n_shown: int) -> dict[str, Any]:
    """The matched entries of one text, rarest first, and P(keep) of a pair with this text.

    P(keep) is over all seeds: that of another url with the same text is the same, while their draws differ.

    Args:
        metadata: the entries.
        entry_ids: int32[n_matches].
        chances: to be kept.
        n_shown: entries listed at most.
    """
    counts = chances.entry_counts[entry_ids]
    shown = np.argsort(counts, kind="stable")[:n_shown]
    return {
        "n_matched": len(entry_ids),
        "keep_probability": chances.of_pair(entry_ids),
        "is_tail": bool(len(counts)) and int(counts.min()) <= chances.tail_count,
        "entries": [
            {
                "entry": printable(metadata.entry(int(entry_ids[i])), MAX_ENTRY_BYTES),
                "count": int(counts[i]),
                "keep_probability": chance,
            }
            for i, chance in zip(shown.tolist(), chances.of_entries(entry_ids[shown]).tolist(), strict=True)
        ],
    }


class TextBox:
    """Answers for any text. Making it takes about a second and, for the shipped list, 50 MB."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._matcher: Matcher = make_matcher("trie", metadata.entries)

    def answer(self, text: bytes, chances: Chances) -> dict[str, Any]:
        """What `text` matches; `refused` is the reason when no pair can have it.

        Args:
            text: up to 64 KiB, UTF-8 or not.
            chances: to be kept.
        """
        records = Records("page:", 0, pa.array([b"http://x"], pa.binary()), pa.array([text], pa.binary()))
        pairs, rejections = validate(records)
        if rejections:
            return {"refused": rejections[0].reason.value, "max_bytes": MAX_TEXT_BYTES}
        matches = self._matcher.match(pairs.column("text"))
        return {
            "refused": None,
            "threshold": chances.tail_count,
            **matched_entries(self._metadata, matches.entry_ids, chances, N_MATCHES_SHOWN),
        }
