"""What a worker and the settler tell from outside, by HTTP, while they work.

    /metrics   numbers for Prometheus (metrics.py)
    /livez     200 while it gets anywhere, else 503, with words (health.py, progress.py)
    /readyz    200 when it has all that it needs
    /status    the same and more, as JSON
    /          with the settler, the page of its table (stream_curate/page)

The process tells its monitor what it does, in passing; threads of the server and of the observer do the rest, so that
nobody who asks holds the work up. No secret is told, and nothing of a pair but what the page shows of the table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import structlog

from consumers.health import Health, Verdict
from consumers.ledger import RuleHeader
from consumers.metrics import CONTENT_TYPE, SettlerMetrics, WorkerMetrics
from consumers.observer import Observer
from consumers.progress import Place, Progress, Standing
from consumers.retries import shown
from consumers.settings import KafkaSettings
from stream_curate import __version__
from stream_curate.errors import ConfigError, UsageError
from stream_curate.page.live import LivePicture
from stream_curate.page.server import Handler, PageServer, Response, add_page
from stream_curate.printable import printable
from stream_curate.table.state import Settled

RESTORE_PATIENCE_S = 900.0
SETTLE_PATIENCE_S = 3_600.0
MAX_ERROR_BYTES = 500

log = structlog.get_logger()


class _Monitor:
    """What both roles have. Made before anything is loaded; without `serve` it costs next to nothing.

    Attributes:
        metrics: those of the role.
        health: see there.
        places: where the process is in its partitions. Replaced as a whole, never changed.
    """

    role: str
    metrics: WorkerMetrics | SettlerMetrics

    def __init__(self, settings: KafkaSettings, topic: str, patience_s: float) -> None:
        self.health = Health()
        self.places: Mapping[int, Place] = {}
        self._settings = settings
        self._topic = topic
        self._progress = Progress(settings.commit_interval_s + settings.stalled_after_s, patience_s)
        self._header: RuleHeader | None = None
        self._last_error: dict[str, object] | None = None
        self._began_s = time.time()
        self._server: PageServer | None = None
        self._showing = threading.Lock()

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Answer while the body lasts, if the settings name a port.

        Raises:
            ConfigError: when the address cannot be bound.
        """
        host, port = self._settings.http_host, self._settings.http_port
        if port is None:
            yield
            return
        try:
            server = PageServer(host, port)
        except UsageError as error:
            raise ConfigError(
                f"{error}. Give another kafka.http_host and kafka.http_port (0 is any free one)"
            ) from None
        self._server = server
        handlers: dict[str, Handler] = {
            "/metrics": lambda request: Response(self.metrics_text(), CONTENT_TYPE),
            "/livez": lambda request: _answer(self.live()),
            "/readyz": lambda request: _answer(self.ready()),
            "/status": lambda request: _as_json(self.status()),
        }
        for path, handler in handlers.items():
            server.add(path, handler)
        log.info("answering", url=server.url, paths=" ".join(handlers))
        try:
            yield
        finally:
            server.close()

    @contextmanager
    def observe(self, header: RuleHeader) -> Iterator[None]:
        """Watch the progress while the body lasts, in which a process with this rule works."""
        self._header = header
        self.health.started()
        if self._server is None:
            yield
            return
        observer = Observer(self._settings, self._topic, lambda: list(self.places), self.look)
        try:
            yield
        finally:
            observer.close()

    def look(self, ends: Mapping[int, int] | None) -> None:
        """Take note of where the partitions end: offsets, or None when no broker answers."""
        if ends is not None:
            self.health.answered()
        self._progress.see(self.places, ends)

    def failed(self, error: BaseException) -> None:
        """Something went wrong, and will be tried again."""
        self._last_error = {"at_s": round(time.time(), 3), "error": printable(shown(error), MAX_ERROR_BYTES)}

    def metrics_text(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        with self._showing:
            self._show(self._standings())
            return self.metrics.text()

    def live(self) -> Verdict:
        """Whether it gets anywhere."""
        return self.health.live(self._standings())

    def ready(self) -> Verdict:
        """Whether it has all that it needs."""
        return self.health.ready(self._waiting())

    def status(self) -> dict[str, Any]:
        """All that there is to tell, but for the numbers."""
        standings = self._standings()
        alive, ready = self.health.live(standings), self.ready()
        return {
            "role": self.role,
            "version": __version__,
            "began_s": round(self._began_s, 3),
            "alive": alive.is_ok,
            "alive_words": alive.words,
            "ready": ready.is_ok,
            "ready_words": ready.words,
            "topic": self._topic,
            "partitions": {
                str(partition): {
                    "state": "ready" if each.is_ready else "waiting",
                    "offset": each.offset,
                    "lag_offsets": each.lag,
                    "still_s": round(each.still_s, 1),
                    "stalled": each.is_stalled,
                }
                for partition, each in standings.items()
            },
            "last_error": self._last_error,
            "rule": self._header.as_dict() if self._header is not None else None,
        }

    def _standings(self) -> dict[int, Standing]:
        """As it is now, and not when the observer looked last."""
        self._progress.see(self.places, {})
        return self._progress.standings()

    def _show(self, standings: Mapping[int, Standing]) -> None:
        raise NotImplementedError

    def _waiting(self) -> list[int]:
        """The partitions without which it is not ready."""
        return []


class WorkerMonitor(_Monitor):
    """Of a worker."""

    role = "worker"

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings, settings.topics.pairs, RESTORE_PATIENCE_S)
        self.metrics: WorkerMetrics = WorkerMetrics()

    def _show(self, standings: Mapping[int, Standing]) -> None:
        now_s = time.time()
        self.metrics.show_partitions(
            lags={partition: each.lag for partition, each in standings.items() if each.lag is not None},
            progress_s={partition: now_s - each.still_s for partition, each in standings.items()},
            n_stalled=sum(each.is_stalled for each in standings.values()),
            n_ready=sum(each.is_ready for each in standings.values()),
            n_owned=len(standings),
        )

    def _waiting(self) -> list[int]:
        return [partition for partition, place in self.places.items() if not place.is_ready]


