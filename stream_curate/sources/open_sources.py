"""From the arguments of a command to sources, in order and each once."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from stream_curate.errors import UsageError
from stream_curate.pairs import Records
from stream_curate.sources.columns import ColumnChoice
from stream_curate.sources.cutting import BLOCK_BYTES, TextInput
from stream_curate.sources.delimited import SEPARATORS, read_delimited
from stream_curate.sources.files import COMPRESSIONS, StoredFile
from stream_curate.sources.jsonl import read_jsonl
from stream_curate.sources.parquet import read_parquet
from stream_curate.sources.source import Source, bad_input, check_read, display_name
from stream_curate.sources.standard_input import StandardInput

FORMATS = {".parquet": "parquet", ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FORMAT_NAMES = ("auto", *dict.fromkeys(FORMATS.values()))
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USERINFO = re.compile(r"(?<=://)[^/?#@\s]*@")


@dataclass(frozen=True)
class FileSource:
    """A stored file as a `Source`."""

    file: StoredFile
    format: str
    columns: ColumnChoice
    block_bytes: int = BLOCK_BYTES

    @property
    def uri(self) -> str:
        return self.file.uri

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def size(self) -> int | None:
        return self.file.size

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        """See `Source.read`."""
        check_read(first_row, batch_size)
        if self.format == "parquet":
            yield from read_parquet(self.file, self.columns, first_row, batch_size)
            return
        stream, handle = self.file.open_stream()
        source = TextInput(stream, self.uri, self.columns, self.block_bytes)
        with contextlib.closing(handle):
            if self.format in SEPARATORS:
                yield from read_delimited(source, self.format, first_row, batch_size)
            else:
                yield from read_jsonl(source, first_row, batch_size)


def open_sources(arguments: Sequence[str], columns: ColumnChoice, *, format: str = "auto") -> list[Source]:
    """The sources that `arguments` name, in the order given; what is named twice is read once.

    An argument is a file, a directory (all files below it with a known extension, but none whose name, or folder,
    begins with `.` or `_`; links to folders are not followed), a pattern with `*`, `?`, `[...]` or `**`, a URI, or
    `-` for standard input. What a directory or pattern names is sorted by the bytes of its path. A wildcard stands
    for no name that begins with `.`, and in URIs `*` and `**` are the only ones. Nothing is read: files are looked
    up, and opened when their turn comes.

    `format` `auto` goes by the extension (`.gz` and `.zst` may follow it); any other says what every file is, and
    then a directory is all its files. `columns` holds for all of them.

    Raises:
        InputError: when an argument names nothing, or something that cannot be read.
        UsageError: for a format that is not known, or no arguments.
    """
    if format not in _FORMAT_NAMES:
        raise UsageError(f"--format {format} is not known; it is one of {', '.join(_FORMAT_NAMES)}")
    if not arguments:
        raise UsageError("no input: name files, directories, patterns or URIs, or - for standard input")
    sources: dict[str, Source] = {}
    for argument in arguments:
        if argument == "-":
            if format == "parquet":
                raise bad_input("standard input", "parquet cannot be read in one go", "Give the name of the file.")
            sources.setdefault(StandardInput.uri, StandardInput(columns, format))
            continue
        for file in _files(argument, format):
            sources.setdefault(file.uri, FileSource(file, _format_of(file, format), columns))
    return list(sources.values())


def _files(argument: str, format: str) -> list[StoredFile]:
    if argument.lower().startswith("file://"):
        return _local_files(unquote(urlsplit(argument).path), format)
    if _SCHEME.match(argument):
        return _remote_files(argument, format)
    return _local_files(argument, format)


def _format_of(file: StoredFile, format: str) -> str:
    if format != "auto":
        return format
    found = _known_format(file.path)
    if found is None:
        raise bad_input(
            file.name,
            f"its extension is not known; known are {', '.join(FORMATS)}, the text formats also with .gz or .zst",
            "Say what it is with --format.",
        )
    return found


def _known_format(path: str) -> str | None:
    name = PurePath(path.lower())
    if name.suffix in COMPRESSIONS:
        found = FORMATS.get(PurePath(name.stem).suffix)
        return None if found == "parquet" else found
    return FORMATS.get(name.suffix)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _nothing_in(name: str, format: str) -> Exception:
    looked_for = f"files ending in {', '.join(FORMATS)} (or these with .gz, .zst)" if format == "auto" else "files"
    return bad_input(name, f"a directory without input; looked for: {looked_for}", "Hidden files are left out.")


# local files


def _local_files(argument: str, format: str) -> list[StoredFile]:
    path = os.path.abspath(argument)  # links stay: the name is the identity
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        if not glob.has_magic(argument):
            raise bad_input(display_name(argument), "there is no such file", "Check its name.") from None
        found = glob.iglob(path, recursive=True)
        paths = sorted((match for match in found if Path(match).is_file()), key=os.fsencode)
        if not paths:
            raise bad_input(display_name(argument), "no file matches this pattern", "Check its name.") from None
        return [_local_file(path) for path in paths]
    except (OSError, ValueError) as error:
        raise bad_input(display_name(argument), f"cannot be looked up: {error}", "Check its name.") from error
    if not stat.S_ISDIR(mode):
        return [_local_file(path)]
    paths = sorted(_walk(path, format), key=os.fsencode)
    if not paths:
        raise _nothing_in(display_name(argument), format)
    return [_local_file(path) for path in paths]


def _walk(folder: str, format: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise bad_input(display_name(error.filename), f"cannot be listed: {error.strerror}", "Check its permissions.")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            if not _is_hidden(name) and (format != "auto" or _known_format(name)):
                yield f"{parent.rstrip('/')}/{name}"


def _local_file(path: str) -> StoredFile:
    name = display_name(path)
    try:
        status = Path(path).stat()
    except OSError as error:
        raise bad_input(name, f"cannot be looked up: {error.strerror}", "Check its name.") from error
    if not stat.S_ISREG(status.st_mode):
        raise bad_input(name, "neither a file nor a directory", "Pipe it in, and give - as its name.")
    if not os.access(path, os.R_OK):
        raise bad_input(name, "may not be read", "Check its permissions.")
    return StoredFile(PurePath(path).as_uri(), path, status.st_size)


# remote files


def _remote_files(argument: str, format: str) -> list[StoredFile]:
    location, question_mark, query = argument.partition("?")
    folder, pattern = location, ""
    if "*" in location:
        folder = location[: location.rindex("/", 0, location.index("*"))]
        pattern = location[len(folder) + 1 :]
    filesystem, path = _filesystem(folder + question_mark + query, argument)
    name = display_name(argument)

    def stored(info: Any) -> StoredFile:
        uri = folder.rstrip("/") + info.path[len(path.rstrip("/")) :] + question_mark + query
        return StoredFile(_USERINFO.sub("", uri), info.path, info.size, filesystem)

    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.File and not pattern:
            return [stored(info)]
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError("there is nothing of this name")
        below = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except Exception as error:  # every storage driver has its own kinds of errors
        raise bad_input(name, f"cannot be looked up: {error}", "Check its name and your access.") from error
    files = [info for info in below if info.type == pafs.FileType.File]
    inner = {info.path: info.path[len(path.rstrip("/")) :].lstrip("/") for info in files}
    if pattern:
        wanted = re.compile(_as_expression(pattern))
        files = [info for info in files if wanted.fullmatch(inner[info.path])]
        if not files:
            raise bad_input(name, "no file matches this pattern", "Check its name.")
    else:
        files = [
            info
            for info in files
            if not any(map(_is_hidden, inner[info.path].split("/"))) and (format != "auto" or _known_format(info.path))
        ]
        if not files:
            raise _nothing_in(name, format)
    return [stored(info) for info in sorted(files, key=lambda info: os.fsencode(info.path))]


def _as_expression(pattern: str) -> str:
    r"""A pattern with `*` (within a name) and `**` (any folders) as a regular expression.

    >>> bool(re.fullmatch(_as_expression("**/part-*.tsv"), "a/b/part-1.tsv"))
    True
    """
    *folders, name = pattern.split("/")
    folders += ["**"] * (name == "**")
    return "".join(
        r"(?:(?!\.)[^/]+/)*" if folder == "**" else _segment_expression(folder) + "/" for folder in folders
    ) + _segment_expression(name)


def _segment_expression(segment: str) -> str:
    shown_only = "" if segment.startswith(".") else r"(?!\.)"
    return shown_only + "[^/]*".join(re.escape(part) for part in re.split(r"\*+", segment))


def _filesystem(uri: str, argument: str) -> tuple[Any, str]:
    """The file system of a URI, and the path it has there: pyarrow's own, else fsspec's."""
    name = display_name(argument)
    try:
        try:
            return pafs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
        except pa.ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
        filesystem, path = fsspec.core.url_to_fs(uri)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
    except ImportError as error:
        raise bad_input(name, f"a Python package is missing: {error}", "Install it with pip.") from error
    except Exception as error:  # every storage driver has its own kinds of errors
        raise bad_input(name, f"cannot be opened: {error}", "Check the URI.") from error
