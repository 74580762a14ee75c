"""The record: batches of image-text pairs as Arrow columns, what a valid pair is, and its identity.

Sources make `Records` (whatever the crawl brought); `validate` turns them into a batch of valid pairs
and a list of rejections. The validator decides what belongs to the curated set, so it is part of every
digest: a change to it is a change of `VALIDATOR_VERSION`.

A batch of pairs is a `pyarrow.RecordBatch` with the columns of `pair_schema`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_curate.arrow_buffers import string_buffers
from stream_curate.kernels import kernel
from stream_curate.printable import printable, without_credentials
from stream_curate.reasons import REJECTED, Reason
from stream_curate.xxh3 import read64, xxh3_128_of_both

VALIDATOR_VERSION = 1

MAX_RECORD_BYTES = 512 * 1024
MAX_URL_BYTES = 8_192
MAX_TEXT_BYTES = 65_536
MAX_TEXT_TOKENS = 4_096
MAX_PREVIEW_BYTES = 256

PAIR_ID = pa.binary(16)


def pair_schema(kept: Sequence[str] = ()) -> pa.Schema:
    """The columns of a batch of pairs: identity, content, where it was read, and the columns kept for the user.

    `source` is dictionary-encoded because it is the same in a whole batch; `source_row` is 0-based.
    """
    return pa.schema(
        [
            pa.field("pair_id", PAIR_ID, nullable=False),
            pa.field("url", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            *(pa.field(name, pa.string()) for name in kept),
        ]
    )


@dataclass(frozen=True)
class Records:
    """Consecutive records of one source, as read and before validation.

    Attributes:
        source: the URI of what was read.
        first_row: the 0-based position of the first record in the source.
        urls, texts: `binary`, of one length; null where a record has none.
        kept: more columns to carry along, each `string` and of the same length.
        rejected: index in this batch -> the reason the source already found; urls and texts are null there.
        raw: index in this batch -> the original bytes of a rejected record, or as much of them as was kept.
    """

    source: str
    first_row: int
    urls: pa.BinaryArray
    texts: pa.BinaryArray
    kept: Mapping[str, pa.StringArray] = field(default_factory=dict)
    rejected: Mapping[int, Reason] = field(default_factory=dict)
    raw: Mapping[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.urls)


@dataclass(frozen=True)
class Rejection:
    """A record that is no valid pair: why, and where it was. `preview` is safe to show."""

    reason: Reason
    source: str
    source_row: int
    sha256: str
    preview: str


def make_pairs(
    urls: Sequence[str],
    texts: Sequence[str | None],
    *,
    source: str = "memory:",
    first_row: int = 0,
) -> pa.RecordBatch:
    """A batch of pairs from Python strings, for tests and for use as a library.

    Raises:
        ValueError: when a pair is not valid; the message names its row and reason.

    >>> make_pairs(["http://example.org/1.jpg"], ["a dog"]).column("pair_id")[0].as_py().hex()
    'ba46f6a4e0212b9a5f043499bd2b8c68'
    """
    records = Records(source, first_row, _as_binary(urls), _as_binary(texts))
    pairs, rejections = validate(records)
    if rejections:
        first = rejections[0]
        raise ValueError(
            f"row {first.source_row} is not a valid pair: {first.reason} ({without_credentials(first.preview)})"
        )
    return pairs


def validate(records: Records) -> tuple[pa.RecordBatch, list[Rejection]]:
    """The valid pairs among `records`, in their order, and a rejection for each of the others.

    A missing text is the empty text: valid, and matched by nothing. Nothing is normalised.
    """
    texts = _without_nulls(records.texts)
    urls = _without_nulls(records.urls)
    codes = np.zeros(len(records), np.uint8)
    for index, reason in records.rejected.items():
        codes[index] = _CODES[reason]
    _find_invalid(*string_buffers(urls), *string_buffers(texts), codes)
    bad = np.flatnonzero(codes)
    rejections = [_reject(records, urls, texts, int(index), REJECTED[codes[index] - 1]) for index in bad]
    rows = np.arange(records.first_row, records.first_row + len(records), dtype=np.int64)
    kept = list(records.kept.values())
    if len(bad):
        good = pa.array(np.flatnonzero(codes == 0))
        rows = rows[codes == 0]
        urls, texts = urls.take(good), texts.take(good)
        kept = [column.take(good) for column in kept]
    source = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(rows), np.int32)), pa.array([records.source], pa.string())
    )
    columns = [pair_ids(urls, texts), urls.view(pa.string()), texts.view(pa.string()), source, pa.array(rows), *kept]
    return pa.RecordBatch.from_arrays(columns, schema=pair_schema(list(records.kept))), rejections


def pair_ids(urls: pa.BinaryArray, texts: pa.BinaryArray) -> pa.FixedSizeBinaryArray:
    """`xxh3_128(url + 0x00 + text)` of each pair, 16 bytes in canonical (big-endian) order."""
    digests = xxh3_128_of_both(urls, texts)
    return pa.FixedSizeBinaryArray.from_buffers(PAIR_ID, len(digests), [None, pa.py_buffer(digests)])


def _as_binary(values: Sequence[str | None]) -> pa.BinaryArray:
    return pa.array(
        [None if value is None else value.encode("utf-8", "surrogatepass") for value in values], pa.binary()
    )


def _without_nulls(values: pa.BinaryArray) -> pa.BinaryArray:
    return pc.fill_null(values, b"") if values.null_count else values


def _reject(records: Records, urls: pa.BinaryArray, texts: pa.BinaryArray, index: int, reason: Reason) -> Rejection:
    raw = records.raw.get(index)
    if raw is None:
        raw = urls[index].as_py() + b"\t" + texts[index].as_py()
    return Rejection(
        reason=reason,
        source=records.source,
        source_row=records.first_row + index,
        sha256=hashlib.sha256(raw).hexdigest(),
        preview=printable(raw, MAX_PREVIEW_BYTES),
    )


# The kernels below work on uint8 codes: 0 is a valid pair, n is REJECTED[n - 1].
_CODES = {reason: np.uint8(index + 1) for index, reason in enumerate(REJECTED)}
_TOO_LARGE = _CODES[Reason.TOO_LARGE]
_INVALID_UTF8 = _CODES[Reason.INVALID_UTF8]
_URL_MISSING = _CODES[Reason.URL_MISSING]
_URL_MALFORMED = _CODES[Reason.URL_MALFORMED]
_URL_SCHEME = _CODES[Reason.URL_SCHEME]
_TEXT_TOO_LONG = _CODES[Reason.TEXT_TOO_LONG]
_LOW_BITS = np.uint64(0x0101010101010101)
_SPACES = np.uint64(0x2020202020202020)
_DELETES = np.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH_BITS = np.uint64(0x8080808080808080)


@kernel
def _find_invalid(
    url_offsets: np.ndarray,
    url_bytes: np.ndarray,
    text_offsets: np.ndarray,
    text_bytes: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Write the first reason that fits each record into `codes`, where it holds none yet."""
    for i in range(len(codes)):
        if codes[i] != 0:
            continue
        url = url_bytes[url_offsets[i] : url_offsets[i + 1]]
        text = text_bytes[text_offsets[i] : text_offsets[i + 1]]
        if len(url) + len(text) > MAX_RECORD_BYTES:
            codes[i] = _TOO_LARGE
        elif not (_is_utf8(url) and _is_utf8(text)):
            codes[i] = _INVALID_UTF8
        elif len(url) == 0:
            codes[i] = _URL_MISSING
        elif len(url) > MAX_URL_BYTES or _has_control(url):
            codes[i] = _URL_MALFORMED
        elif not _is_http(url):
            codes[i] = _URL_SCHEME
        elif len(text) > MAX_TEXT_BYTES or (len(text) > MAX_TEXT_TOKENS and _n_tokens(text) > MAX_TEXT_TOKENS):
            codes[i] = _TEXT_TOO_LONG


