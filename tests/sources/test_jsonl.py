"""jsonl: the reason of every odd line, and a fast path that misses none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_curate.errors import InputError
from stream_curate.pairs import MAX_RECORD_BYTES
from stream_curate.reasons import Reason
from stream_curate.sources.columns import ColumnChoice
from stream_curate.sources.json_pairs import JsonPairs

FIRST = b'{"url": "u", "text": "t"}\n'


@pytest.fixture
def read(tmp_path, open_one, rows_of):
    """The rows of a file with these bytes: (url, text), or the reason."""

    def read(data: bytes, **choice):
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(data)
        return [reason or (url, text) for _, url, text, _, reason, _ in rows_of(open_one(path, **choice))]

    return read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", Reason.BAD_JSON),
        (b"  ", Reason.BAD_JSON),
        (b"{", Reason.BAD_JSON),
        (b'{"url": "u"} {}', Reason.BAD_JSON),
        (b"{'url': 'u'}", Reason.BAD_JSON),
        (b'{"url": "u",}', Reason.BAD_JSON),
        (b'{"url": "a\x01"}', Reason.BAD_JSON),
        (b'{"url": 01}', Reason.BAD_JSON),
        (b"\xff", Reason.BAD_JSON),
        (b'\xef\xbb\xbf{"url": "u"}', Reason.BAD_JSON),
        (b"http://x/\ta dog", Reason.BAD_JSON),
        (b"[]", Reason.JSON_NOT_OBJECT),
        (b'"url"', Reason.JSON_NOT_OBJECT),
        (b"null", Reason.JSON_NOT_OBJECT),
        (b"5", Reason.JSON_NOT_OBJECT),
        (b"NaN", Reason.JSON_NOT_OBJECT),
        (b'{"url": "u", "w": NaN}', Reason.JSON_NAN),
        (b'{"url": "u", "w": [Infinity]}', Reason.JSON_NAN),
        (b'{"url": "u", "w": -Infinity, "w": 1}', Reason.JSON_NAN),
        (b'{"url": "u", "url": "v"}', Reason.JSON_DUPLICATE_KEY),
        (b'{"url": "u", "w": 1, "w": 1}', Reason.JSON_DUPLICATE_KEY),
        (b'{"url": "u", "\\u0077": 1, "w": 1}', Reason.JSON_DUPLICATE_KEY),
        (b'{"url": "u", "w": {"a": 1, "a": 2}}', Reason.JSON_DUPLICATE_KEY),
        (b'{"url": "u", "w": [[{"a": 1, "a": 2}]]}', Reason.JSON_DUPLICATE_KEY),
        (b'{"url": "\\"\\"", "text": "\\\\", "text": "t"}', Reason.JSON_DUPLICATE_KEY),
        (b'{"url": "\\ud800"}', Reason.JSON_SURROGATE),
        (b'{"url": "\\uDC00\\ud800"}', Reason.JSON_SURROGATE),
        (b'{"url": "u", "w": ["\\ud83d \\udc36"]}', Reason.JSON_SURROGATE),
        (b'{"url": "u", "\\udfff": 1}', Reason.JSON_SURROGATE),
        (b'{"url": "u", "w": %s}' % (b"9" * 5_000), Reason.JSON_NUMBER),
        (b'{"url": "u", "w": -%s}' % (b"9" * 4_301), Reason.JSON_NUMBER),
        (b'{"url": "u", "w": [1e999]}', Reason.JSON_NUMBER),
        (b'{"url": "u", "w": -1e999}', Reason.JSON_NUMBER),
        (b'{"w": ' + b"[" * 256 + b"]" * 256 + b"}", Reason.JSON_DEPTH),
        (b"[" * 200_000 + b"]" * 200_000, Reason.JSON_DEPTH),
        (b'{"a":' * 70_000 + b"1" + b"}" * 70_000, Reason.JSON_DEPTH),
        (b"[" * 200_000, Reason.JSON_DEPTH),
        (b'{"url": "\xff"}', Reason.INVALID_UTF8),
        (b'{"url": "\xed\xa0\x80"}', Reason.INVALID_UTF8),
        (b'{"url": "u", "w": "\xc3"}', Reason.INVALID_UTF8),
        (b'{"url": 5, "text": "t"}', Reason.BAD_SCHEMA),
        (b'{"url": "u", "text": ["t"]}', Reason.BAD_SCHEMA),
        (b'{"url": "u", "text": true}', Reason.BAD_SCHEMA),
        (b'{"url": {}, "text": "t"}', Reason.BAD_SCHEMA),
        (b'{"url": "u", "text": "t", "caption": "t"}', Reason.BAD_SCHEMA),
        (b'{"url": "u", "URL": null}', Reason.BAD_SCHEMA),
        (b'{"url": NaN}', Reason.BAD_SCHEMA),
        (b'{"url": "%s"}' % (b"x" * MAX_RECORD_BYTES), Reason.TOO_LARGE),
    ],
)
def test_the_reason_of_an_odd_line(line, reason, read):
    assert read(FIRST + line + b"\n" + FIRST) == [(b"u", b"t"), reason, (b"u", b"t")]


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        (b'{"url": "u"}', (b"u", None)),
        (b'{"url": "u", "text": null}', (b"u", None)),
        (b"{}", (None, None)),
        (b'{"text": "t"}', (None, b"t")),
        (b' { "caption" : "t" ,\t"IMAGE_URL" : "u" } \r', (b"u", b"t")),
        (b'{"url": "u", "text": "\\ud83d\\udc36\\u0000"}', (b"u", "\N{DOG FACE}\0".encode())),
        (b'{"url": "u", "text": "\\\\ud800 \\"x\\""}', (b"u", b'\\ud800 "x"')),
        (b'{"url": "u", "text": "NaN", "w": 1.5, "h": -0, "ok": true, "n": null}', (b"u", b"NaN")),
        (b'{"url": "u", "text": "' + b"[" * 1_000 + b'"}', (b"u", b"[" * 1_000)),
        (b'{"url": "u", "w": ' + b"[" * 255 + b"]" * 255 + b"}", (b"u", None)),
        (b'{"url": "u", "w": ' + b"[],".join([b"["] + [b""] * 300) + b"1]}", (b"u", None)),
        (b'{"url": "u", "w": %s}' % (b"9" * 4_300), (b"u", None)),
        (b'{"url": "u", "w": 1e-999}', (b"u", None)),
        (b'{"url": "u", "w": {"url": 1, "text": "x"}}', (b"u", None)),
    ],
)
def test_lines_that_are_records_all_the_same(line, pair, read):
    assert read(FIRST + line + b"\n") == [(b"u", b"t"), pair]


def test_the_limit_is_inclusive(read):
    padding = MAX_RECORD_BYTES - len(b'{"url": ""}')
    assert read(FIRST + b'{"url": "%s"}\r\n' % (b"x" * padding))[1] == (b"x" * padding, None)


def test_the_last_line_needs_no_line_feed_and_a_blank_one_is_a_record(read):
    assert read(FIRST + b"\n" + FIRST.rstrip()) == [(b"u", b"t"), Reason.BAD_JSON, (b"u", b"t")]
    assert read(b"") == []


def test_a_byte_order_mark_before_the_first_line_is_no_part_of_it(read):
    assert read(b"\xef\xbb\xbf" + FIRST) == [(b"u", b"t")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"link": "u", "text": "t"}', ["no url column; columns found: link, text", "--url-column"]),
        (b'{"url": "u"}', ["no text column; columns found: url", "--text-column"]),
        (b'{"url": "u", "text": "t", "alt": "t"}', ["more than one text column: text, alt"]),
        (b"{}", ["columns found: none"]),
    ],
)
def test_the_first_object_decides_about_the_file(data, words, tmp_path, open_one, rows_of):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"junk\n[]\n" + data + b"\n" + FIRST)
    for batch_size in (1, 2, 100):
        batches = open_one(path).read(0, batch_size)
        n_before = 0
        refusal = ""
        try:
            for records in batches:
                n_before += len(records)
        except InputError as error:
            refusal = str(error)
        assert n_before == 2
        for word in ("pairs.jsonl", *words):
            assert word in refusal
    with pytest.raises(InputError):
        rows_of(open_one(path), 3)


def test_names_given_hold_for_every_record(read):
    data = b'{"src": "u", "text": "t", "alt": "a"}\n{"SRC": "v", "Alt": "b"}\n{"url": "x", "alt": "c"}\n'
    assert read(data, url="src", text="alt") == [(b"u", b"a"), (b"v", b"b"), (None, b"c")]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b'"007"', "007"),
        (b"7", "7"),
        (b"-0", "-0"),
        (b"0", "0"),
        (b"1.50", "1.50"),
        (b"1E5", "1E5"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"true", "true"),
        (b"null", None),
        (b'"\\u00e9\\""', 'é"'),
        (b'[1, {"a": "\\u00e9"}]', '[1,{"a":"é"}]'),
    ],
)
def test_kept_values_are_text(written, kept, tmp_path, open_one, rows_of):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"url": "u", "text": "t", "Uid": %s, "w": %s}\n{"url": "u"}\n' % (written, written))
    rows = rows_of(open_one(path, keep=("w",)))
    assert [row[3] for row in rows] == [{"uid": kept, "w": kept}, {"uid": None, "w": None}]


_scalar = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
)
_value = st.recursive(
    _scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)
_key = st.sampled_from(["url", "text", "caption", "w", "", '"', "\\", "é"])


@settings(max_examples=300, deadline=None)
@given(members=st.lists(st.tuples(_key, _value), max_size=5), ascii=st.booleans())
def test_fast_and_second_look_agree_and_no_key_stands_twice(members, ascii):
    line = "{" + ", ".join(
        f"{json.dumps(k, ensure_ascii=ascii)}: {json.dumps(v, ensure_ascii=ascii)}" for k, v in members
    )
    encoded = (line + "}").encode()
    pairs = JsonPairs(ColumnChoice())
    assert pairs.pair(encoded) == pairs._second_look(encoded)
    keys = [key for key, _ in members]
    if len(set(keys)) < len(keys):
        assert pairs.pair(encoded)[3] in (Reason.JSON_DUPLICATE_KEY, Reason.BAD_SCHEMA)


def test_the_memory_of_keys_is_bounded():
    pairs = JsonPairs(ColumnChoice())
    for i in range(3_000):
        assert pairs.pair(b'{"url": "u", "k%d": 1}' % i)[0] == "u"
    assert pairs.pair(b'{"url": "u", "%s": 1}' % (b"x" * 100_000))[0] == "u"
    assert len(pairs._known_keys) <= 1_024
    assert max(len("".join(keys)) for keys in pairs._known_keys) < 10_000
