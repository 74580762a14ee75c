"""Standard input: read once, in the format it shows."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest

from stream_curate.errors import InputError
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.sources.standard_input import sniff


@pytest.fixture
def pipe_in(monkeypatch):
    """Standard input with these bytes, through a real pipe where they fit."""
    opened = []

    def pipe_in(data, *, format="auto", **choice):
        if len(data) < 60_000:
            reader, writer = os.pipe()
            os.write(writer, data)
            os.close(writer)
            piped = os.fdopen(reader, "rb")
        else:
            piped = io.BytesIO(data)
        opened.append(piped)
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=piped))
        (source,) = open_sources(["-"], ColumnChoice(**choice), format=format)
        return source

    yield pipe_in
    for piped in opened:
        piped.close()


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"url\ttext\nhttp://x/\ta dog\n", "tsv"),
        (b"url,text\nhttp://x/,a dog\n", "csv"),
        (b'{"url": "http://x/", "text": "a dog"}', "jsonl"),
        (b'\xef\xbb\xbf{"url": "http://x/", "text": "a dog"}\n', "jsonl"),
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_the_format_is_seen_or_given(data, format, given, pipe_in, rows_of):
    source = pipe_in(data, format=format if given else "auto")
    assert (source.uri, source.name, source.size) == ("stdin:", "standard input", None)
    assert [row[1:3] for row in rows_of(source)] == [(b"http://x/", b"a dog")]
    assert source.format == format


def test_blank_lines_before_the_first_object_are_records(pipe_in, reasons_of):
    source = pipe_in(b' \n\n{"url": "http://x/", "text": "a dog"}\n')
    assert reasons_of(source) == ["bad_json", "bad_json", None]


def test_fields_can_be_named(pipe_in, rows_of):
    assert [row[1:3] for row in rows_of(pipe_in(b"t\tu\n", headerless=("text", "url")))] == [(b"u", b"t")]


def test_more_than_one_block_arrives_whole(pipe_in, rows_of):
    lines = [b"http://x/%d\ta dog %d" % (i, i) for i in range(100_000)]
    rows = rows_of(pipe_in(b"\n".join([b"url\ttext", *lines])), 0, 30_000)
    assert [row[1] + b"\t" + row[2] for row in rows] == lines


def test_an_endless_first_line_is_refused_by_its_length(pipe_in):
    with pytest.raises(InputError, match="too long for a header"):
        list(pipe_in(b"x" * 2_000_000).read(0, 10))


@pytest.mark.parametrize(
    ("head", "words"), [(b"PAR1\x15", "parquet"), (b"\x1f\x8b\x08", "gzip -dc"), (b"\x28\xb5\x2f\xfd", "zstd -dc")]
)
def test_what_is_no_text_is_refused_with_a_way_out(head, words, pipe_in):
    with pytest.raises(InputError, match=words):
        list(pipe_in(head).read(0, 10))
    with pytest.raises(InputError, match=words):
        sniff(head)


def test_parquet_cannot_be_asked_for():
    with pytest.raises(InputError, match="Give the name of the file"):
        open_sources(["-"], ColumnChoice(), format="parquet")


def test_it_is_read_once_and_from_its_start(pipe_in):
    data = b"url\ttext\nu\tt\n"
    with pytest.raises(InputError, match="only once, from its first row"):
        list(pipe_in(data).read(1, 10))
    source = pipe_in(data)
    assert sum(map(len, source.read(0, 10))) == 1
    with pytest.raises(InputError, match="only once"):
        list(source.read(0, 10))
    with pytest.raises(InputError, match="empty file"):
        list(pipe_in(b"").read(0, 10))


def test_what_came_through_a_pipe_is_given_while_the_rest_is_awaited(monkeypatch):
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as piped:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=piped))
        (source,) = open_sources(["-"], ColumnChoice())
        os.write(write_end, b"url,text\nhttp://x.org/1,a dog\nhttp://x.org/2,a")
        batches = source.read(0, 1000)
        assert next(batches).texts.to_pylist() == [b"a dog"]
        assert len(next(batches)) == 0, "whoever reads can do other work while nothing comes"
        os.write(write_end, b" cat\n")
        os.close(write_end)
        second = next(batches)
        assert (second.first_row, second.texts.to_pylist()) == (1, [b"a cat"])
        assert next(batches, None) is None
