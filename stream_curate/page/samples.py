"""Sample decisions: pairs that the table holds, pairs that were seen to leave it, and records that were rejected.

What was dropped as it came stands nowhere, so that none of it can be shown; how much it was stands in the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stream_curate.chances import Chances
from stream_curate.curator import matches_of
from stream_curate.metadata import Metadata
from stream_curate.page.matched import matched_entries
from stream_curate.printable import printable, without_credentials
from stream_curate.sources.source import display_name
from stream_curate.table.append_file import Mark

MAX_TEXT_BYTES = 300
MAX_URL_BYTES = 200
N_ENTRIES_OF_A_PAIR = 5
_TAIL_BYTES = 64 * 1024
_COLUMNS = ["pair_id", "url", "text", "entry_ids"]


@dataclass(frozen=True)
class SampledPair:
    """A pair that was found in the table: `admitted` at a checkpoint, and `kept` or `evicted` at a settle since then.

    `url` is None once it is no longer there.
    """

    pair_id: bytes
    url: str | None
    text: str
    entry_ids: np.ndarray
    checkpoint: int
    what: str = "admitted"

    def judged(self, *, is_kept: bool, checkpoint: int) -> SampledPair:
        """After a settle. Of a pair that is not in the table the url is not told: that would tell what gets in."""
        if is_kept:
            return replace(self, what="kept", checkpoint=checkpoint)
        return replace(self, what="evicted", url=None, checkpoint=checkpoint)

    def as_dict(self, metadata: Metadata, chances: Chances) -> dict[str, Any]:
        """As the page shows it, escaped."""
        return {
            "what": self.what,
            "checkpoint": self.checkpoint,
            "url": shown_url(self.url) if self.url is not None else None,
            "text": printable(self.text, MAX_TEXT_BYTES),
            **matched_entries(metadata, self.entry_ids, chances, N_ENTRIES_OF_A_PAIR),
        }


def shown_url(url: str) -> str:
    """A url as text that is safe to show, without what lets somebody in."""
    return printable(without_credentials(url), MAX_URL_BYTES)


def sample_rows(
    folder: Path, names: Iterable[str], n_rows: int, checkpoint: int, what: str = "admitted"
) -> list[SampledPair]:
    """Some rows of these data files, the same at each call; one row group of each is read.

    Raises:
        OSError, pa.ArrowException: when a file cannot be read, being gone for example.
    """
    rng = np.random.default_rng(checkpoint)
    chosen = list(names)
    sampled: list[SampledPair] = []
    for i, name in enumerate(chosen):
        n_wanted = n_rows * (i + 1) // len(chosen) - len(sampled)
        with pq.ParquetFile(folder / name) as file:
            rows = file.read_row_group(int(rng.integers(file.num_row_groups)), columns=_COLUMNS)
        picked = np.sort(rng.choice(len(rows), min(n_wanted, len(rows)), replace=False))
        sampled += _pairs_of(rows.take(pa.array(picked)), checkpoint, what)
    return sampled


def _pairs_of(rows: pa.Table, checkpoint: int, what: str) -> list[SampledPair]:
    if not len(rows):
        return []
    batch = rows.combine_chunks().to_batches()[0]
    matches = matches_of(batch)
    values = (batch.column(name).to_pylist() for name in _COLUMNS[:3])
    return [
        SampledPair(pair_id, url, text, matches.entry_ids[first:last].copy(), checkpoint, what)
        for pair_id, url, text, first, last in zip(
            *values, matches.offsets[:-1].tolist(), matches.offsets[1:].tolist(), strict=True
        )
    ]


def newest_rejections(rejects_file: Path, mark: Mark, n: int) -> list[dict[str, Any]]:
    """The last `n` rejected records below the mark, newest first; none when the list is not there."""
    first = max(0, mark.n_bytes - _TAIL_BYTES)
    try:
        with open(rejects_file, "rb") as file:
            file.seek(first)
            lines = file.read(mark.n_bytes - first).splitlines()
    except OSError:
        return []
    found = []
    for line in reversed(lines):
        rejection = _rejection_of(line)
        if rejection is not None:
            found.append(rejection)
        if len(found) == n:
            break
    return found


def _rejection_of(line: bytes) -> dict[str, Any] | None:
    """None for a line that is cut, or is not ours."""
    try:
        values = orjson.loads(line)
        return {
            "what": "rejected",
            "reason": printable(values["reason"], 40),
            "source": printable(display_name(values["source"]), MAX_URL_BYTES),
            "row": int(values["row"]),
            "preview": printable(without_credentials(values["preview"]), MAX_TEXT_BYTES),
        }
    except (ValueError, KeyError, TypeError):
        return None
