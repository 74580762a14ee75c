"""Pairs from standard input."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from typing import BinaryIO

from stream_curate.pairs import Records
from stream_curate.sources.columns import ColumnChoice
from stream_curate.sources.cutting import TextInput
from stream_curate.sources.delimited import read_delimited
from stream_curate.sources.files import ByteStream
from stream_curate.sources.jsonl import read_jsonl
from stream_curate.sources.source import bad_input, check_read

_NAME = "standard input"
WAIT_S = 1.0
_MAX_SNIFFED_BYTES = 64 * 1024
_BOM = b"\xef\xbb\xbf"
_MAGICS = {
    b"PAR1": ("a parquet file", "Parquet cannot be read in one go: give the name of the file instead."),
    b"\x1f\x8b": ("gzip", "Unpack it on the way: gzip -dc FILE | stream-curate ... -"),
    b"\x28\xb5\x2f\xfd": ("zstd", "Unpack it on the way: zstd -dc FILE | stream-curate ... -"),
}


class StandardInput:
    """What is piped in: can be read once, from its first row."""

    uri = "stdin:"
    name = _NAME
    size = None

    def __init__(self, columns: ColumnChoice, format: str) -> None:
        self.format = format
        self._columns = columns
        self._was_read = False

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        """See `Source.read`; a batch comes when it is full, the input ends, or nothing came for a second."""
        check_read(first_row, batch_size)
        if first_row or self._was_read:
            raise bad_input(_NAME, "can be read only once, from its first row", "To go on with a run, use a file.")
        self._was_read = True
        # unbuffered, so that what is not in our hands yet can be waited for
        piped = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        head = _read_head(piped)
        found = sniff(head)
        if self.format == "auto":
            self.format = found
        rejoined = _Rejoined(head, piped)
        stream = ByteStream(rejoined, _NAME, fills=False)
        source = TextInput(stream, self.uri, self._columns, is_waiting=rejoined.is_waiting)
        if self.format == "jsonl":
            yield from read_jsonl(source, 0, batch_size)
        else:
            yield from read_delimited(source, self.format, 0, batch_size)


def sniff(head: bytes) -> str:
    """The format of what begins with `head`: jsonl by its first brace, tsv by a tab in its first line, else csv.

    Raises:
        InputError: for parquet and archives, which are refused.

    >>> sniff(b'url,text'), sniff(b'url' + bytes([9]) + b'text'), sniff(b'{"url": 1}')
    ('csv', 'tsv', 'jsonl')
    """
    for magic, (what, advice) in _MAGICS.items():
        if head.startswith(magic):
            raise bad_input(_NAME, f"holds {what}, where lines of text are looked for", advice)
    text = head.removeprefix(_BOM)
    if text.lstrip().startswith(b"{"):
        return "jsonl"
    return "tsv" if b"\t" in text.split(b"\n", 1)[0] else "csv"


def _read_head(piped: BinaryIO) -> bytes:
    """The first line with anything in it, or as much as it takes to see what it is; and what came with it."""
    head = b""
    while len(head) < _MAX_SNIFFED_BYTES and b"\n" not in head.lstrip():
        try:
            piece = piped.read(_MAX_SNIFFED_BYTES)
        except OSError as error:
            raise bad_input(_NAME, f"reading failed: {error}") from error
        if not piece:
            break
        head += piece
    return head


class _Rejoined:
    """What was looked at, then the rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readinto(self, room: memoryview, /) -> int | None:
        if not self._head:
            return self._rest.readinto(room)  # type: ignore[attr-defined,no-any-return]
        piece = self._head[: len(room)]
        self._head = self._head[len(piece) :]
        room[: len(piece)] = piece
        return len(piece)

    def is_waiting(self) -> bool:
        """Whether nothing comes for a second. What is no pipe or terminal never waits."""
        try:
            return not self._head and not select.select([self._rest], [], [], WAIT_S)[0]
        except OSError:  # stands for a file in memory, too
            return False
