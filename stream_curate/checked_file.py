"""Files that are either whole and right, or refused: header, payload, checksum, written atomically.

Layout, little-endian: 8 bytes magic, uint32 header length, the header as JSON, the payload, and the xxh3_128 digest of
all that stands before it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import orjson
import xxhash

MAGIC = b"SCURATE1"
_DIGEST_BYTES = 16


class DamagedFile(Exception):
    """The file is cut short, changed, or not one of these."""


def write_checked(path: Path, header: Mapping[str, Any], payload: bytes = b"", *, force: bool = True) -> None:
    """Write `path` so that after a crash at any moment it is either as before or whole, on the disk itself.

    Without `force` whoever calls forces the file and its folder to disk, and needs it only from then on.
    """
    head = orjson.dumps(header)
    digest = xxhash.xxh3_128()
    draft = path.with_name(path.name + ".draft")
    with open(draft, "wb") as file:
        for piece in (MAGIC, struct.pack("<I", len(head)), head, payload):
            file.write(piece)
            digest.update(piece)
        file.write(digest.digest())
        if force:
            file.flush()
            os.fsync(file.fileno())
    os.replace(draft, path)
    if force:
        sync_folder(path.parent)


def read_checked(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and payload of `path`.

    Raises:
        DamagedFile: in words, when it is not exactly what `write_checked` wrote.
        FileNotFoundError: when it is not there.
    """
    data = memoryview(path.read_bytes())  # a view, as a payload can be large and slices of bytes are copies
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(body) < len(MAGIC) + 4 or body[: len(MAGIC)] != MAGIC:
        raise DamagedFile(f"{path} is cut short or not a file of stream-curate")
    if xxhash.xxh3_128_digest(body) != digest:
        raise DamagedFile(f"{path} does not match its checksum: it is cut short or was changed")
    start = len(MAGIC) + 4
    (length,) = struct.unpack("<I", body[len(MAGIC) : start])
    return orjson.loads(body[start : start + length]), bytes(body[start + length :])


def sync_file(path: Path) -> None:
    """Make the content of the file last through a power cut."""
    _sync_and_close(os.open(path, os.O_RDONLY))


def sync_folder(path: Path) -> None:
    """Make created, renamed and removed names in the folder `path` last through a power cut."""
    _sync_and_close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DiskQueue:
    """Files on their way to the disk itself, side by side and beside other work: most of that time is waiting."""

    _N_THREADS = 4

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(self._N_THREADS, "to-disk")
        self._under_way: list[Future[None]] = []

    def add(self, path: Path) -> None:
        """Begin to force the closed file to disk. From now on it may be renamed or removed."""
        self._under_way.append(self._pool.submit(_sync_and_close, os.open(path, os.O_RDONLY)))

    def wait(self) -> None:
        """Until all of them are on the disk.

        Raises:
            OSError: what failed first.
        """
        under_way, self._under_way = self._under_way, []
        wait(under_way)
        for future in under_way:
            future.result()

    def close(self) -> None:
        """Let go of the threads, once they are done."""
        self._pool.shutdown()
