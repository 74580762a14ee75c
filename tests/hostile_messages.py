"""Messages as nobody would wish them, each with what must come of it, and helpers to make messages."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from consumers.messages import (
    ARROW_HEADERS,
    ARROW_TYPE,
    CONTENT_TYPE,
    FORMAT_VERSION,
    JSON_TYPE,
    MAX_ARROW_BYTES,
    MAX_ARROW_ROWS,
    NOT_UNPACKED,
)
from stream_curate.pairs import MAX_RECORD_BYTES, MAX_TEXT_BYTES, MAX_TEXT_TOKENS, MAX_URL_BYTES
from stream_curate.reasons import Reason

URL = "http://x.org/1"
GOOD = json.dumps({"url": URL, "text": "a dog"}).encode()

Headers = list[tuple[str, bytes]]


@dataclass
class Message:
    """As much of a Kafka record as is read."""

    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass(frozen=True)
class HostileMessage:
    """A message, and what comes of it with the usual settings.

    Attributes:
        kind: what is wrong with it, or odd about it.
        value, headers: to give to a producer.
        n_records: how many records it is.
        reasons: how many of these are rejected, by reason; the others are valid.
    """

    kind: str
    value: bytes | None
    headers: Headers
    n_records: int
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def key(self) -> bytes | None:
        """To give to a producer: kafka-python sends no null value without one."""
        return b"" if self.value is None else None


class RawKey(str):
    """The key of a header as it never is in Python: kafka-python's producer writes these bytes for it."""

    raw: bytes

    def __new__(cls, raw: bytes) -> RawKey:
        key = super().__new__(cls, raw.decode("utf-8", "replace"))
        key.raw = raw
        return key

    def encode(self, *_: Any) -> bytes:
        return self.raw


def stream(table: pa.Table | pa.RecordBatch, **options: Any) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write(table)
    return bytes(sink.getvalue())


def arrow(**columns: Any) -> bytes:
    """Columns as an Arrow IPC stream."""
    return stream(pa.table(columns))


def hostile_messages(rng: np.random.Generator, n: int) -> list[HostileMessage]:
    """`n` messages in which at least one record is rejected: every kind as often as any other, in any order.

    Those of more than a megabyte come only once.
    """
    return _drawn(rng, n, HOSTILE, LARGE)


def odd_messages(rng: np.random.Generator, n: int) -> list[HostileMessage]:
    """`n` messages that look odd, and of which every record is a valid pair."""
    return _drawn(rng, n, ODD, {})


