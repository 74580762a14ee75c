"""Pairs from lines of JSON objects (jsonl, ndjson)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from stream_curate.errors import InputError
from stream_curate.pairs import Records
from stream_curate.reasons import Reason
from stream_curate.sources.columns import resolve
from stream_curate.sources.cutting import Cut, RecordCutter, TextInput
from stream_curate.sources.json_pairs import JsonPair, JsonPairs

_BOM = b"\xef\xbb\xbf"


def read_jsonl(source: TextInput, first_row: int, batch_size: int) -> Iterator[Records]:
    """The records of a stream of lines, as `Source.read` promises.

    The first line that is a JSON object says whether the file is one of pairs: without a key for the url, and one
    for the text, the file is refused. Later records stand for themselves: what they lack is missing, and one in
    which two keys could be the url, or the text, is rejected `bad_schema`. A byte-order mark before the first line
    is dropped, since it is no part of any JSON text.
    """
    pairs = JsonPairs(source.choice)
    is_checked = False
    for row, cut in RecordCutter(source).cuts(batch_size):
        if not len(cut):
            yield source.nothing(row)
            continue
        if is_checked and row + len(cut) <= first_row:
            continue
        lines = _lines(cut)
        if row == 0:
            lines[0] = lines[0].removeprefix(_BOM)
        n_usable = len(lines)
        refusal: InputError | None = None
        if not is_checked:
            is_checked, n_usable, refusal = _check(lines, cut, pairs, source)
        skipped = max(0, first_row - row)
        if skipped < n_usable:
            yield _records(lines[skipped:n_usable], cut.after(skipped), row + skipped, source, pairs)
        if refusal is not None:
            raise refusal


def _check(lines: list[bytes], cut: Cut, pairs: JsonPairs, source: TextInput) -> tuple[bool, int, InputError | None]:
    """Look for the first object: whether it is among the lines, how many can be used, and what is wrong with it."""
    for index, line in enumerate(lines):
        keys = None if cut.too_large[index] else pairs.object_keys(line)
        if keys is not None:
            try:
                resolve(keys, source.choice, source.stream.name)
            except InputError as error:
                return True, index, error
            return True, len(lines), None
    return False, len(lines), None


def _lines(cut: Cut) -> list[bytes]:
    begin = int(cut.starts[0])
    block = cut.data[begin : int(cut.ends[-1])].tobytes()
    spans = zip((cut.starts - begin).tolist(), (cut.ends - begin).tolist(), strict=True)
    return [block[start:end] for start, end in spans]


def _records(lines: list[bytes], cut: Cut, first_row: int, source: TextInput, pairs: JsonPairs) -> Records:
    urls: list[str | None] = []
    texts: list[str | None] = []
    kept: list[tuple[str | None, ...]] = []
    rejected: dict[int, Reason] = {}
    names = source.choice.kept_names
    too_large_pair: JsonPair = (None, None, (None,) * len(names), Reason.TOO_LARGE)
    too_large = set(np.flatnonzero(cut.too_large).tolist())
    for index, line in enumerate(lines):
        url, text, kept_values, reason = too_large_pair if index in too_large else pairs.pair(line)
        if reason is not None:
            rejected[index] = reason
        urls.append(url)
        texts.append(text)
        kept.append(kept_values)
    return Records(
        source.uri,
        first_row,
        pa.array(urls, pa.string()).view(pa.binary()),
        pa.array(texts, pa.string()).view(pa.binary()),
        {name: pa.array([values[k] for values in kept], pa.string()) for k, name in enumerate(names)},
        rejected,
        {index: lines[index] for index in rejected},
    )
