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
from stream_curate.table.delta import reason_of

Method = TypeVar("Method", bound=Callable[..., None])


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn what goes wrong while the table in `root` is read or written into an OutputError."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else reason_of(error)
        raise OutputError(
            f"{root} cannot be read or written: {reason}. Mend that (if the disk is full, make room), "
            "then run the same command again: it continues from the last commit"
        ) from error


def told_as_output_errors(method: Method) -> Method:
    """`disk_errors` around a method of something whose table lies in `self.folder.root`.

    What failed once is not tried again, for half of it may be done: `self.is_broken` is set, and further calls refused.
    """

    @wraps(method)
    def told(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.is_broken:
            raise OutputError(f"{self.folder.root}: an earlier write failed; open the table again to go on")
        try:
            with disk_errors(self.folder.root):
                method(self, *args, **kwargs)
        except BaseException:
            self.is_broken = True
            raise

    return cast(Method, told)
