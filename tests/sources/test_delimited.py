"""tsv and csv: what a field is, and which rows are none."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_curate.errors import InputError
from stream_curate.pairs import MAX_RECORD_BYTES
from stream_curate.reasons import Reason

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def read(tmp_path, open_one, rows_of):
    """The rows of a file with these bytes: (url, text), or the reason."""

    def read(data: bytes, extension: str, **choice):
        path = tmp_path / f"pairs.{extension}"
        path.write_bytes(data)
        return [reason or (url, text) for _, url, text, _, reason, _ in rows_of(open_one(path, **choice))]

    return read


def test_tsv_has_no_quoting(read):
    assert read(b'url\ttext\n"http://x/\ta ""dog"\n', "tsv") == [(b'"http://x/', b'a ""dog"')]


def test_csv_quotes_hold_commas_quotes_and_line_feeds(read):
    data = b'text,url\r\n"a ""big"", black\r\ndog",http://x/1\r\n"",http://x/2\r\n"""",""""""\r\n'
    assert read(data, "csv") == [
        (b"http://x/1", b'a "big", black\r\ndog'),
        (b"http://x/2", b""),
        (b'""', b'"'),
    ]


def test_a_quote_inside_an_unquoted_csv_field_is_a_character(read):
    assert read(b'url,text\nhttp://x/,5" nail\nhttp://y/,""\n', "csv") == [
        (b"http://x/", b'5" nail'),
        (b"http://y/", b""),
    ]


@pytest.mark.parametrize("row", [b'"a"b,c', b'"a" ,c', b'a,"b"c', b'"a"b",c', b'"a"\r,c'])
def test_bytes_behind_a_closing_quote_make_a_bad_row(row, read):
    assert read(b"url,text\n" + row + b"\nu,t\n", "csv") == [Reason.BAD_ROW, (b"u", b"t")]


def test_an_unclosed_quote_takes_the_rest_along(read):
    assert read(b'url,text\na,b\nc,"d\ne,f\n', "csv") == [(b"a", b"b"), Reason.BAD_ROW]


@pytest.mark.parametrize("extension", ["tsv", "csv"])
def test_nothing_is_inferred(extension, read):
    data = b"url\ttext\n007\tNA\nnull\t\n \t nan \n\t1e5\n".replace(b"\t", b"\t" if extension == "tsv" else b",")
    assert read(data, extension) == [(b"007", b"NA"), (b"null", b""), (b" ", b" nan "), (b"", b"1e5")]


@pytest.mark.parametrize(("extension", "tab"), [("tsv", b"\t"), ("csv", b",")])
def test_rows_with_other_fields_than_the_header_are_bad(extension, tab, read):
    data = b"url\ttext\nu\n\nu\tt\t\n\r\n\t\nu\tt".replace(b"\t", tab)
    assert read(data, extension) == [*[Reason.BAD_ROW] * 4, (b"", b""), (b"u", b"t")]


@pytest.mark.parametrize("extension", ["tsv", "csv"])
def test_a_lone_carriage_return_stays(extension, read):
    tab = b"\t" if extension == "tsv" else b","
    assert read(b"url%stext\r\nu%sa\rb\r\r\nu%st\r" % (tab, tab, tab), extension) == [
        (b"u", b"a\rb\r"),
        (b"u", b"t\r"),
    ]


def test_the_original_bytes_of_a_rejected_row_are_kept(tmp_path, open_one, rows_of):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"url\ttext\n\xff\n" + b"x" * 600_000 + b"\n")
    assert [row[5] for row in rows_of(open_one(path))] == [b"\xff", b"x" * 1_024]


@pytest.mark.parametrize("extension", ["tsv", "csv"])
def test_a_row_over_the_limit_is_too_large(extension, read):
    tab = b"\t" if extension == "tsv" else b","
    longest = b"u" + tab + b"x" * (MAX_RECORD_BYTES - 2)
    data = b"url" + tab + b"text\n" + longest + b"\n" + longest + b"x\n" + longest
    assert [row if row == Reason.TOO_LARGE else len(row[1]) for row in read(data, extension)] == [
        MAX_RECORD_BYTES - 2,
        Reason.TOO_LARGE,
        MAX_RECORD_BYTES - 2,
    ]


def test_a_byte_order_mark_is_dropped_from_a_header_only(read):
    assert read(BOM + b"url\ttext\n" + BOM + b"u\tt\n", "tsv") == [(BOM + b"u", b"t")]
    assert read(BOM + b'"url",text\nu,t\n', "csv") == [(b"u", b"t")]
    assert read(BOM + b"u\tt\n", "tsv", headerless=("url", "text")) == [(BOM + b"u", b"t")]


def test_headerless_files_have_their_fields_named(read):
    assert read(b"t\tx\tu\n", "tsv", headerless=("caption", "other", "url")) == [(b"u", b"t")]
    assert read(b"t,x,u\n", "csv", headerless=("a", "b", "c"), url="c", text="a") == [(b"u", b"t")]
    assert read(b"", "tsv", headerless=("url", "text")) == []


def test_a_csv_header_may_be_quoted(read):
    assert read(b'"url","the ""text""\nhere",x\nu,t,x\n', "csv", text='the "text"\nhere') == [(b"u", b"t")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty file", "--columns"]),
        (b"a cat\thttp://x/\n", ["no url column", "columns found: a cat, http://x/", "--columns", "--url-column"]),
        (b"\n", ["columns found: (no name)"]),
        (b"x" * 600_000, ["too long for a header"]),
        (b"\xff\xfe\ttext\n", [r"\xff"]),
    ],
)
def test_a_file_without_a_usable_header_is_refused(data, words, read):
    with pytest.raises(InputError) as refusal:
        read(data, "tsv")
    for word in (r"pairs.tsv", *words):
        assert word in str(refusal.value)


def test_a_csv_header_with_a_field_beyond_reason_is_refused(read):
    with pytest.raises(InputError, match="no csv header"):
        read(b"x" * 200_000 + b",url,text\n", "csv")


_field = st.text('ab,"\t\n\r é\x00', max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(_field, _field), max_size=20), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
)
def test_what_a_csv_writer_writes_is_read_back(rows, quoting, tmp_path_factory, open_one, rows_of):
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator="\r\n").writerows([("url", "text"), *rows])
    path = tmp_path_factory.mktemp("csv") / "pairs.csv"
    path.write_bytes(text.getvalue().encode())
    found = [(url, caption) for _, url, caption, _, _, _ in rows_of(open_one(path))]
    assert found == [(url.encode(), caption.encode()) for url, caption in rows]