@kernel
def _is_utf8(piece: np.ndarray) -> bool:
    """Whether the bytes are UTF-8 as Unicode defines it: no surrogates, nothing overlong, nothing above U+10FFFF."""
    n = len(piece)
    seen = np.uint64(0)
    if n < 8:
        for i in range(n):
            seen |= piece[i]
    else:
        for i in range(0, n - 8, 8):
            seen |= read64(piece, i)
        seen |= read64(piece, n - 8)
    if seen & _HIGH_BITS == 0:
        return True
    i = 0
    while i < n:
        lead = piece[i]
        if lead < 0x80:
            i += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            n_more = 1
        elif 0xE0 <= lead <= 0xEF:
            n_more = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            n_more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if i + n_more >= n or piece[i + 1] < low or piece[i + 1] > high:
            return False
        for k in range(2, n_more + 1):
            if piece[i + k] < 0x80 or piece[i + k] > 0xBF:
                return False
        i += n_more + 1
    return True


@kernel
def _has_control(piece: np.ndarray) -> bool:
    n = len(piece)
    found = np.uint64(0)
    if n < 8:
        for i in range(n):
            found |= _control_bits(piece[i] * _LOW_BITS)
    else:
        for i in range(0, n - 8, 8):
            found |= _control_bits(read64(piece, i))
        found |= _control_bits(read64(piece, n - 8))
    return bool(found & _HIGH_BITS != 0)


@kernel
def _control_bits(word: np.uint64) -> np.uint64:
    """Among the `_HIGH_BITS` some are set if and only if a byte of `word` is below 0x20, or 0x7F."""
    is_below = (word - _SPACES) & ~word
    delete = word ^ _DELETES
    return is_below | ((delete - _LOW_BITS) & ~delete)


@kernel
def _is_http(url: np.ndarray) -> bool:
    """Whether the scheme is http or https, in any case."""
    n = len(url)
    if n < 5:
        return False
    # 0x20 makes an ASCII letter lower case
    if (url[0] | 0x20, url[1] | 0x20, url[2] | 0x20, url[3] | 0x20) != (104, 116, 116, 112):
        return False
    return url[4] == 58 or (n > 5 and url[4] | 0x20 == 115 and url[5] == 58)


@kernel
def _n_tokens(text: np.ndarray) -> int:
    """The number of non-empty pieces between the spaces of `spacing(text)`; each mark is a piece of its own."""
    n_tokens = 0
    inside = False
    for i in range(len(text)):
        byte = text[i]
        if byte in (32, 9, 10, 13):
            inside = False
        elif byte in (44, 46, 59, 58, 63, 33, 96):
            inside = False
            n_tokens += 1
        elif not inside:
            inside = True
            n_tokens += 1
    return n_tokens
