"""What /livez and /readyz say: whether a process gets anywhere, and whether it has all that it needs.

*Alive* is who makes progress, or has nothing to do, or waits for what it cannot mend: never only who is not behind.
Whoever is told not to be alive is started again, so that what takes long in order has a limit of its own, and long
ones: loading and compiling, restoring, a settle, brokers that are away.

*Ready* is who has its metadata, its partitions or its table, and a broker that answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consumers.progress import Standing

START_LIMIT_S = 900.0
AWAY_LIMIT_S = 3_600.0
READY_WITHIN_S = 15.0
MOST_SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """Yes or no, and why, for people."""

    is_ok: bool
    words: str


class Health:
    """Of one process. Its threads set, and those of the server ask.

    Attributes:
        lacks: in words, what the process still needs to be ready; empty if nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lacks = "the metadata is being loaded"
        self._clock = clock
        self._begun_s = clock()
        self._answered_s: float | None = None
        self._is_started = False

    def started(self) -> None:
        """All is loaded: the work begins."""
        self._answered_s = self._clock()  # brokers were asked on the way
        self._is_started = True

    def answered(self) -> None:
        """A broker has answered."""
        self._answered_s = self._clock()

    def live(self, standings: Mapping[int, Standing]) -> Verdict:
        """Whether to let it go on."""
        if not self._is_started:
            seconds = self._clock() - self._begun_s
            is_ok = seconds <= START_LIMIT_S
            return Verdict(
                is_ok, f"starting for {seconds:.0f} s" + ("" if is_ok else f"; {START_LIMIT_S:g} are plenty")
            )
        stalled = {partition: each for partition, each in standings.items() if each.is_stalled}
        if stalled:
            return Verdict(False, _stalled_words(stalled))
        away_s = self._away_s()
        if away_s > AWAY_LIMIT_S:
            return Verdict(False, f"no broker has answered for {away_s:.0f} s")
        return Verdict(True, "alive" if away_s <= READY_WITHIN_S else f"no broker answers, for {away_s:.0f} s")

    def ready(self, waiting: Sequence[int]) -> Verdict:
        """Whether it has all that it needs; `waiting` are partitions that it cannot work on yet."""
        if self.lacks:
            return Verdict(False, self.lacks)
        if waiting:
            return Verdict(False, f"being restored: {_listed(waiting)}")
        away_s = self._away_s()
        if away_s > READY_WITHIN_S:
            return Verdict(False, f"no broker answers, for {away_s:.0f} s")
        return Verdict(True, "ready")

    def _away_s(self) -> float:
        since_s = self._begun_s if self._answered_s is None else self._answered_s
        return self._clock() - since_s


def _stalled_words(stalled: Mapping[int, Standing]) -> str:
    longest_s = max(each.still_s for each in stalled.values())
    return f"there is something to do and no progress, for up to {longest_s:.0f} s: {_listed(list(stalled))}"


def _listed(partitions: Sequence[int]) -> str:
    shown = ", ".join(map(str, partitions[:MOST_SHOWN])) + (", ..." if len(partitions) > MOST_SHOWN else "")
    return f"{'partition' if len(partitions) == 1 else 'partitions'} {shown}"
