"""How far a run has come: a moving line on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from stream_curate.curate import Curation
from stream_curate.sources import Source
from stream_curate.table.state import Numbers

LOG_INTERVAL_S = 10.0

log = structlog.get_logger()


class StreamProgress:
    """Shows what is told to it.

    Args:
        doing: what the log calls it, such as "curating".
        unit: what is gone through: "source", "partition".
        n_places: how many of these there are.
    """

    def __init__(self, doing: str, unit: str, n_places: int) -> None:
        self._doing = doing
        self._start_s = self._logged_s = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                SpinnerColumn(),
                TimeElapsedColumn(),
                TextColumn(unit + " {task.fields[place]}/{task.total}", markup=False),
                TextColumn("{task.fields[words]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=n_places, place=1, words="starting")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, place: int, source: str, words: str, n_done: int, **numbers: Any) -> None:
        """Take in where it is after one more batch.

        Args:
            place: which source or partition, from 0 on.
            source: its name, for the log.
            words: the numbers, for the line.
            n_done: pairs or records done in this run, from which the rate is told.
            numbers: for the log.
        """
        now_s = time.monotonic()
        rate = n_done / max(now_s - self._start_s, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, place=place + 1, words=f"{words}, {rate:,.0f} pairs/s")
        elif now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            log.info(self._doing, source=source, **numbers, pairs_per_second=round(rate))


class RunProgress(StreamProgress):
    """Shows the numbers of a curation while it goes on."""

    def __init__(self, sources: Sequence[Source], curation: Curation) -> None:
        super().__init__("curating", "source", len(sources))
        self._places = {source.uri: place for place, source in enumerate(sources)}
        self._n_read_before = curation.numbers.n_read

    def show(self, source: Source, numbers: Numbers) -> None:
        """Take in the numbers after one more batch."""
        self.tell(
            self._places[source.uri],
            source.name,
            f"{numbers.n_read:,} read, {numbers.n_in_table:,} kept",
            numbers.n_read - self._n_read_before,
            n_read=numbers.n_read,
            n_in_table=numbers.n_in_table,
            n_rejected=numbers.n_rejected,
        )
