"""Pairs from tsv and csv.

tsv has no quoting: a quote is a character like any other. csv is RFC 4180: a field in quotes may hold commas,
line feeds and doubled quotes; a quote inside a field without quotes is a character. Nothing is inferred: `007`
and `NA` stay what they are, and an empty field is an empty string. A record with more or fewer fields than the
header names, one with bytes behind a closing quote, and one whose quote is never closed, is rejected `bad_row`;
so is a blank line. An unclosed quote takes the lines behind it along, up to the limit that `cutting` tells.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from stream_curate.kernels import kernel
from stream_curate.pairs import Records
from stream_curate.reasons import Reason
from stream_curate.sources.columns import ColumnChoice, Columns, resolve
from stream_curate.sources.cutting import Cut, RecordCutter, TextInput
from stream_curate.sources.source import as_text, bad_input

_BOM = b"\xef\xbb\xbf"
_QUOTE = 34
_HEADERLESS_ADVICE = "For a file without a header line give the names of its fields with --columns."
SEPARATORS = {"tsv": "\t", "csv": ","}


def read_delimited(source: TextInput, format: str, first_row: int, batch_size: int) -> Iterator[Records]:
    """The records of a `tsv` or `csv` stream, as `Source.read` promises.

    A byte-order mark before a header is dropped: it would make another name of the first column. Without a header
    line it is kept, because data are never changed.
    """
    choice, name = source.choice, source.stream.name
    cutter = RecordCutter(source, ord(SEPARATORS[format]) if format == "csv" else None)
    names = choice.headerless or _header(_first_line(cutter), format, name)
    columns = resolve(names, choice, name, "" if choice.headerless else _HEADERLESS_ADVICE)
    for row, all_cut in cutter.cuts(batch_size):
        if not len(all_cut):
            yield source.nothing(row)
        elif row + len(all_cut) > first_row:
            start = max(row, first_row)
            cut = all_cut.after(start - row)
            (urls, texts, *found), good = _fields(cut, format, len(names), columns)
            bad = np.flatnonzero(~good).tolist()
            yield Records(
                source.uri,
                start,
                urls,
                texts,
                _kept(found, columns, choice, len(cut)),
                {i: Reason.TOO_LARGE if cut.too_large[i] else Reason.BAD_ROW for i in bad},
                {i: cut.raw(i) for i in bad},
            )


def _first_line(cutter: RecordCutter) -> Cut | None:
    cut = cutter.next_cut(1)
    while cut is not None and not len(cut):
        cut = cutter.next_cut(1)
    return cut


def _header(cut: Cut | None, format: str, name: str) -> tuple[str, ...]:
    if cut is None:
        raise bad_input(name, "an empty file, where a header line is looked for", _HEADERLESS_ADVICE)
    if cut.too_large[0]:
        raise bad_input(name, f"its first line is too long for a header; is it {format}?", _HEADERLESS_ADVICE)
    line = cut.raw(0).removeprefix(_BOM).decode("utf-8", "backslashreplace")
    if format == "tsv":
        return tuple(line.split("\t"))
    try:
        return tuple(next(csv.reader(io.StringIO(line, newline="")), [""]))
    except csv.Error as error:
        raise bad_input(name, f"its first line is no csv header: {error}", _HEADERLESS_ADVICE) from error


def _fields(cut: Cut, format: str, n_fields: int, columns: Columns) -> tuple[list[pa.BinaryArray], np.ndarray]:
    """Url, text and those kept columns that the file has, and whether each record is good: bool[n_records]."""
    wanted = [columns.url, columns.text, *(index for index in columns.kept if index is not None)]
    begins = np.zeros((len(wanted), len(cut)), np.int64)
    ends = np.zeros((len(wanted), len(cut)), np.int64)
    doubled = np.zeros((len(wanted), len(cut)), np.bool_)
    good = np.empty(len(cut), np.bool_)
    _find_fields(
        cut.data,
        cut.starts,
        cut.ends,
        cut.too_large,
        ord(SEPARATORS[format]),
        format == "csv",
        n_fields,
        np.array(wanted, np.int64),
        begins,
        ends,
        doubled,
        good,
    )
    return [_column(cut.data, begins[k], ends[k], doubled[k], good) for k in range(len(wanted))], good


def _kept(
    found: list[pa.BinaryArray], columns: Columns, choice: ColumnChoice, n_records: int
) -> dict[str, pa.StringArray]:
    left = iter(found)
    return {
        name: as_text(next(left)) if index is not None else pa.nulls(n_records, pa.string())
        for name, index in zip(choice.kept_names, columns.kept, strict=True)
    }


def _column(
    data: np.ndarray, begins: np.ndarray, ends: np.ndarray, doubled: np.ndarray, good: np.ndarray
) -> pa.BinaryArray:
    """One field of each record as a binary column, null where the record is not good."""
    offsets = np.empty(len(begins) + 1, np.int32)  # a cut holds far less than 2 GiB
    values = np.empty(int((ends - begins).sum()), np.uint8)
    _copy(data, begins, ends, doubled, offsets, values)
    validity = None if good.all() else pa.py_buffer(np.packbits(good, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(begins), buffers)


@kernel
def _find_fields(
    data: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    too_large: np.ndarray,
    separator: int,
    quoting: bool,
    n_fields: int,
    wanted: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    doubled: np.ndarray,
    good: np.ndarray,
) -> None:
    """Find the wanted fields of each record, and whether the record is good.

    `wanted`, int64[n_wanted], holds the 0-based numbers of fields. Written are, for each of them and each record:
    `begins` and `ends`, where the field's content is, without its quotes (both 0 in a record that is not good);
    `doubled`, whether the content has quotes written twice; and for each record whether it is `good`.
    """
    for row in range(len(starts)):
        stop = stops[row]
        i = starts[row]
        field = 0
        whole = not too_large[row]
        while whole:
            begin = i
            has_doubled = False
            if quoting and i < stop and data[i] == _QUOTE:
                begin += 1
                i += 1
                closed = False
                while i < stop:
                    if data[i] == _QUOTE:
                        if i + 1 < stop and data[i + 1] == _QUOTE:
                            has_doubled = True
                            i += 1
                        else:
                            closed = True
                            break
                    i += 1
                end = i
                i += 1
                whole = closed and (i >= stop or data[i] == separator)
            else:
                while i < stop and data[i] != separator:
                    i += 1
                end = i
            for k in range(len(wanted)):
                if wanted[k] == field:
                    begins[k, row] = begin
                    ends[k, row] = end
                    doubled[k, row] = has_doubled
            field += 1
            if i >= stop:
                break
            i += 1
        good[row] = whole and field == n_fields
        if not good[row]:
            begins[:, row] = 0
            ends[:, row] = 0


@kernel
def _copy(
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    doubled: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
) -> None:
    """Copy one field of each record into `values`, one behind the other, a doubled quote as one."""
    at = 0
    offsets[0] = 0
    for row in range(len(begins)):
        if doubled[row]:
            i = begins[row]
            while i < ends[row]:
                values[at] = data[i]
                at += 1
                i += 2 if data[i] == _QUOTE else 1
        else:
            for i in range(begins[row], ends[row]):
                values[at] = data[i]
                at += 1
        offsets[row + 1] = at
