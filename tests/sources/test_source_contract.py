"""What every source must do, in every format: rows, positions and reasons depend on nothing but the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_curate.errors import InputError
from stream_curate.pairs import validate

SHARDS = Path(__file__).parent.parent / "shards"

_odd_text = st.text("ab ,\"'\t\n\r\x00\u2028\ufeff\u202eé\N{DOG FACE}\\{}", max_size=12)
_row = st.tuples(_odd_text, _odd_text, _odd_text)


def _as_parquet(rows: list[tuple[str, str, str]], path: Path) -> None:
    columns = dict(zip(("url", "text", "uid"), map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    schema = pa.schema([("url", pa.string()), ("text", pa.string()), ("uid", pa.string())])
    pq.write_table(pa.table({name: columns.get(name, []) for name in schema.names}, schema), path, row_group_size=3)


def _as_tsv(rows: list[tuple[str, str, str]], path: Path) -> None:
    # tabs and line feeds inside make bad rows, as they do in real files
    path.write_bytes(b"url\ttext\tuid\n" + b"".join("\t".join(row).encode() + b"\n" for row in rows))


def _as_csv(rows: list[tuple[str, str, str]], path: Path) -> None:
    # quoted only where it starts with an a: the others make bad rows and unclosed quotes
    lines = (
        ",".join('"' + field.replace('"', '""') + '"' if field.startswith("a") else field for field in row)
        for row in rows
    )
    path.write_bytes(b"url,text,uid\n" + b"".join(line.encode() + b"\r\n" for line in lines))


def _as_jsonl(rows: list[tuple[str, str, str]], path: Path) -> None:
    lines = [json.dumps({"url": "", "text": ""}).encode()]
    for url, text, uid in rows:
        plain = json.dumps({"url": url, "caption": text, "uid": uid}, ensure_ascii=False)
        lines.append((text if text.startswith("b") else plain).encode())  # some lines are no JSON, or several
    path.write_bytes(b"\n".join(lines))


WRITERS = {"parquet": _as_parquet, "tsv": _as_tsv, "csv": _as_csv, "jsonl": _as_jsonl}


@pytest.fixture(params=WRITERS, scope="session")
def format(request):
    return request.param


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_position_batch_size_and_block_size_give_the_same_rows(data, format, tmp_path_factory, open_one, rows_of):
    rows = data.draw(st.lists(_row, max_size=25))
    path = tmp_path_factory.mktemp("contract") / f"pairs.{format}"
    WRITERS[format](rows, path)
    source = open_one(path)
    whole = rows_of(source)
    assert [row[0] for row in whole] == list(range(len(whole)))
    first_row = data.draw(st.integers(0, len(whole) + 2))
    batch_size = data.draw(st.integers(1, 30))
    block_bytes = data.draw(st.integers(1, 80))
    resized = dataclasses.replace(source, block_bytes=block_bytes)
    assert rows_of(resized, first_row, batch_size) == whole[first_row:]


@pytest.mark.parametrize("batch_size", [1, 7, 65_536])
def test_every_position_of_a_small_file_can_be_read_from(format, batch_size, tmp_path, open_one, rows_of):
    path = tmp_path / f"pairs.{format}"
    WRITERS[format]([(f"http://example.org/{i}", f"a dog {i}", str(i)) for i in range(20)], path)
    source = open_one(path)
    whole = rows_of(source)
    for first_row in range(len(whole) + 1):
        assert rows_of(source, first_row, batch_size) == whole[first_row:]


@pytest.mark.parametrize(
    ("name", "choice", "n_rows"),
    [
        ("laion-10k.parquet", {}, 10_000),
        ("gcc-validation.tsv", {"headerless": ("caption", "url")}, 10_000),
        ("gcc-validation.jsonl", {}, 5_833),
    ],
)
def test_the_shards_are_read_whole(name, choice, n_rows, open_one, rows_of):
    source = open_one(SHARDS / name, **choice)
    rows = rows_of(source)
    assert len(rows) == n_rows
    assert all(reason is None and url and text is not None for _, url, text, _, reason, _ in rows)
    assert rows_of(source, n_rows - 10, 3) == rows[-10:]
    n_valid = sum(len(validate(records)[0]) for records in source.read(0, 1_000))
    assert n_valid > 0.99 * n_rows


def test_what_a_source_says_of_itself(format, tmp_path, open_one):
    path = tmp_path / f"with space.{format}"
    WRITERS[format]([("http://example.org/1", "a dog", "7")], path)
    source = open_one(path)
    assert source.uri == path.as_uri()
    assert source.name == source.uri
    assert source.size == path.stat().st_size
    assert source.format == format


def test_uid_comes_first_and_kept_columns_in_the_order_given(tmp_path, open_one, rows_of):
    path = tmp_path / "pairs.tsv"
    path.write_text("B\turl\tUID\ttext\ta\n1\thttp://x/\t007\tdog\tNA\n")
    ((_, url, text, kept, _, _),) = rows_of(open_one(path, keep=("a", "b")))
    assert (url, text) == (b"http://x/", b"dog")
    assert list(kept.items()) == [("uid", "007"), ("a", "NA"), ("b", "1")]


def test_without_a_uid_there_are_nulls(format, tmp_path, open_one, rows_of):
    path = tmp_path / f"pairs.{format}"
    if format == "parquet":
        pq.write_table(pa.table({"url": ["http://x/"], "text": ["dog"]}), path)
    else:
        body = {"tsv": "url\ttext\nhttp://x/\tdog\n", "csv": "url,text\nhttp://x/,dog\n"}
        path.write_text(body.get(format, '{"url": "http://x/", "text": "dog"}\n'))
    ((_, url, text, kept, _, _),) = rows_of(open_one(path))
    assert (url, text, kept) == (b"http://x/", b"dog", {"uid": None})


def test_kept_bytes_that_are_not_utf8_are_replaced_and_decide_nothing(tmp_path, open_one, rows_of):
    tsv = tmp_path / "pairs.tsv"
    tsv.write_bytes(b"url\ttext\tuid\nhttp://x/\tdog\t\xff1\n")
    parquet = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"url": ["http://x/"], "text": ["dog"], "uid": pa.array([b"\xff1"])}), parquet)
    for path in (tsv, parquet):
        ((_, _, _, kept, reason, _),) = rows_of(open_one(path))
        assert (kept, reason) == ({"uid": "\ufffd1"}, None)


def test_invalid_utf8_in_url_or_text_is_rejected_and_the_rest_goes_on(tmp_path, open_one):
    tsv = tmp_path / "pairs.tsv"
    tsv.write_bytes(b"url\ttext\nhttp://x/1\t\xff\nhttp://x/\xff\tdog\nhttp://x/3\tdog\n")
    parquet = tmp_path / "pairs.parquet"
    urls, texts = [b"http://x/1", b"http://x/\xff", b"http://x/3"], [b"\xff", b"dog", b"dog"]
    bad = [pa.array(column).view(pa.string()) for column in (urls, texts)]
    pq.write_table(pa.table(bad, names=["url", "text"]), parquet)
    jsonl = tmp_path / "pairs.jsonl"
    jsonl.write_bytes(
        b"".join(b'{"url": "%s", "text": "%s"}\n' % pair for pair in zip(urls, texts, strict=True)),
    )
    for path in (tsv, parquet, jsonl):
        (records,) = open_one(path).read(0, 10)
        pairs, rejections = validate(records)
        assert pairs.column("url").to_pylist() == ["http://x/3"]
        assert [(r.reason, r.source_row) for r in rejections] == [("invalid_utf8", 0), ("invalid_utf8", 1)]


def test_control_and_bidi_characters_stay_byte_for_byte(format, tmp_path, open_one, rows_of):
    text = "a\x00\u202e\u200b\ufeff\u2028\x85\x0b\x0c b\u0301"
    path = tmp_path / f"pairs.{format}"
    WRITERS[format]([("http://x/", text, "1")], path)
    assert rows_of(open_one(path))[-1][2] == text.encode()


@pytest.mark.parametrize(("first_row", "batch_size"), [(-1, 1), (0, 0)])
def test_a_senseless_request_is_a_value_error(first_row, batch_size, format, tmp_path, open_one):
    path = tmp_path / f"pairs.{format}"
    WRITERS[format]([], path)
    with pytest.raises(ValueError, match="cannot read"):
        list(open_one(path).read(first_row, batch_size))


def test_a_file_that_went_away_is_an_error_in_words(format, tmp_path, open_one):
    path = tmp_path / f"pairs.{format}"
    WRITERS[format]([], path)
    source = open_one(path)
    path.unlink()
    with pytest.raises(InputError, match=r"pairs\..*cannot be opened"):
        list(source.read(0, 10))
