"""From arguments to sources: order, hidden files, duplicates, remote places, and the words of refusals."""

from __future__ import annotations

import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from stream_curate.errors import InputError, UsageError
from stream_curate.sources import ColumnChoice, open_sources

TSV = b"url\ttext\nhttp://x/\ta dog\n"
SHARDS = Path(__file__).parent.parent / "shards"
NO_CHOICE = ColumnChoice()


@pytest.fixture
def tree(tmp_path):
    """A folder of small files, some of which are no input."""
    for name in (
        "b.tsv",
        "a.parquet",
        "B.tsv",
        "sub/c.csv.gz",
        "sub/deep/d.ndjson.zst",
        "sub/e.TSV",
        "é.jsonl",
        "notes.txt",
        "x.parquet.gz",
        ".hidden.tsv",
        "_log.tsv",
        "_delta_log/f.parquet",
        ".cache/g.tsv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TSV)
    return tmp_path


def named(sources, folder):
    return [source.uri.removeprefix(folder.as_uri() + "/") for source in sources]


def test_a_directory_is_its_files_sorted_by_bytes(tree):
    found = ["B.tsv", "a.parquet", "b.tsv", "sub/c.csv.gz", "sub/deep/d.ndjson.zst", "sub/e.TSV", "%C3%A9.jsonl"]
    sources = open_sources([str(tree)], NO_CHOICE)
    assert named(sources, tree) == found
    assert [source.format for source in sources] == ["tsv", "parquet", "tsv", "csv", "jsonl", "tsv", "jsonl"]
    assert named(open_sources([f"{tree}/sub/../"], NO_CHOICE), tree) == found
    assert named(open_sources([f"{tree}/sub", str(tree)], NO_CHOICE), tree)[:4] == [*found[3:6], "B.tsv"]


def test_with_a_format_a_directory_is_all_its_files(tree):
    (tree / "sub" / "part-00000").write_bytes(TSV)
    sources = open_sources([f"{tree}/sub"], NO_CHOICE, format="tsv")
    assert named(sources, tree / "sub") == ["c.csv.gz", "deep/d.ndjson.zst", "e.TSV", "part-00000"]
    assert {source.format for source in sources} == {"tsv"}


def test_patterns_are_sorted_by_bytes_and_may_go_deep(tree):
    assert named(open_sources([f"{tree}/*.tsv"], NO_CHOICE), tree) == ["B.tsv", "_log.tsv", "b.tsv"]
    assert named(open_sources([f"{tree}/**/[cd].*"], NO_CHOICE), tree) == ["sub/c.csv.gz", "sub/deep/d.ndjson.zst"]
    (tree / "[cd].tsv").write_bytes(TSV)
    assert named(open_sources([f"{tree}/[cd].tsv"], NO_CHOICE), tree) == ["%5Bcd%5D.tsv"]


def test_the_order_given_stays_and_the_same_file_is_read_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    arguments = ["sub/e.TSV", "b.tsv", "-", "./sub/../b.tsv", (tree / "b.tsv").as_uri(), "[!_]*.tsv", "-"]
    uris = [source.uri for source in open_sources(arguments, NO_CHOICE)]
    assert uris == [*((tree / name).as_uri() for name in ("sub/e.TSV", "b.tsv")), "stdin:", (tree / "B.tsv").as_uri()]


def test_a_link_is_a_name_of_its_own(tree):
    (tree / "link.tsv").symlink_to(tree / "b.tsv")
    sources = open_sources([f"{tree}/b.tsv", f"{tree}/link.tsv"], NO_CHOICE)
    assert named(sources, tree) == ["b.tsv", "link.tsv"]


def test_a_name_that_is_no_utf8_can_be_read(tmp_path, rows_of):
    path = os.fsencode(tmp_path) + b"/\xff #?%.tsv"
    with open(path, "wb") as file:
        file.write(TSV)
    for argument in (os.fsdecode(path), str(tmp_path)):
        (source,) = open_sources([argument], NO_CHOICE)
        assert source.uri.endswith("/%FF%20%23%3F%25.tsv")
        assert [row[1] for row in rows_of(source)] == [b"http://x/"]


def test_nothing_is_read_when_sources_are_opened(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"junk")
    (source,) = open_sources([str(path)], NO_CHOICE)
    assert source.size == 4


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("missing.tsv", ["missing.tsv: there is no such file"]),
        ("*.nothing", [r"\*.nothing: no file matches"]),
        ("notes.txt", ["notes.txt: its extension is not known", ".parquet, .tsv, .csv, .jsonl, .ndjson", "--format"]),
        ("x.parquet.gz", ["its extension is not known"]),
        ("notes*", ["its extension is not known"]),
        ("b.tsv/c.tsv", ["cannot be looked up"]),
        ("a\0b.tsv", [r"a\\x00b.tsv: cannot be looked up"]),
        ("_delta_log/../.cache/empty", ["a directory without input", ".parquet"]),
        ("pipe.tsv", ["neither a file nor a directory", "- as its name"]),
        ("bad/dangling.tsv", ["there is no such file"]),
        ("bad", ["dangling.tsv: cannot be looked up"]),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(argument, words, tree, monkeypatch):
    monkeypatch.chdir(tree)
    (tree / ".cache" / "empty").mkdir()
    (tree / "bad").mkdir()
    (tree / "bad" / "dangling.tsv").symlink_to("nowhere")
    os.mkfifo(tree / "pipe.tsv")
    with pytest.raises(InputError) as refusal:
        open_sources([argument], NO_CHOICE)
    for word in words:
        assert re.search(word, str(refusal.value)) or word in str(refusal.value)


def test_a_file_that_may_not_be_read_is_refused(tree, monkeypatch):
    # the tests may run as root, to whom everything is readable
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"b.tsv: may not be read\. Check its permissions"):
        open_sources([f"{tree}/b.tsv"], NO_CHOICE)


