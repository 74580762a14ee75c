"""A file that only grows, of which a checkpoint remembers how much counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from stream_curate.checked_file import DamagedFile, sync_folder

_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Mark:
    """The first `n_bytes` of the file count, and this is their checksum."""

    n_bytes: int = 0
    xxh3_128: str = xxhash.xxh3_128_hexdigest(b"")


class AppendFile:
    """Bytes appended, made safe by `mark`, and taken back to a mark when opened again.

    What lies beyond the mark came after the checkpoint that is resumed; it is cut off.
    """

    def __init__(self, path: Path, mark: Mark) -> None:
        """Open `path` at `mark`, creating it when the mark is empty.

        Raises:
            DamagedFile: when its first bytes are not those that were marked.
        """
        self._path = path
        self._digest = xxhash.xxh3_128()
        for chunk in read_marked(path, mark):
            self._digest.update(chunk)
        self._n_bytes = mark.n_bytes
        is_new = not path.exists()
        self._file = open(path, "w+b" if is_new else "r+b")  # noqa: SIM115 - it lives as long as the table
        if is_new:
            sync_folder(path.parent)
        self._file.truncate(mark.n_bytes)
        self._file.seek(mark.n_bytes)
        self._n_forced = mark.n_bytes

    def append(self, data: bytes) -> None:
        """Add `data`; it counts once a mark taken later is saved."""
        self._file.write(data)
        self._digest.update(data)
        self._n_bytes += len(data)

    def mark(self) -> Mark:
        """What stands now, after it has been forced to disk."""
        if self._n_bytes > self._n_forced:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._n_forced = self._n_bytes
        return Mark(self._n_bytes, self._digest.hexdigest())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_marked(path: Path, mark: Mark) -> Iterator[bytes]:
    """The bytes that count, in chunks of a multiple of 8 bytes but for the last.

    Raises:
        DamagedFile: at the end, when the bytes are not those that were marked.
    """
    digest = xxhash.xxh3_128()
    n_left = mark.n_bytes
    if n_left:
        try:
            with open(path, "rb") as file:
                while n_left and (chunk := file.read(min(_CHUNK_BYTES, n_left))):
                    digest.update(chunk)
                    n_left -= len(chunk)
                    yield chunk
        except FileNotFoundError:
            raise DamagedFile(f"{path} is missing") from None
    if n_left or digest.hexdigest() != mark.xxh3_128:
        raise DamagedFile(f"{path} does not match its checksum: it is cut short or was changed")
