"""The settled pairs in the shapes that downstream tools read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_curate.draft import replacing
from stream_curate.errors import ConfigError, OutputError
from stream_curate.printable import printable
from stream_curate.table.view import TableView

DATACOMP_UID = np.dtype("u8,u8")
_UID = re.compile("[0-9a-fA-F]{32}")


def export_pairs(view: TableView, out: Path) -> int:
    """Write a parquet file with `url`, `caption` and, if any pair has one, `uid`; returns the number of pairs.

    Raises:
        OutputError: when it cannot be written.
    """
    has_uid = any(batch.column("uid").null_count < len(batch) for batch in view.read_settled(["uid"]))
    names = ["url", "text", *(["uid"] if has_uid else [])]
    schema = pa.schema([pa.field({"text": "caption"}.get(name, name), pa.string()) for name in names])
    n_pairs = 0
    try:
        with replacing(out) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
            for batch in view.read_settled(names):
                columns = [batch.column(name) for name in names]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
                n_pairs += len(batch)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error
    return n_pairs


def export_uids(view: TableView, out: Path) -> int:
    """Write DataComp's list of uids: sorted, each as two unsigned 64-bit numbers; returns how many.

    Raises:
        ConfigError: when a pair has no uid, or one that is not 32 hex digits.
        OutputError: when it cannot be written.
    """
    uids: list[tuple[int, int]] = []
    for batch in view.read_settled(["uid"]):
        for uid in batch.column("uid").to_pylist():
            uids.append(_parse_uid(uid))
    try:
        with replacing(out) as draft, open(draft, "wb") as file:
            np.save(file, np.sort(np.array(uids, DATACOMP_UID)), allow_pickle=False)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error
    return len(uids)


def _parse_uid(uid: str | None) -> tuple[int, int]:
    if uid is None:
        raise ConfigError("a list of uids needs a column uid in the input, and some of these pairs have none")
    if not _UID.fullmatch(uid):
        raise ConfigError(f"the uid {printable(uid, 40)!r} is not 32 hex digits as DataComp's are")
    return int(uid[:16], 16), int(uid[16:], 16)
