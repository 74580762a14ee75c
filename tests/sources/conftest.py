"""What the tests of sources share: opening one file, and its rows as plain Python."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stream_curate.sources import ColumnChoice, Source, open_sources

Row = tuple[int, bytes | None, bytes | None, dict[str, str | None], str | None, bytes | None]


def _open_one(path: object, *, format: str = "auto", **choice: Any) -> Source:
    (source,) = open_sources([str(path)], ColumnChoice(**choice), format=format)
    return source


def _rows_of(source: Source, first_row: int = 0, batch_size: int = 65_536) -> list[Row]:
    """Position, url, text, kept, reason and raw bytes of each row; checks what every batch must be."""
    rows: list[Row] = []
    position = first_row
    for records in source.read(first_row, batch_size):
        assert records.source == source.uri
        assert records.first_row == position
        assert 0 < len(records) <= batch_size
        assert records.urls.type == records.texts.type == pa.binary()
        assert len(records.urls) == len(records.texts)
        assert set(records.rejected) == set(records.raw)
        assert next(iter(records.kept)) == "uid"
        for column in (records.urls, records.texts, *records.kept.values()):
            column.validate(full=True)
            assert len(column) == len(records)
        assert {column.type for column in records.kept.values()} == {pa.string()}
        kept = {name: column.to_pylist() for name, column in records.kept.items()}
        for i, (url, text) in enumerate(zip(records.urls.to_pylist(), records.texts.to_pylist(), strict=True)):
            values = {name: column[i] for name, column in kept.items()}
            reason = records.rejected.get(i)
            if reason is not None:
                assert (url, text, set(values.values())) == (None, None, {None})
            rows.append((position + i, url, text, values, reason, records.raw.get(i)))
        position += len(records)
    return rows


def _write(path: Path, data: bytes) -> Path:
    """Write `data` as the extension says: plain, .gz or .zst."""
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="session")
def open_one() -> Callable[..., Source]:
    return _open_one


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[Row]]:
    return _rows_of


@pytest.fixture(scope="session")
def write() -> Callable[[Path, bytes], Path]:
    return _write


@pytest.fixture(scope="session")
def reasons_of() -> Callable[..., list[str | None]]:
    """The reason of each row, None where it has none."""
    return lambda source: [row[4] for row in _rows_of(source)]
