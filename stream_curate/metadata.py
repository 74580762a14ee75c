"""The metadata: the ordered list of entries that texts are matched against.

A metadata file is UTF-8 text with one entry a line, or a JSON list of strings (MetaCLIP's
metadata.json), either of them plain or compressed with zstd. Whatever the format, the same entries in
the same order have the same fingerprint. A file that is not such a list is refused in words.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
import pyarrow as pa
import xxhash

from stream_curate.arrow_buffers import string_buffers
from stream_curate.draft import replacing
from stream_curate.errors import ConfigError, OutputError, UsageError
from stream_curate.printable import printable
from stream_curate.shipped import shipped_path
from stream_curate.spacing import can_match

MAX_ENTRY_BYTES = 1_024
MAX_FILE_BYTES = 256 * 1024 * 1024
"""The largest metadata file that is read, and the most that one may unpack to."""

MAX_PREVIEW_BYTES = 60
N_PROBLEMS_SHOWN = 5
ZSTD_LEVEL = 19

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LF = 0x0A
_NO_ENTRY = "holds no entry: give at least one"
_CHUNK_BYTES = 4 * 1024 * 1024
_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


class Problem(StrEnum):
    """Why something cannot be metadata. Of several reasons for one entry, the first in this order is given."""

    # of the file as a whole
    TOO_LARGE = "too_large"
    NOT_TEXT = "not_text"
    BAD_JSON = "bad_json"
    NO_ENTRY = "no_entry"
    # of one entry
    NOT_A_STRING = "not_a_string"
    INVALID_UTF8 = "invalid_utf8"
    BYTE_ORDER_MARK = "byte_order_mark"
    EMPTY = "empty"
    TAB_OR_LINE_BREAK = "tab_or_line_break"
    TOO_LONG = "too_long"
    DUPLICATE = "duplicate"
    # a warning: the entry is allowed, but no text can ever match it
    NEVER_MATCHES = "never_matches"


_ENTRY_PROBLEMS = tuple(Problem)[tuple(Problem).index(Problem.INVALID_UTF8) :]


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a metadata file.

    Attributes:
        line: the 1-based line (of a JSON list: the 1-based item); None for the file as a whole.
        problem: what kind of thing is wrong.
        words: what is wrong and what to do about it.
        preview: the start of the entry, safe to print; empty for the file as a whole.
    """

    line: int | None
    problem: Problem
    words: str
    preview: str = ""


@dataclass(frozen=True)
class LintReport:
    """What `lint` found.

    Attributes:
        n_entries: lines or items in the file, good and bad.
        fingerprint: that of the metadata, or None when it would be refused.
        problems: everything for which loading refuses the file, by line.
        never_matching: entries that loading accepts but that can match no text, by line.
    """

    n_entries: int
    fingerprint: str | None
    problems: list[Finding]
    never_matching: list[Finding]