def _drawn(
    rng: np.random.Generator, n: int, kinds: dict[str, Callable[[int], Any]], once: dict[str, Callable[[int], Any]]
) -> list[HostileMessage]:
    names = [*once, *(name for _ in range(n // len(kinds) + 1) for name in kinds)][:n]
    messages = []
    for name in names:
        made = (once | kinds)[name](int(rng.integers(1 << 40)))
        value, headers, n_records, reasons = (*made, *((), 1, ())[len(made) - 1 :])
        messages.append(HostileMessage(name, value, list(headers), n_records, Counter(reasons)))
    return [messages[i] for i in rng.permutation(len(messages))]


def _json(i: int, more: bytes = b"") -> bytes:
    """A pair that no other message has, and more members."""
    return b'{"url": "http://x.org/odd/%d", "text": "a dog"%s}' % (i, more)


def _url(i: int, url: str, text: str = "a dog") -> bytes:
    return json.dumps({"url": url.replace("#", str(i)), "text": text}, ensure_ascii=False).encode()


def _own(i: int) -> str:
    return f"http://x.org/odd/{i}"


def _texts(i: int, text: Any, url: Any = None) -> bytes:
    return arrow(url=pa.array([_own(i)]) if url is None else url, text=text)


def _extension(values: list[str]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(values))


def _unknown_extension(i: int) -> bytes:
    field = pa.field("url", pa.string(), metadata={"ARROW:extension:name": "who.knows"})
    return stream(pa.table([[_own(i)], ["a dog"]], pa.schema([field, pa.field("text", pa.string())])))


def _wrong_offsets(i: int) -> bytes:
    good = arrow(url=[f"http://x.org/{i}", "b"], text=["a" * 101, "b" * 7])
    return good.replace(struct.pack("<iii", 0, 101, 108), struct.pack("<iii", 0, 1_000_000_000, 108), 1)


def _mixed(i: int) -> tuple[Any, ...]:
    urls = [_own(i), None, "", "ftp://x.org/1", "http://x.org/\n", _own(i + 1)]
    value = arrow(url=urls, text=["a dog", "a", "b", "c", "d", "a cat"])
    missing = [Reason.URL_MISSING] * 2
    return value, ARROW_HEADERS, 6, [*missing, Reason.URL_SCHEME, Reason.URL_MALFORMED]


def _rows_of_bytes(i: int) -> tuple[Any, ...]:
    urls = pa.array([_own(i).encode(), b"http://x.org/\xff", _own(i + 1).encode()])
    texts = pa.array([b"a dog \xc3\x28", b"a", b"a \xed\xa0\x80"])  # the last is a surrogate
    return arrow(url=urls, text=texts), ARROW_HEADERS, 3, [Reason.INVALID_UTF8] * 3


def _same_view_often(i: int) -> bytes:
    """Every view in a column shows the same 8,000 bytes."""
    n_rows = 4_000
    one = np.frombuffer(struct.pack("<i4sii", 8_000, b"bbbb", 0, 0), np.uint8)
    text = pa.Array.from_buffers(
        pa.binary_view(), n_rows, [None, pa.py_buffer(np.tile(one, n_rows).tobytes()), pa.py_buffer(b"b" * 8_000)]
    )
    return arrow(url=pa.array([_own(i)] * n_rows), text=text)


def _bad(reason: Reason, make: Callable[[int], bytes | None], headers: Headers | None = None) -> Callable[[int], Any]:
    """A message of one record that is rejected."""
    return lambda i: (make(i), headers or [], 1, [reason])


R = Reason
HOSTILE: dict[str, Callable[[int], Any]] = {
    # --- the message
    "null": _bad(R.NULL_VALUE, lambda i: None),
    "null, with headers": _bad(R.NULL_VALUE, lambda i: None, ARROW_HEADERS),
    "empty": _bad(R.BAD_JSON, lambda i: b""),
    "another version": _bad(R.BAD_SCHEMA, _json, [(FORMAT_VERSION, b"2")]),
    "another version, Arrow": _bad(
        R.BAD_SCHEMA, lambda i: arrow(url=[_own(i)], text=["a"]), [*ARROW_HEADERS, (FORMAT_VERSION, b"9")]
    ),
    "JSON that says it is Arrow": _bad(R.BAD_ARROW, _json, [(CONTENT_TYPE, ARROW_TYPE)]),
    "Arrow that says it is JSON": _bad(
        R.BAD_JSON, lambda i: arrow(url=[_own(i)], text=["a"]), [(CONTENT_TYPE, JSON_TYPE)]
    ),
    "header that is not UTF-8, and bad JSON": _bad(R.BAD_JSON, lambda i: b"{", [(RawKey(b"\xff\xfe"), b"\xff")]),
    "not unpacked": _bad(R.TOO_LARGE, _json, [(NOT_UNPACKED, b"")]),
    # --- JSON
    "JSON too large": _bad(R.TOO_LARGE, lambda i: _json(i) + b" " * MAX_RECORD_BYTES),
    "JSON cut short": _bad(R.BAD_JSON, lambda i: _json(i)[:-1]),
    "JSON twice": _bad(R.BAD_JSON, lambda i: _json(i) * 2),
    "byte-order mark before JSON": _bad(R.BAD_JSON, lambda i: b"\xef\xbb\xbf" + _json(i)),
    "UTF-16": _bad(R.BAD_JSON, lambda i: _json(i).decode().encode("utf-16")),
    "array": _bad(R.JSON_NOT_OBJECT, lambda i: b"[%s]" % _json(i)),
    "null in JSON": _bad(R.JSON_NOT_OBJECT, lambda i: b"null"),
    "NaN": _bad(R.JSON_NAN, lambda i: _json(i, b', "n": NaN')),
    "minus infinity": _bad(R.JSON_NAN, lambda i: _json(i, b', "n": -Infinity')),
    "duplicate key": _bad(R.JSON_DUPLICATE_KEY, lambda i: _json(i, b', "url": "http://x.org/2"')),
    "duplicate key, escaped": _bad(R.JSON_DUPLICATE_KEY, lambda i: _json(i, b', "te\\u0078t": "b"')),
    "lone surrogate": _bad(R.JSON_SURROGATE, lambda i: _json(i, b', "n": "\\ud800"')),
    "5,000 digits": _bad(R.JSON_NUMBER, lambda i: _json(i, b', "n": ' + b"7" * 5_000)),
    "a float beyond all": _bad(R.JSON_NUMBER, lambda i: _json(i, b', "n": 1e999')),
    "depth 200,000": _bad(R.JSON_DEPTH, lambda i: _json(i, b', "n": ' + b"[" * 200_000 + b"]" * 200_000)),
    "depth of objects": _bad(R.JSON_DEPTH, lambda i: b'{"url":' * 300 + b"1" + b"}" * 300),
    "JSON that is no UTF-8": _bad(R.INVALID_UTF8, lambda i: _json(i, b', "n": "\xff"')),
    "JSON with an overlong byte": _bad(R.INVALID_UTF8, lambda i: _json(i).replace(b"dog", b"\xc0\xaf")),
    "url that is a number": _bad(R.BAD_SCHEMA, lambda i: b'{"url": 5, "text": "a"}'),
    "text that is a list": _bad(R.BAD_SCHEMA, lambda i: b'{"url": "http://x.org/1", "text": ["a"]}'),
    "two texts": _bad(R.BAD_SCHEMA, lambda i: _json(i, b', "caption": "b"')),
    # --- url and text
    "no url": _bad(R.URL_MISSING, lambda i: b'{"text": "a"}'),
    "null url": _bad(R.URL_MISSING, lambda i: b'{"url": null, "text": "a"}'),
    "empty url": _bad(R.URL_MISSING, lambda i: b'{"url": "", "text": "a"}'),
    "url too long": _bad(R.URL_MALFORMED, lambda i: _url(i, f"http://x.org/{i}?".ljust(MAX_URL_BYTES + 1, "x"))),
    "url with a line end": _bad(R.URL_MALFORMED, lambda i: _url(i, "http://x.org/#\n")),
    "url with NUL": _bad(R.URL_MALFORMED, lambda i: _url(i, "http://x.org/#\0")),
    "url with DEL": _bad(R.URL_MALFORMED, lambda i: _url(i, "http://x.org/#\x7f")),
    **{
        f"url {url}": _bad(R.URL_SCHEME, lambda i, url=url: _url(i, url))
        for url in ("javascript:alert(#)", "data:,#", "file:///etc/#", "UNLIKELY", " http://x.org/#", "httpx://x.org/#")
    },
    "text of too many bytes": _bad(R.TEXT_TOO_LONG, lambda i: _url(i, _own(i), "a" * (MAX_TEXT_BYTES + 1))),
    "text of too many bytes, not characters": _bad(
        R.TEXT_TOO_LONG, lambda i: _url(i, _own(i), "é" * (MAX_TEXT_BYTES // 2 + 1))
    ),
    "text of too many tokens": _bad(R.TEXT_TOO_LONG, lambda i: _url(i, _own(i), "a " * (MAX_TEXT_TOKENS + 1))),
    "text of too many marks": _bad(R.TEXT_TOO_LONG, lambda i: _url(i, _own(i), "." * (MAX_TEXT_TOKENS + 1))),
    # --- Arrow
    "Arrow cut short": _bad(R.BAD_ARROW, lambda i: arrow(url=[_own(i)] * 3, text=["a"] * 3)[:-9]),
    "only the mark of Arrow": _bad(R.BAD_ARROW, lambda i: b"\xff\xff\xff\xff"),
    "Arrow and more": _bad(R.BAD_ARROW, lambda i: arrow(url=[_own(i)], text=["a"]) + b"\0"),
    "Arrow file": _bad(R.BAD_ARROW, lambda i: b"ARROW1\0\0" + arrow(url=[_own(i)], text=["a"]), ARROW_HEADERS),
    "Arrow that points elsewhere": _bad(R.BAD_ARROW, _wrong_offsets),
    "Arrow compressed": _bad(
        R.TOO_LARGE, lambda i: stream(pa.table({"url": [_own(i)], "text": ["a" * 999]}), compression="zstd")
    ),
    "Arrow that unpacks to 64 MiB": _bad(
        R.TOO_LARGE, lambda i: stream(pa.table({"url": [_own(i)], "text": ["a" * 2**26]}), compression="zstd")
    ),
    "Arrow of too many rows": _bad(
        R.TOO_LARGE, lambda i: arrow(url=pa.nulls(MAX_ARROW_ROWS + 1), text=pa.nulls(MAX_ARROW_ROWS + 1))
    ),
    "Arrow views": _bad(R.TOO_LARGE, _same_view_often),
    "Arrow dictionary": _bad(R.BAD_SCHEMA, lambda i: _texts(i, pa.array(["a"]).dictionary_encode())),
    "Arrow list": _bad(R.BAD_SCHEMA, lambda i: _texts(i, [["a"]])),
    "Arrow struct": _bad(R.BAD_SCHEMA, lambda i: _texts(i, [{"a": "b"}])),
    "Arrow number": _bad(R.BAD_SCHEMA, lambda i: _texts(i, [5])),
    "Arrow extension": _bad(R.BAD_SCHEMA, lambda i: _texts(i, _extension(["1"]))),
    "Arrow extension that nobody knows": _bad(R.BAD_SCHEMA, _unknown_extension),
    "Arrow run ends": _bad(R.BAD_SCHEMA, lambda i: _texts(i, pa.RunEndEncodedArray.from_arrays([1], ["a"]))),
    "Arrow without text": _bad(R.BAD_SCHEMA, lambda i: arrow(url=[_own(i)])),
    "Arrow with two texts": _bad(R.BAD_SCHEMA, lambda i: arrow(url=[_own(i)], text=["a"], ALT=["b"])),
    "Arrow, some rows bad": _mixed,
    "Arrow, rows that are no UTF-8": _rows_of_bytes,
    "Arrow, url that is nothing": lambda i: (
        arrow(url=pa.nulls(2), text=["a", "b"]),
        ARROW_HEADERS,
        2,
        [R.URL_MISSING] * 2,
    ),
    "Arrow, a row too large": lambda i: (
        arrow(url=[_own(i)] * 2, text=["a dog", "a" * MAX_RECORD_BYTES]),
        ARROW_HEADERS,
        2,
        [R.TOO_LARGE],
    ),
    "Arrow, text too long": lambda i: (
        arrow(url=[_own(i)] * 2, text=["a " * (MAX_TEXT_TOKENS + 1), "a" * (MAX_TEXT_BYTES + 1)]),
        ARROW_HEADERS,
        2,
        [R.TEXT_TOO_LONG] * 2,
    ),
}

# more than a producer lets through with its defaults, and less than the topic does
LARGE: dict[str, Callable[[int], Any]] = {
    "Arrow of too many bytes": _bad(R.TOO_LARGE, lambda i: arrow(url=[_own(i)], text=["a" * MAX_ARROW_BYTES])),
    "JSON of 16 MiB": _bad(R.TOO_LARGE, lambda i: _json(i) + b" " * (16 * 1024 * 1024)),
    "open brackets of 16 MiB": _bad(R.TOO_LARGE, lambda i: b"[" * (16 * 1024 * 1024)),
}

_ODD_TEXTS = {
    "NUL": "a\0dog",
    "controls": "a dog\x1b[2J\x07\x7f\x9b",
    "bidi": "a \u202egod\u202c dog \u2066\u2069",
    "byte-order mark": "\ufeffa dog",
    "line separators": "a\u2028dog\u2029\x85",
    "zero width": "a\u200bd\u200do\u2060g",
    "not normalised": "e\u0301 \u00e9 \ufb01 \u212b",
    "noncharacters": "\uffff \ufdd0 \U0010ffff",
    "exactly so many tokens": "a " * MAX_TEXT_TOKENS,
    "exactly so many bytes": "é" * (MAX_TEXT_BYTES // 2),
    "empty": "",
    "spaces": " \t\r\n ",
    "markup": "<script>alert(1)</script> [red]{0}%s ${x}",
}

ODD: dict[str, Callable[[int], Any]] = {
    **{f"text: {name}": (lambda i, text=text: (_url(i, _own(i), text),)) for name, text in _ODD_TEXTS.items()},
    **{
        f"text in Arrow: {name}": (lambda i, text=text: (arrow(url=[_own(i)], text=[text]), ARROW_HEADERS))
        for name, text in _ODD_TEXTS.items()
    },
    "no text": lambda i: (json.dumps({"url": _own(i)}).encode(),),
    "null text": lambda i: (json.dumps({"url": _own(i), "text": None}).encode(),),
    "text that is nothing, in Arrow": lambda i: (arrow(url=[_own(i), _own(i + 1)], text=pa.nulls(2)), ARROW_HEADERS, 2),
    "password": lambda i: (_url(i, "https://user:secret@x.org/#"),),
    "private url": lambda i: (_url(i, "HTTP://127.0.0.1:8080/# a?b=\u00e9"),),
    "the longest url": lambda i: (_url(i, f"http://x.org/{i}?".ljust(MAX_URL_BYTES, "x")),),
    "the largest JSON": lambda i: (_json(i).ljust(MAX_RECORD_BYTES),),
    "nested members": lambda i: (_json(i, b', "more": ' + b"[" * 200 + b"]" * 200),),
    "escapes": lambda i: (b'{"\\u0075rl": "http:\\/\\/x.org/odd/%d", "TEXT": "\\ud83d\\ude00 dog"}' % i,),
    "Arrow of no rows": lambda i: (
        arrow(url=pa.array([], pa.string()), text=pa.array([], pa.string())),
        ARROW_HEADERS,
        0,
    ),
    "Arrow without headers": lambda i: (arrow(url=[_own(i)], text=["a dog"]),),
    "Arrow of views": lambda i: (
        arrow(url=pa.array([_own(i)], pa.string_view()), caption=pa.array(["a dog" * 9], pa.large_string())),
        ARROW_HEADERS,
    ),
    "header that is not UTF-8": lambda i: (_json(i), [(RawKey(b"\xff\xfe\xc3"), b"\xff"), (RawKey(b"ok\x80"), b"")]),
    "many headers": lambda i: (_json(i), [("x", b"y")] * 100 + [(FORMAT_VERSION, b"7"), (FORMAT_VERSION, b"1")]),
    "content type that nobody knows": lambda i: (_json(i), [(CONTENT_TYPE, b"\xff/\xff; q=\0")]),
}
