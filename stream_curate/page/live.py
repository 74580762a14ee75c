"""A picture that a thread keeps up to date while somebody looks at it."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
import structlog

from stream_curate.errors import StreamCurateError
from stream_curate.page.picture import Stopped, TablePicture
from stream_curate.printable import printable

REFRESH_S = 2.0
LOOKED_AT_S = 30.0
FIRST_WAIT_S = 20.0
MAX_TROUBLE_BYTES = 1_000
_REST = 10.0
"""Reading the settled rows takes at most one part in eleven of the time, however large or busy the table is."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Published:
    """The picture as JSON, and a tag that is another for every other picture."""

    body: bytes
    tag: str


class LivePicture:
    """The newest picture of a table. While nobody asks for it nothing is read.

    Raises:
        ConfigError: when there is no table in the folder.
    """

    def __init__(self, root: Path, *, refresh_s: float = REFRESH_S) -> None:
        self.table = TablePicture(root)
        self._refresh_s = refresh_s
        self._published: Published | None = None
        self._asked_s = -LOOKED_AT_S
        self._trouble = ""
        self._wake = threading.Condition()
        self._is_closed = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("page-state", self._keep_state), ("page-rows", self._keep_rows))
        ]
        for thread in self._threads:
            thread.start()

    def newest(self) -> Published:
        """The picture as it is now; the first one is waited for."""
        with self._wake:
            self._asked_s = time.monotonic()
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._published is not None or self._is_closed.is_set(), FIRST_WAIT_S)
            return self._published or _publish({"picture": None, "trouble": "the table is still being read"})

    def close(self) -> None:
        """End the threads."""
        self._is_closed.set()
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _keep_state(self) -> None:
        while self._wait_until_looked_at():
            began_s = time.monotonic()
            before, has_changed, self._trouble = self._trouble, False, ""
            try:
                has_changed = self.table.refresh()
            except StreamCurateError as error:
                self._trouble = printable(str(error), MAX_TROUBLE_BYTES)
            except Exception as error:  # the page must outlive whatever lies in the folder
                log.warning("the page cannot read the table", error=repr(error))
                self._trouble = f"the table cannot be read ({type(error).__name__})"
            if has_changed or self._trouble != before or self._published is None:
                self._publish_now()
            # when the state itself is slow to read, rest as long again
            self._is_closed.wait(max(self._refresh_s, time.monotonic() - began_s))

    def _keep_rows(self) -> None:
        while self._wait_until_looked_at():
            took_s = 0.0
            if self.table.lacks_settled_rows:
                began_s = time.monotonic()
                try:
                    self.table.read_settled_rows(self._is_closed.is_set)
                    self._publish_now()
                except Stopped:
                    return
                except StreamCurateError as error:
                    log.debug("the settled rows changed while they were read", error=str(error))
                except Exception as error:
                    log.warning("the page cannot read the settled rows", error=repr(error))
                took_s = time.monotonic() - began_s
            self._is_closed.wait(max(self._refresh_s / 4, _REST * took_s))

    def _wait_until_looked_at(self) -> bool:
        """False when this is closed."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._is_closed.is_set() or time.monotonic() - self._asked_s < LOOKED_AT_S, timeout=None
            )
        return not self._is_closed.is_set()

    def _publish_now(self) -> None:
        published = _publish({"picture": self.table.as_dict(), "trouble": self._trouble})
        with self._wake:
            self._published = published
            self._wake.notify_all()


def _publish(values: dict[str, object]) -> Published:
    body = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    return Published(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
