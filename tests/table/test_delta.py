"""What deltalake says is told with its cause, and without its colours and frames."""

from __future__ import annotations

import pytest

from stream_curate.table.delta import reason_of

FULL = """Generic LocalFileSystem error
          \x1b[31m↳\x1b[0m Unable to copy data to file
           \x1b[31m↳\x1b[0m No space left on device (os error 28)
"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (FULL, "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"),
        ("Not a Delta table\n   0: frame\n   1: frame", "Not a Delta table"),
        ("", "OSError"),
    ],
)
def test_the_causes_are_told_and_the_frames_are_not(said: str, told: str) -> None:
    assert reason_of(OSError(said)) == told