class MetadataError(ConfigError):
    """A file or list that cannot be metadata.

    Attributes:
        findings: the first few things wrong with it; empty when it could not be read at all.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class Metadata:
    """The ordered entries. Immutable; an entry's 0-based row is its entry_id.

    >>> metadata = Metadata.from_entries(["dog", "hot dog"])
    >>> len(metadata), metadata.entry(1)
    (2, 'hot dog')
    """

    def __init__(self, entries: pa.Array, *, name: str = "metadata", unit: str = "item") -> None:
        """Check and keep `entries`, a string or binary column without nulls.

        Args:
            entries: n_entries rows, in order.
            name: what a refusal calls the whole, such as the file's path.
            unit: what a refusal calls one row: "line" or "item".

        Raises:
            MetadataError: for a list with no entry, or one that holds an entry that is empty, holds a
                tab, newline or carriage return, stands twice, is over 1,024 bytes or is not UTF-8.
        """
        rows = entries.cast(pa.binary())
        verdict = _judge(rows)
        n_problems = int(np.count_nonzero(verdict.problem))
        if len(rows) == 0:
            raise _refusal(name, Problem.NO_ENTRY, _NO_ENTRY)
        if n_problems:
            shown = _findings(rows, verdict, unit, limit=N_PROBLEMS_SHOWN)
            raise MetadataError(_message(name, unit, shown, n_problems), shown)
        self.entries: Final[pa.StringArray] = cast("pa.StringArray", rows.view(pa.string()))

    @classmethod
    def from_entries(cls, entries: Iterable[str]) -> Self:
        """The metadata of these strings, in this order.

        Raises:
            MetadataError: as for the constructor.
        """
        return cls(_encoded(entries))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a metadata file: text or a JSON list of strings, plain or zstd.

        A name that ends in .json or .txt (before .zst) says which; with another name, a file that
        begins with "[" is read as JSON. Lines end at LF and nowhere else.

        Raises:
            MetadataError: the file cannot be read, or is not metadata; names the line and what to do.
        """
        rows, unit = _read_rows(Path(path))
        return cls(rows, name=os.fspath(path), unit=unit)

    @classmethod
    def default(cls) -> Self:
        """The English list that comes with the package (metadata/README.md says how it is made).

        Raises:
            FileNotFoundError: the package is not complete.
        """
        return cls.load(shipped_path("metadata/english.txt.zst"))

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Metadata({len(self):,} entries, fingerprint {self.fingerprint[:16]}…)"

    def entry(self, entry_id: int) -> str:
        """The entry of a 0-based row.

        Raises:
            IndexError: there is no such row (negative ones do not count from the end).
        """
        if not 0 <= entry_id < len(self):
            raise IndexError(f"entry_id {entry_id} of metadata with {len(self)} entries")
        return cast(str, self.entries[entry_id].as_py())

    @cached_property
    def keys(self) -> np.ndarray:
        """uint64[n_entries]: xxh3_64 of each entry's UTF-8 bytes; read-only."""
        rows = self._lines().tobytes().split(b"\n")[:-1]
        keys = np.fromiter(map(xxhash.xxh3_64_intdigest, rows), np.uint64, len(self))
        keys.flags.writeable = False
        return keys

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the entries in order, each followed by a newline, in UTF-8."""
        return hashlib.sha256(self._lines().data).hexdigest()

    def save(self, path: str | os.PathLike[str], *, zstd_level: int = ZSTD_LEVEL) -> None:
        """Write a text file, one entry a line, compressed with zstd; it replaces `path` at once.

        With one version of pyarrow (which brings its zstd) the same entries give the same bytes; what
        holds with every version is the fingerprint of what is read back.

        Raises:
            UsageError: the name does not end in .txt.zst.
            OutputError: the file cannot be written.
        """
        target = Path(path)
        if not target.name.endswith(".txt.zst"):
            raise UsageError(f"{target}: metadata is saved as zstd text: give a name that ends in .txt.zst")
        compressed = pa.Codec("zstd", compression_level=zstd_level).compress(pa.py_buffer(self._lines()), asbytes=True)
        try:
            with replacing(target) as draft:
                draft.write_bytes(compressed)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error

    def _lines(self) -> np.ndarray:
        """uint8: the entries, each followed by a newline: the content of the text format."""
        offsets, values = string_buffers(self.entries)
        # The newline of entry i stands after i + 1 entries and the i newlines before it.
        newlines = (offsets[1:] - offsets[0]).astype(np.int64) + np.arange(len(self))
        is_entry = np.ones(int(newlines[-1]) + 1, np.bool_)
        is_entry[newlines] = False
        lines = np.full(len(is_entry), _LF, np.uint8)
        lines[is_entry] = values[offsets[0] : offsets[-1]]
        return lines


def lint(path: str | os.PathLike[str]) -> LintReport:
    """Everything that is wrong with a metadata file, and the entries that no text can match.

    Raises:
        MetadataError: the file cannot be read at all.
    """
    try:
        rows, unit = _read_rows(Path(path))
    except MetadataError as refusal:
        if not refusal.findings:
            raise
        return LintReport(0, None, list(refusal.findings), [])
    verdict = _judge(rows)
    usable = np.flatnonzero(verdict.problem == 0)
    never_matching = [
        Finding(row + 1, Problem.NEVER_MATCHES, "no text can match it", _preview(entry.encode()))
        for row, entry in zip(usable.tolist(), rows.take(pa.array(usable)).cast(pa.string()).to_pylist(), strict=True)
        if not can_match(entry)
    ]
    problems = _findings(rows, verdict, unit)
    if len(rows) == 0:
        problems.append(Finding(None, Problem.NO_ENTRY, _NO_ENTRY))
    fingerprint = None if problems else Metadata(rows).fingerprint
    return LintReport(len(rows), fingerprint, problems, never_matching)


def usable_entries(candidates: Iterable[str]) -> list[str]:
    """Those of the candidates that metadata may hold, in their order; of equal ones the first.

    >>> usable_entries(["dog", "", "cat", "dog"])
    ['dog', 'cat']
    """
    rows = _encoded(candidates)
    usable = np.flatnonzero(_judge(rows).problem == 0)
    return cast("list[str]", rows.take(pa.array(usable)).cast(pa.string()).to_pylist())


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with each of n rows.

    Attributes:
        problem: uint8[n]; 0 for a usable entry, else 1 + the index into `_ENTRY_PROBLEMS`.
        first: int64[n]; the row where the same bytes stand first.
    """

    problem: np.ndarray
    first: np.ndarray


