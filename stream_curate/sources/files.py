"""A stored file, local or remote, and its bytes in order, unpacked where its name ends in .gz or .zst."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

import pyarrow as pa

from stream_curate.errors import InputError
from stream_curate.sources.source import bad_input, display_name

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_PACKED_READ_BYTES = 4 * 1024
_UNPACKED_READ_BYTES = 4 * 1024


class _Readable(Protocol):
    def readinto(self, room: memoryview, /) -> int | None: ...


class ByteStream:
    """Bytes in order. What was read before an error is given first; the error comes at the next call.

    `piece_bytes` bounds what is lost of the good bytes before a damaged place. With `fills` off, what one read gives
    is passed on at once: for a pipe, in which the next bytes may be long in coming.
    """

    def __init__(self, raw: _Readable, name: str, piece_bytes: int | None = None, *, fills: bool = True) -> None:
        self.name = name
        self._raw = raw
        self._piece_bytes = piece_bytes
        self._fills = fills
        self._failure: InputError | None = None

    def read_into(self, room: memoryview) -> int:
        """Fill `room` and return the number of bytes: fewer before an error or the end, 0 only at the end.

        Raises:
            InputError: when the next byte cannot be read.
        """
        if self._failure is not None:
            raise self._failure
        filled = 0
        piece = self._piece_bytes or len(room)
        try:
            while filled < len(room):
                n_read = self._raw.readinto(room[filled : filled + piece])
                if not n_read:
                    break
                filled += n_read
                if not self._fills:
                    break
        except Exception as error:  # every storage driver has its own kinds of errors
            self._failure = bad_input(self.name, f"reading failed: {error}", "Is it damaged or cut short?")
            if not filled:
                raise self._failure from error
        return filled


@dataclass(frozen=True)
class StoredFile:
    """A file at rest. `filesystem` is a `pyarrow.fs.FileSystem` that knows `path`, or None for the local disk."""

    uri: str
    path: str
    size: int | None
    filesystem: Any = None

    @property
    def name(self) -> str:
        return display_name(self.uri)

    def open_file(self) -> pa.NativeFile:
        """The bytes as stored, for reading at any place.

        Raises:
            InputError: when it cannot be opened.
        """
        try:
            if self.filesystem is None:
                return pa.OSFile(os.fsencode(self.path))
            return self.filesystem.open_input_file(self.path)
        except Exception as error:  # every storage driver has its own kinds of errors
            raise bad_input(self.name, f"cannot be opened: {error}") from error

    def open_stream(self) -> tuple[ByteStream, pa.NativeFile]:
        """The unpacked bytes in order, and the handle to close when done.

        Archives of several gzip members or zstd frames are read to the end of the last.

        Raises:
            InputError: when it cannot be opened.
        """
        compression = COMPRESSIONS.get(PurePath(self.path).suffix.lower())
        if compression is None:
            handle = self._open_in_order()
            return ByteStream(handle, self.name), handle
        if self.size == 0:
            raise bad_input(self.name, f"holds no bytes, which is no {compression} archive", "Write or copy it again.")
        handle = self._open_in_order()
        unpacked = pa.CompressedInputStream(pa.PythonFile(_ShortReads(handle), "r"), compression)
        return ByteStream(unpacked, self.name, _UNPACKED_READ_BYTES), handle

    def _open_in_order(self) -> pa.NativeFile:
        if self.filesystem is None:
            return self.open_file()
        try:
            return self.filesystem.open_input_stream(self.path, compression=None)
        except Exception as error:  # every storage driver has its own kinds of errors
            raise bad_input(self.name, f"cannot be opened: {error}") from error


class _ShortReads(io.RawIOBase):
    """A file that gives a little at a time: the decompressor throws away all it made of a read that has an error."""

    def __init__(self, handle: pa.NativeFile) -> None:
        self._buffered = io.BufferedReader(handle, 1024 * 1024)

    def readable(self) -> bool:
        return True

    def read(self, n_bytes: int = -1) -> bytes:
        return self._buffered.read(_PACKED_READ_BYTES if n_bytes < 0 else min(n_bytes, _PACKED_READ_BYTES))
