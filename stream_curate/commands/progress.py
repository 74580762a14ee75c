"""How far a run has come: a moving line on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import structlog
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from stream_curate.curate import Curation
from stream_curate.sources import Source
from stream_curate.table.state import Numbers

LOG_INTERVAL_S = 10.0

log = structlog.get_logger()


class RunProgress:
    """Shows the numbers of a run while it goes on."""

    def __init__(self, sources: Sequence[Source], curation: Curation) -> None:
        self._places = {source.uri: place for place, source in enumerate(sources)}
        self._n_read_before = curation.numbers.n_read
        self._start_s = self._logged_s = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                SpinnerColumn(),
                TimeElapsedColumn(),
                TextColumn("source {task.fields[place]}/{task.total}", markup=False),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=len(sources), place=1, numbers="starting")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, source: Source, numbers: Numbers) -> None:
        """Take in the numbers after one more batch."""
        now_s = time.monotonic()
        rate = (numbers.n_read - self._n_read_before) / max(now_s - self._start_s, 1e-9)
        if self._bar is not None:
            words = f"{numbers.n_read:,} read, {numbers.n_in_table:,} kept, {rate:,.0f} pairs/s"
            self._bar.update(self._task, place=self._places[source.uri] + 1, numbers=words)
        elif now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            log.info(
                "curating",
                source=source.name,
                n_read=numbers.n_read,
                n_in_table=numbers.n_in_table,
                n_rejected=numbers.n_rejected,
                pairs_per_second=round(rate),
            )