def _judge(rows: pa.BinaryArray) -> _Verdict:
    offsets, values = string_buffers(rows)
    lengths = np.diff(offsets)
    codes = rows.dictionary_encode()
    row = np.arange(len(rows))
    first = row
    if len(codes.dictionary) < len(rows):
        seen_first, inverse = np.unique(codes.indices.to_numpy(), return_index=True, return_inverse=True)[1:]
        first = seen_first[inverse]
    content = values[offsets[0] : offsets[-1]]
    is_break = (content == 0x09) | (content == _LF) | (content == 0x0D)
    # The last row that begins at or before a byte is the one that holds it: rows before it that begin
    # at the same place are empty.
    holds_break = np.searchsorted(offsets, np.flatnonzero(is_break) + offsets[0], side="right") - 1

    # Written from the last problem to the first, so that the first in the order stays.
    problem = np.zeros(len(rows), np.uint8)
    problem[first != row] = _code(Problem.DUPLICATE)
    problem[lengths > MAX_ENTRY_BYTES] = _code(Problem.TOO_LONG)
    problem[holds_break] = _code(Problem.TAB_OR_LINE_BREAK)
    problem[lengths == 0] = _code(Problem.EMPTY)
    if content[:3].tobytes() == _BYTE_ORDER_MARK and lengths[0] >= 3:
        problem[0] = _code(Problem.BYTE_ORDER_MARK)
    problem[_not_utf8(rows)] = _code(Problem.INVALID_UTF8)
    return _Verdict(problem, first)


def _code(problem: Problem) -> int:
    return 1 + _ENTRY_PROBLEMS.index(problem)