def test_senseless_requests_are_usage_errors(tree):
    with pytest.raises(UsageError, match="auto, parquet, tsv, csv, jsonl"):
        open_sources([str(tree)], NO_CHOICE, format="xml")
    with pytest.raises(UsageError, match="no input"):
        open_sources([], NO_CHOICE)


# remote places


@pytest.fixture
def memory(tmp_path):
    """A place of its own in fsspec's memory file system, as a URI without the scheme."""
    place = f"/{tmp_path.name}"
    filesystem = fsspec.filesystem("memory")
    for name in ("b.tsv", "a.tsv", "sub/c.tsv", "sub/_d.tsv", ".e.tsv", "notes.txt"):
        filesystem.pipe(f"{place}/{name}", TSV)
    yield place
    filesystem.rm(place, recursive=True)


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("b.tsv", ["b.tsv"]),
        ("", ["a.tsv", "b.tsv", "sub/c.tsv"]),
        ("sub", ["sub/c.tsv"]),
        ("*.tsv", ["a.tsv", "b.tsv"]),
        (".*.tsv", [".e.tsv"]),
        ("sub/**", ["sub/_d.tsv", "sub/c.tsv"]),
        ("**/c*", ["sub/c.tsv"]),
        ("s*/c.tsv", ["sub/c.tsv"]),
    ],
)
def test_remote_files_directories_and_patterns(argument, found, memory, rows_of):
    sources = open_sources([f"memory:/{memory}/{argument}"], NO_CHOICE)
    assert [source.uri for source in sources] == [f"memory:/{memory}/{name}" for name in found]
    for source in sources:
        assert source.size == len(TSV)
        assert [row[1:3] for row in rows_of(source)] == [(b"http://x/", b"a dog")]


@pytest.mark.parametrize("argument", ["missing.tsv", "*.csv", "missing/*.tsv", "notes.txt"])
def test_what_is_not_there_is_refused_in_words(argument, memory):
    with pytest.raises(InputError, match=re.escape(argument)):
        open_sources([f"memory:/{memory}/{argument}"], NO_CHOICE)


def test_remote_parquet_and_archives(memory, tmp_path, rows_of, write):
    filesystem = fsspec.filesystem("memory")
    shard = "laion-10k.parquet"
    filesystem.pipe(f"{memory}/{shard}", (SHARDS / shard).read_bytes())
    filesystem.pipe(f"{memory}/z.tsv.gz", write(tmp_path / "z.tsv.gz", TSV).read_bytes())
    parquet, archive = open_sources([f"memory:/{memory}/{shard}", f"memory:/{memory}/z.tsv.gz"], NO_CHOICE)
    assert len(rows_of(parquet)) == 10_000
    assert rows_of(parquet, 9_998) == rows_of(parquet)[9_998:]
    assert len(rows_of(archive)) == 1


@pytest.mark.parametrize(
    ("uri", "module", "package"),
    [
        ("http://127.0.0.1:1/pairs.tsv", "aiohttp", "aiohttp"),
        ("hf://datasets/a/b.tsv", "huggingface_hub", "huggingface_hub"),
    ],
)
def test_a_missing_driver_is_named(uri, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"a Python package is missing: .*{package}.*pip"):
        open_sources([uri], NO_CHOICE)


def test_an_unknown_scheme_is_refused_in_words():
    with pytest.raises(InputError, match=r"nosuch://x/pairs\.tsv: cannot be opened"):
        open_sources(["nosuch://x/pairs.tsv"], NO_CHOICE)


class _ObjectStore(BaseHTTPRequestHandler):
    """As much of S3 as reading one object takes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *arguments):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        data = TSV + b"http://y/\ta cat\n" if self.path.partition("?")[0] == "/bucket/two.tsv" else None
        wanted = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        self.send_response(404 if data is None else 206 if wanted else 200)
        data = data or b""
        if wanted:
            data = data[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def object_store(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ObjectStore)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_object_store_is_read_over_http_and_the_secret_stays_secret(object_store, rows_of):
    (source,) = open_sources([f"s3://key:secret@bucket/two.tsv{object_store}"], NO_CHOICE)
    assert source.uri == f"s3://bucket/two.tsv{object_store}"
    assert "secret" not in source.name
    assert [row[1] for row in rows_of(source)] == [b"http://x/", b"http://y/"]
    with pytest.raises(InputError, match=r"missing\.tsv") as refusal:
        open_sources([f"s3://key:secret@bucket/missing.tsv{object_store}"], NO_CHOICE)
    assert "secret" not in str(refusal.value)