class SettlerMonitor(_Monitor):
    """Of the settler."""

    role = "settler"

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings, settings.topics.ledger, SETTLE_PATIENCE_S)
        self.metrics: SettlerMetrics = SettlerMetrics()
        self._newest_s = self._cut_s = 0.0
        self._has_page = False

    def pause(self) -> None:
        """Nothing is folded until `places` are told again: a settle, which may take long, or a table in trouble."""
        self.places = {partition: Place(is_ready=False) for partition in self.places}

    def show_table(self, out: Path) -> None:
        """Serve the page of the table, which is there by now."""
        if self._server is None or self._has_page:
            return
        live = LivePicture(out)
        self._server.at_close(live.close)
        add_page(self._server, live)
        self._has_page = True

    def folded(self, written_s: float) -> None:
        """A commit of the ledger was folded, which was written at that time, in seconds since 1970."""
        self._newest_s = max(self._newest_s, written_s)
        self.metrics.folded(self._newest_s)
        if not self._cut_s:  # nothing is settled yet: the age is that of all there is
            self._show_cut(written_s)

    def settled(self, seconds: float, n_evicted: int, n_curated: int) -> None:
        """All that was folded is settled."""
        self.metrics.settled(seconds, n_evicted, n_curated)
        self._show_cut(max(self._newest_s, self._cut_s))

    def show_settled(self, settled: Settled, written_s: float, entry_counts: np.ndarray, error: float) -> None:
        """The last settled version of the table, which was written at `written_s`; see `SettlerMetrics`."""
        self.metrics.show_settled(settled.n_curated, entry_counts, settled.threshold, error)
        if not self._cut_s:
            self._show_cut(written_s)

    def _show_cut(self, newest_s: float) -> None:
        self._cut_s = newest_s
        self.metrics.show_cut(newest_s)

    def _show(self, standings: Mapping[int, Standing]) -> None:
        self.metrics.show_lags({partition: each.lag for partition, each in standings.items() if each.lag is not None})


def _answer(verdict: Verdict) -> Response:
    return Response(f"{verdict.words}\n".encode(), status=200 if verdict.is_ok else 503)


def _as_json(told: dict[str, Any]) -> Response:
    return Response(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), "application/json")
