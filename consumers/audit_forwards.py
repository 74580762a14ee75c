"""Pairs that were not at home: each that was passed on must stand in its home partition, as often as it was."""

from __future__ import annotations

from array import array
from collections import Counter as Multiset
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import xxhash

from consumers.audit_reading import place_in_words, position_in_words
from consumers.audit_report import AuditReport, CheckName
from consumers.messages import MAX_ARROW_ROWS

Route = tuple[int, int]
"""Where a pair was found, and its home."""


class _Places:
    """Pairs, each by a hash of 64 bits, and the position where it stands."""

    def __init__(self) -> None:
        self._hashes: array[int] = array("Q")
        self._positions: array[int] = array("q")

    def add(self, hashed: int, position: int) -> None:
        self._hashes.append(hashed)
        self._positions.append(position)

    def __len__(self) -> int:
        return len(self._hashes)

    def multiset(self) -> Multiset[int]:
        return Multiset(self._hashes)

    def below(self, position: int) -> _Places:
        """Those that stand below a position."""
        found = _Places()
        for hashed, where in zip(self._hashes, self._positions, strict=True):
            if where < position:
                found.add(hashed, where)
        return found

    def positions_of(self, hashes: Multiset[int]) -> list[int]:
        """Where these stand, each as often as it is there."""
        left = Multiset(hashes)
        found = []
        for hashed, position in zip(reversed(self._hashes), reversed(self._positions), strict=True):
            if left[hashed] > 0:
                left[hashed] -= 1
                found.append(position)
        return sorted(found)


class Forwards:
    """All pairs that were found away from home, and all that arrived there. Memory: 16 bytes for each.

    Args:
        topic: of the input.
        n_partitions: P.
    """

    def __init__(self, topic: str, n_partitions: int) -> None:
        self._topic = topic
        self._n_partitions = n_partitions
        self._sent: dict[Route, _Places] = defaultdict(_Places)
        self._still_to_send: dict[Route, _Places] = defaultdict(_Places)
        self._arrived: dict[Route, _Places] = defaultdict(_Places)

    def take(
        self,
        partition: int,
        pairs: pa.RecordBatch,
        kept: Sequence[int],
        forwarded_from: Mapping[int, bytes],
        *,
        is_covered: bool,
    ) -> np.ndarray:
        """Note the valid pairs of some records of a partition.

        Args:
            partition: where they stand.
            pairs: with their positions in `source_row`.
            kept: a hash of the kept columns of each.
            forwarded_from: offset -> the partition that the message's header names, in decimal.
            is_covered: whether the ledger tells of these records.

        Returns:
            bool[n_pairs]: which are at home.
        """
        ids = pairs.column("pair_id").to_pylist()
        positions = pairs.column("source_row").to_pylist()
        is_home = np.ones(len(ids), bool)
        for index, (pair_id, position) in enumerate(zip(ids, positions, strict=True)):
            home = int.from_bytes(pair_id[:8], "big") % self._n_partitions
            origin = forwarded_from.get(position // MAX_ARROW_ROWS)
            if home == partition and origin is None:
                continue
            hashed = xxhash.xxh3_64_intdigest(pair_id + kept[index].to_bytes(8, "big"))
            if origin is not None:
                self._arrived[_partition(origin), partition].add(hashed, position)
            if home != partition:
                is_home[index] = False
                (self._sent if is_covered else self._still_to_send)[partition, home].add(hashed, position)
        return is_home

    def compare(self, report: AuditReport, ends: Sequence[int], removed: set[int]) -> None:
        """Hold the one against the other.

        Args:
            report: where differences go.
            ends: positions, one for each partition: what arrived below them was sent from input that was read.
            removed: the partitions whose input is not all there any more.
        """
        for origin, home in sorted(self._sent):
            if home in removed:
                report.beyond_checking.append(
                    f"pairs forwarded from partition {origin} to {home}: part of the input of {home} was removed"
                )
                continue
            sent, arrived = self._sent[origin, home], self._arrived[origin, home]
            report.compare(CheckName.FORWARDS, len(sent))
            for position in sent.positions_of(sent.multiset() - arrived.multiset()):
                report.differ(
                    CheckName.FORWARDS,
                    f"{position_in_words(self._topic, origin, position)}: a pair whose home is partition {home} never "
                    "arrived there",
                )
        for origin, home in sorted(self._arrived):
            if origin in removed or not self._arrived[origin, home]:
                continue
            arrived = self._arrived[origin, home].below(ends[home])
            known = self._sent[origin, home].multiset() + self._still_to_send[origin, home].multiset()
            for position in arrived.positions_of(arrived.multiset() - known):
                report.differ(
                    CheckName.FORWARDS,
                    f"{position_in_words(self._topic, home, position)}: a pair that is said to come from "
                    f"{place_in_words(self._topic, origin)}, and does not, or came before",
                )


def _partition(origin: bytes) -> int:
    """-1 for what is no number: no partition has it."""
    return int(origin) if origin.isdigit() and len(origin) < 10 else -1
