"""Text from the crawl, made safe to show in a terminal, a log line or a preview."""

from __future__ import annotations

import re

_SIGNATURE = re.compile(r"([?&][^=&#]*(?:sig|token|secret|password|credential|key)[^=&#]*=)[^&#\s]*", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=//)[^/?#\s]*@")

# what decoding with "surrogateescape" makes of the bytes 0x80 to 0xFF
_ESCAPED_BYTES = 0xDC00
_FIRST_ESCAPED_BYTE, _LAST_ESCAPED_BYTE = 0xDC80, 0xDCFF


def printable(text: str | bytes, max_bytes: int | None = None) -> str:
    r"""`text` with everything that is not printable written as an escape.

    Control characters, bidi overrides, zero-width characters, byte-order marks and line separators
    become `\xNN`, `\uNNNN` or `\UNNNNNNNN`; bytes that are not UTF-8 become `\xNN`. The result holds
    at most `max_bytes` bytes of UTF-8 and never ends inside an escape.

    >>> printable("a\u202eb\n")
    'a\\u202eb\\x0a'
    >>> printable(b"caf\xc3\xa9 \xff", max_bytes=5)
    'café'
    """
    is_bytes = isinstance(text, bytes)
    if isinstance(text, bytes):
        if max_bytes is not None:
            text = text[: max_bytes + 4]  # whatever follows could not be shown
        text = text.decode("utf-8", "surrogateescape")
    pieces: list[str] = []
    room = max_bytes if max_bytes is not None else -1
    for character in text:
        piece = character if character.isprintable() else _escape(ord(character), is_bytes=is_bytes)
        if max_bytes is not None:
            room -= len(piece.encode("utf-8", "backslashreplace"))
            if room < 0:
                break
        pieces.append(piece)
    return "".join(pieces)


def without_credentials(uri: str) -> str:
    """`uri` as it may be logged: without a user name and password, and without the signatures of presigned links.

    >>> without_credentials("s3://key:secret@bucket/pairs.parquet")
    's3://***@bucket/pairs.parquet'
    >>> without_credentials("https://x.org/a.tsv?part=1&X-Amz-Signature=0f3a")
    'https://x.org/a.tsv?part=1&X-Amz-Signature=***'
    """
    return _SIGNATURE.sub(r"\1***", _USERINFO.sub("***@", uri))


def _escape(code_point: int, *, is_bytes: bool) -> str:
    if is_bytes and _FIRST_ESCAPED_BYTE <= code_point <= _LAST_ESCAPED_BYTE:
        code_point -= _ESCAPED_BYTES
    if code_point <= 0xFF:
        return f"\\x{code_point:02x}"
    if code_point <= 0xFFFF:
        return f"\\u{code_point:04x}"
    return f"\\U{code_point:08x}"
