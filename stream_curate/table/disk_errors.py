"""A full or failing disk, told in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
from deltalake.exceptions import DeltaError

from stream_curate.errors import OutputError

Method = TypeVar("Method", bound=Callable[..., None])


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn what goes wrong while the table in `root` is written into an OutputError."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(
            f"{root} cannot be read or written: {reason}. What was committed before is intact and can be read; "
            "make room or mend the disk, then run the same command again: it continues"
        ) from error


def told_as_output_errors(method: Method) -> Method:
    """`disk_errors` around a method of something whose table lies in `self.folder.root`."""

    @wraps(method)
    def told(self: Any, *args: Any, **kwargs: Any) -> None:
        with disk_errors(self.folder.root):
            method(self, *args, **kwargs)

    return cast(Method, told)
