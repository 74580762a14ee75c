"""Work that another thread does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Calls a function in a thread of its own, which does not keep the process from ending.

    >>> work = Background(lambda: None, "nothing")
    >>> work.finish()
    """

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the function has come back."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait until the function has come back. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # it is whoever waits who deals with it
            self._error = error
