"""Whether the partitions of a process move on: the watch over what stands still without an error.

A partition *stalls* when it has something to read and its position does not move, for longer than a limit. What gives
a reason to wait has a longer limit of its own: a partition that is being restored, and a table that is being settled.
While no broker answers nothing can be said, and no time counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consumers.messages import offset_and_row, position


@dataclass(frozen=True)
class Place:
    """Where a process is in a partition.

    Attributes:
        position: up to which nothing is left to do, as in `messages.position`. It means nothing while not ready.
        is_ready: whether its input could be taken now; if not, there is something else to do first.
        n_restored: a number that grows with each step of that, and begins at 0 when it begins anew.
    """

    position: int = 0
    is_ready: bool = True
    n_restored: int = 0


@dataclass(frozen=True)
class Standing:
    """What is known of a partition now.

    Attributes:
        is_ready: see `Place`.
        offset: where it is; None before it was ready for the first time.
        lag: offsets from there to the end, markers of transactions among them; None where one of the two is not known.
        still_s: for how many seconds it has not moved although there was something to do.
        is_stalled: whether that is for too long.
    """

    is_ready: bool
    offset: int | None
    lag: int | None
    still_s: float
    is_stalled: bool


@dataclass
class _Track:
    moved_s: float
    ready_s: float
    is_ready: bool = False
    position: int | None = None
    n_restored: int = 0
    end: int | None = None


class Progress:
    """Follows the partitions of a process. Any thread may call it.

    Args:
        limit_s: how long a partition that is ready may stand still.
        patience_s: how long one may take until it is ready, without a step forward; and how long one may stand still
            that becomes ready again and again.
        clock: seconds.

    >>> now_s = 0.0
    >>> progress = Progress(60, 900, lambda: now_s)
    >>> progress.see({3: Place(position(10))}, {3: 15})
    >>> now_s = 61.0
    >>> progress.see({3: Place(position(10))}, {3: 20})
    >>> progress.standings()
    {3: Standing(is_ready=True, offset=10, lag=10, still_s=61.0, is_stalled=True)}
    """

    def __init__(self, limit_s: float, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tracks: dict[int, _Track] = {}

    def see(self, places: Mapping[int, Place], ends: Mapping[int, int] | None) -> None:
        """Take note of where all partitions are that belong to the process; others are forgotten.

        Args:
            places: by partition.
            ends: the offset at which each ends, for those of which it is known; None when no broker answers.
        """
        with self._lock:
            now_s = self._clock()
            self._tracks = {p: self._tracks.get(p) or _Track(now_s, now_s) for p in places}
            is_restoring = False
            for partition, place in places.items():
                track = self._tracks[partition]
                if ends is None:
                    track.moved_s = track.ready_s = now_s
                elif partition in ends:
                    track.end = ends[partition]
                if place.is_ready:
                    _see_ready(track, place, now_s)
                elif place.n_restored > track.n_restored:
                    track.n_restored, track.moved_s = place.n_restored, now_s
                    is_restoring = True
                track.is_ready = place.is_ready
            if is_restoring:  # the others wait for their turn
                for track in self._tracks.values():
                    if not track.is_ready:
                        track.moved_s = now_s

    def standings(self) -> dict[int, Standing]:
        """Of each partition, by its number."""
        with self._lock:
            now_s = self._clock()
            return {partition: self._standing(track, now_s) for partition, track in sorted(self._tracks.items())}

    def _standing(self, track: _Track, now_s: float) -> Standing:
        offset = None if track.position is None else offset_and_row(track.position)[0]
        is_late = track.is_ready and now_s - track.ready_s > self._limit_s
        return Standing(
            track.is_ready,
            offset,
            None if offset is None or track.end is None else max(0, track.end - offset),
            now_s - track.moved_s,
            is_late or now_s - track.moved_s > self._patience_s,
        )


def _see_ready(track: _Track, place: Place, now_s: float) -> None:
    """Becoming ready gives time, but is no step forward: a partition can fail and be restored without end."""
    if not track.is_ready:
        track.ready_s = now_s
    has_moved = track.position is None or place.position > track.position
    if has_moved or track.end is None or place.position >= position(track.end):
        track.moved_s = track.ready_s = now_s
    track.position = place.position
