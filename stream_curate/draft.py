"""Writing a file aside, so that whoever reads it finds the old one or the new one, whole."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A draft beside `out` for the body to write, which then takes the place of `out`.

    When the body fails, `out` is as it was, and of the draft nothing is left. Its name is no other's, so that several
    threads and processes may write the same file.

    Raises:
        OSError: when the draft cannot take its place, and whatever the body raises.
    """
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}.unfinished")
    try:
        yield draft
        draft.replace(out)
    finally:
        with suppress(OSError):  # nothing was written where nothing can be
            draft.unlink(missing_ok=True)