def _not_utf8(rows: pa.BinaryArray) -> list[int]:
    try:
        rows.view(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return [row for row, value in enumerate(rows.to_pylist()) if not _is_utf8(value)]
    return []


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _findings(rows: pa.BinaryArray, verdict: _Verdict, unit: str, limit: int | None = None) -> list[Finding]:
    findings = []
    for row in np.flatnonzero(verdict.problem)[:limit].tolist():
        value: bytes = rows[row].as_py()
        problem = _ENTRY_PROBLEMS[verdict.problem[row] - 1]
        words = _words(problem, value, unit, first_line=int(verdict.first[row]) + 1)
        findings.append(Finding(row + 1, problem, words, _preview(value)))
    return findings


def _words(problem: Problem, value: bytes, unit: str, first_line: int) -> str:
    if problem is Problem.INVALID_UTF8:
        return "not UTF-8: convert the file to UTF-8"
    if problem is Problem.BYTE_ORDER_MARK:
        return "begins with a byte-order mark, which would become part of the entry: save as UTF-8 without BOM"
    if problem is Problem.EMPTY:
        return f"an empty entry: delete the {unit}"
    if problem is Problem.TAB_OR_LINE_BREAK:
        if value.endswith(b"\r"):
            return "ends in a carriage return (CRLF line ends?): convert line ends to LF, for example with dos2unix"
        name = "a tab" if b"\t" in value else "a newline" if b"\n" in value else "a carriage return"
        hint = " (is this a file of pairs?)" if name == "a tab" else ""
        return f"holds {name}, which no text keeps{hint}: replace it by a space or delete the {unit}"
    if problem is Problem.TOO_LONG:
        return f"{len(value):,} bytes; an entry has at most {MAX_ENTRY_BYTES:,}: shorten or delete it"
    return f"the same entry as {unit} {first_line}: delete one of the two"


def _preview(value: bytes) -> str:
    return printable(value, max_bytes=MAX_PREVIEW_BYTES)


def _message(name: str, unit: str, shown: Sequence[Finding], n_problems: int) -> str:
    count = f"{n_problems:,} {unit}{'s' if n_problems > 1 else ''}"
    lines = [f"{name}: {count} cannot be used as metadata"]
    for finding in shown:
        preview = f" ({finding.preview})" if finding.preview else ""
        lines.append(f"  {unit} {finding.line}{preview}: {finding.words}")
    if n_problems > len(shown):
        lines.append(f"  and {n_problems - len(shown):,} more; 'stream-curate metadata check FILE' lists all")
    return "\n".join(lines)


def _refusal(name: str, problem: Problem, words: str, line: int | None = None) -> MetadataError:
    """The refusal of a file as a whole."""
    return MetadataError(f"{name}: {words}", [Finding(line, problem, words)])


def _encoded(entries: Iterable[str]) -> pa.BinaryArray:
    # A lone surrogate becomes bytes that are not UTF-8, and is refused as such with its row.
    return pa.array([entry.encode("utf-8", "surrogatepass") for entry in entries], pa.binary())


def _read_rows(path: Path) -> tuple[pa.BinaryArray, str]:
    """The entries of a file as bytes, not yet judged, and what one of them is called ("line" or "item")."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _refusal(str(path), Problem.TOO_LARGE, _too_large())
        stored = path.read_bytes()
    except OSError as error:
        raise MetadataError(f"{path}: cannot be read as metadata: {error.strerror}") from error
    is_zstd = stored.startswith(_ZSTD_MAGIC)
    content = _decompressed(stored, path) if is_zstd else stored
    _refuse_other_files(content, path, is_zstd)
    if _is_json(path, content):
        return _json_rows(content, path), "item"
    return _text_rows(content), "line"


def _too_large() -> str:
    return (
        f"over {MAX_FILE_BYTES // 1024**2} MiB of content: "
        "metadata is the list of entries (concepts), one a line, not your data"
    )


def _decompressed(stored: bytes, path: Path) -> bytes:
    # In chunks, so that a small file that unpacks to terabytes is refused before it fills the memory.
    pieces: list[bytes] = []
    n_bytes = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(stored), "zstd") as stream:
            while piece := stream.read(_CHUNK_BYTES):
                pieces.append(piece)
                n_bytes += len(piece)
                if n_bytes > MAX_FILE_BYTES:
                    raise _refusal(str(path), Problem.TOO_LARGE, _too_large())
    except OSError as error:
        words = f"the zstd file is cut short or damaged ({error}): fetch or make it again"
        raise _refusal(str(path), Problem.NOT_TEXT, words) from error
    return b"".join(pieces)


def _refuse_other_files(content: bytes, path: Path, was_compressed: bool) -> None:
    """Refuse what is clearly neither text nor JSON, by what it is."""
    concepts = "metadata is the list of entries (concepts), one a line, not your data"
    n_nul = content.count(0)
    is_binary = n_nul > 0 and not _is_utf8(content)
    if content.startswith(b"PAR1") and (is_binary or content.endswith(b"PAR1")):
        raise _refusal(str(path), Problem.NOT_TEXT, f"is this a parquet file of pairs? {concepts}")
    if content.startswith(_GZIP_MAGIC):
        words = f"is gzip-compressed; {concepts}: unpack it (gunzip), or compress it with zstd"
        raise _refusal(str(path), Problem.NOT_TEXT, words)
    # A NUL in an entry is allowed, so what is plainly UTF-8 needs many of them to be taken for a binary
    # file or UTF-16; what `save` writes is compressed and always read back.
    if is_binary or (not was_compressed and n_nul * 8 > len(content)):
        words = f"is a binary file or UTF-16 (it holds NUL bytes); {concepts}, in UTF-8"
        raise _refusal(str(path), Problem.NOT_TEXT, words)


def _is_json(path: Path, content: bytes) -> bool:
    name = path.name.lower().removesuffix(".zst")
    if name.endswith((".json", ".txt")):
        return name.endswith(".json")
    return content.lstrip().startswith(b"[")


def _text_rows(content: bytes) -> pa.BinaryArray:
    data = np.frombuffer(content, np.uint8)
    is_newline = data == _LF
    ends = np.flatnonzero(is_newline)
    if content and not content.endswith(b"\n"):
        ends = np.append(ends, len(data))
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - np.arange(len(ends))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[~is_newline])]
    return pa.BinaryArray.from_buffers(pa.binary(), len(ends), buffers)


def _json_rows(content: bytes, path: Path) -> pa.BinaryArray:
    expected = 'a .json metadata file is one list of strings, such as ["dog", "hot dog"]'
    if content.startswith(_BYTE_ORDER_MARK):
        words = "begins with a byte-order mark: save as UTF-8 without BOM"
        raise _refusal(str(path), Problem.BYTE_ORDER_MARK, words, line=1)
    if not content.strip():
        raise _refusal(str(path), Problem.NO_ENTRY, _NO_ENTRY)
    try:
        items: Any = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        words = f"line {line} is not UTF-8: convert the file to UTF-8"
        raise _refusal(str(path), Problem.INVALID_UTF8, words, line) from error
    except (ValueError, RecursionError) as error:
        raise _refusal(str(path), Problem.BAD_JSON, f"not JSON ({error}); {expected}") from error
    if not isinstance(items, list):
        raise _refusal(str(path), Problem.BAD_JSON, f"the JSON is not a list; {expected}")
    findings = [
        Finding(place, Problem.NOT_A_STRING, f"{_JSON_NAMES[type(item)]} and not a string; {expected}")
        for place, item in enumerate(items, start=1)
        if not isinstance(item, str)
    ]
    if findings:
        message = _message(str(path), "item", findings[:N_PROBLEMS_SHOWN], len(findings))
        raise MetadataError(message, findings)
    return _encoded(items)
