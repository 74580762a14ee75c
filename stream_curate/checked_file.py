"""Files that are either whole and right, or refused: header, payload, checksum, written atomically.

Layout, little-endian: 8 bytes magic, uint32 header length, the header as JSON, the payload, and the xxh3_128 digest of
all that stands before it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import xxhash

MAGIC = b"SCURATE1"
_DIGEST_BYTES = 16


class DamagedFile(Exception):
    """The file is cut short, changed, or not one of these."""


def write_checked(path: Path, header: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write `path` so that after a crash at any moment it is either as before or whole, on the disk itself."""
    head = orjson.dumps(header)
    digest = xxhash.xxh3_128()
    draft = path.with_name(path.name + ".draft")
    with open(draft, "wb") as file:
        for piece in (MAGIC, struct.pack("<I", len(head)), head, payload):
            file.write(piece)
            digest.update(piece)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
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


def sync_folder(path: Path) -> None:
    """Make created, renamed and removed names in the folder `path` last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
