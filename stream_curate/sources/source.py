"""What every source promises, and the words in which it refuses.

The position contract: a position is the number of rows already read from a source. Each record is a row, a
rejected one too; a header line is none. `read(k)` gives exactly the rows that `read(0)` gives from row k on,
whatever the sizes of batches and blocks, so a position and a URI are all that has to be remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from stream_curate.errors import InputError
from stream_curate.pairs import Records
from stream_curate.printable import printable, without_credentials

MAX_BATCH_BYTES = 16 * 1024 * 1024  # a batch is handed on at this size, before it has all its rows
MAX_BATCH_ROWS = 1_048_576
REJECTED_PREFIX_BYTES = 1_024  # as much as is kept of a record that is too large


class Source(Protocol):
    """One input that is read in order, from any position on."""

    @property
    def uri(self) -> str:
        """What this source is, for ever: an absolute URI, without a user name or password."""

    @property
    def name(self) -> str:
        """The URI as it may be shown in a log or a terminal."""

    @property
    def size(self) -> int | None:
        """Bytes as stored (compressed ones, if it is compressed); None where nobody knows."""

    @property
    def format(self) -> str:
        """`parquet`, `tsv`, `csv` or `jsonl`; `auto` for standard input that was not looked at yet."""

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        """The records from position `first_row` on, as consecutive batches.

        No batch has more than `batch_size` rows, and none is empty, but while standard input is waited for. The
        position after a batch is its `first_row` plus its length; one at or behind the last row gives no batch.
        `kept` holds `uid` (nulls where the input has none), then the columns that were asked for, in that order; they
        never make a record invalid.

        Raises:
            InputError: when the rest cannot be read; the rows before have been given by then.
            ValueError: for a negative position or a batch size below 1.
        """


def check_read(first_row: int, batch_size: int) -> None:
    """Raise ValueError for what no source can be asked for."""
    if first_row < 0 or batch_size < 1:
        raise ValueError(f"cannot read batches of {batch_size} rows from row {first_row}")


def display_name(uri: str) -> str:
    """`uri` as it may be shown, in the words that a user knows it by."""
    if uri.startswith("stdin:"):
        return "standard input"
    return printable(without_credentials(uri))


def bad_input(name: str, what: str, advice: str = "") -> InputError:
    """The error for an input called `name`: what was found, and what to do about it."""
    sentence = f"{name}: {printable(without_credentials(what), 2_000).rstrip('.')}."
    return InputError(f"{sentence} {advice}".rstrip())


def as_text(values: pa.BinaryArray) -> pa.StringArray:
    """Bytes as a `string` column for the user: those that are not UTF-8 become U+FFFD."""
    text = values.view(pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        decoded = [None if value is None else value.decode("utf-8", "replace") for value in values.to_pylist()]
        return pa.array(decoded, pa.string())
    return text
