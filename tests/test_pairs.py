"""What a valid pair is: everything else is refused with the first reason that fits, and nothing is ever changed."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from strategies import Row, cut, records_of, rows

from stream_curate import make_pairs
from stream_curate.pairs import (
    MAX_RECORD_BYTES,
    MAX_TEXT_BYTES,
    MAX_TEXT_TOKENS,
    MAX_URL_BYTES,
    PAIR_ID,
    Records,
    Rejection,
    pair_ids,
    pair_schema,
    validate,
)
from stream_curate.reasons import Reason
from stream_curate.spacing import BLANKS, MARKS, n_tokens

URL = b"http://x.org/1.jpg"
TEXT = b"a dog"


def reason_of(url: bytes | None = URL, text: bytes | None = TEXT) -> Reason | None:
    """Why this record is refused, or None; it stands between two good ones, which must go on."""
    pairs, rejections = validate(records_of([(URL, TEXT), (url, text), (URL, TEXT)]))
    assert pairs.column("source_row").to_pylist() == ([0, 2] if rejections else [0, 1, 2])
    assert len(rejections) <= 1
    return rejections[0].reason if rejections else None


def plain_reason(url: bytes | None, text: bytes | None) -> Reason | None:
    """The validator once more, from its description, in plain Python."""
    url, text = url or b"", text or b""
    if len(url) + len(text) > 524_288:
        return Reason.TOO_LARGE
    try:
        url.decode("utf-8", "strict")
        decoded = text.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return Reason.INVALID_UTF8
    if not url:
        return Reason.URL_MISSING
    if len(url) > 8_192 or any(byte < 0x20 or byte == 0x7F for byte in url):
        return Reason.URL_MALFORMED
    if not re.match(rb"https?:", url, re.IGNORECASE):
        return Reason.URL_SCHEME
    if len(text) > 65_536 or n_tokens(decoded) > 4_096:
        return Reason.TEXT_TOO_LONG
    return None


def url_of(n_bytes: int) -> bytes:
    return URL.ljust(n_bytes, b"u")


# --- urls


@pytest.mark.parametrize(
    "url",
    [
        b"http://x.org/1.jpg",
        b"https://x.org/1.jpg",
        b"HTTP://X.ORG/",
        b"hTtPs://x.org/",
        b"http:",
        b"https:",
        b"http://user:password@x.org/",
        b"http://127.0.0.1/1.jpg",
        b"http://192.168.0.1:8080/",
        b"http://x.org/with spaces/1 2.jpg ",
        "http://x.org/犬\u202e\u200b.jpg".encode(),
        b"http://x.org/#~{}\x80".replace(b"\x80", b"\xc2\x80"),  # U+0080 is no byte below 0x20
    ],
)
def test_real_urls_are_valid_and_kept_byte_for_byte(url: bytes) -> None:
    pairs, rejections = validate(records_of([(url, TEXT)]))

    assert rejections == []
    assert pairs.column("url").to_pylist() == [url.decode()]


@pytest.mark.parametrize("url", [None, b""])
def test_a_missing_url_is_refused(url: bytes | None) -> None:
    assert reason_of(url) is Reason.URL_MISSING


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
def test_a_control_byte_anywhere_in_a_url_is_refused(byte: int) -> None:
    control = bytes([byte])
    for url in (control + URL, URL[:9] + control + URL[9:], URL + control):
        assert reason_of(url) is Reason.URL_MALFORMED


def test_every_place_of_short_urls_and_texts_is_looked_at() -> None:
    """Whatever the number of bytes that are looked at together."""
    rows: list[Row] = []
    expected: list[Reason | None] = []
    for n in range(len(URL) - 4, len(URL) + 40):
        url = URL.ljust(n, b"/")[:n]
        rows += [(url, b"x" * (n - 10))]
        expected += [None]
        for place in range(5, n):
            for byte, reason in ((0x1F, "url_malformed"), (0x20, None), (0x7E, None), (0x7F, "url_malformed")):
                rows += [(url[:place] + bytes([byte]) + url[place + 1 :], b"")]
                expected += [Reason(reason) if reason else None]
            rows += [(url[:place] + b"\xff" + url[place + 1 :], b""), (URL, url[: place - 5] + b"\x80" + url[place:])]
            expected += [Reason.INVALID_UTF8] * 2

    pairs, rejections = validate(records_of(rows))

    assert len(pairs) == expected.count(None)
    found = {rejection.source_row: rejection.reason for rejection in rejections}
    assert [found.get(i) for i in range(len(rows))] == expected


def test_a_url_of_8192_bytes_is_the_longest() -> None:
    assert reason_of(url_of(8_192)) is None
    assert reason_of(url_of(8_193)) is Reason.URL_MALFORMED
    assert reason_of(url_of(8_190) + "é".encode()) is None
    assert reason_of(url_of(8_191) + "é".encode()) is Reason.URL_MALFORMED, "the limit is in bytes"


@pytest.mark.parametrize(
    "url",
    [
        *(b"javascript:alert(1)", b"data:image/png;base64,AAAA", b"file:///etc/passwd", b"UNLIKELY", b"ftp://x.org/"),
        *(b"//x.org/1.jpg", b"x.org/1.jpg", b"h", b"http", b"https", b"htt:", b"httpx://x.org/", b"httpss:", b" "),
        *(b" http://x.org/", b"HTT\x50", b"(TTP://x.org/", b"http\xc5\xbf://x.org/"),
    ],
)
def test_any_other_scheme_is_refused(url: bytes) -> None:
    assert reason_of(url) is Reason.URL_SCHEME


# --- texts


@pytest.mark.parametrize("text", [None, b""])
def test_a_missing_text_is_the_empty_text(text: bytes | None) -> None:
    pairs, rejections = validate(records_of([(URL, text)]))

    assert rejections == []
    assert pairs.column("text").to_pylist() == [""]
    assert pairs.column("pair_id").to_pylist() == [xxhash.xxh3_128_digest(URL + b"\x00")]


@pytest.mark.parametrize(
    "text",
    [
        *("nul \x00 inside", "\x00", "bell \x07, escape \x1b[31m", "bidi \u202e\u2066", "zero\u200b\u200d\u2060width"),
        *("\ufeffmarked", "line\u2028paragraph\u2029end", "tab\tnewline\ncr\r", "  two  spaces  ", "\x7f\x80\x9f"),
        *("e\u0301 and é", "ﬁ Å Ω", "DOG dog Dog", "\ufffd\ufffe\uffff", "🐕\U0010ffff", "\ud7ff\ue000"),
    ],
)
def test_texts_are_kept_byte_for_byte(text: str) -> None:
    """Nothing is normalised, stripped or replaced: digests and captions must not change."""
    pairs, rejections = validate(records_of([(URL, text.encode())]))

    assert rejections == []
    assert pairs.column("text").cast(pa.binary()).to_pylist() == [text.encode()]
    assert pairs.column("pair_id").to_pylist() == [xxhash.xxh3_128_digest(URL + b"\x00" + text.encode())]


def test_a_text_of_65536_bytes_is_the_longest() -> None:
    assert reason_of(text=b"x" * 65_536) is None
    assert reason_of(text=b"x" * 65_537) is Reason.TEXT_TOO_LONG
    assert reason_of(text=b"x" * 65_535 + "é".encode()) is Reason.TEXT_TOO_LONG, "the limit is in bytes"


@pytest.mark.parametrize(
    ("piece", "tokens"),
    [("dog ", 1), ("é\n", 1), (",", 1), ("a,", 2), ("a.\r\n b\t", 3), ("\u00a0\u2028 ", 1), ("\x00 ", 1)],
)
def test_4096_tokens_are_accepted_and_one_more_is_not(piece: str, tokens: int) -> None:
    most = piece * (4_096 // tokens) + "x " * (4_096 % tokens)
    assert n_tokens(most) == 4_096

    assert reason_of(text=most.encode()) is None
    assert reason_of(text=(most + " x").encode()) is Reason.TEXT_TOO_LONG


@given(st.text(st.sampled_from(MARKS + BLANKS + " ab\u00a0犬"), max_size=40), st.integers(4_085, 4_097))
def test_tokens_are_counted_as_spacing_cuts_them(tail: str, n_words: int) -> None:
    text = "w " * n_words + tail

    assert (reason_of(text=text.encode()) is Reason.TEXT_TOO_LONG) == (n_tokens(text) > 4_096)


# --- UTF-8, against Python's own strict decoder

LEADS_AND_EDGES = bytes.fromhex("41 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 ec ed ef f0 f3 f4 f5 ff")


@given(st.one_of(st.binary(max_size=12), st.lists(st.sampled_from(LEADS_AND_EDGES), max_size=8).map(bytes)))
def test_utf8_is_what_python_decodes(data: bytes) -> None:
    def is_utf8() -> bool:
        try:
            data.decode("utf-8", "strict")
        except UnicodeDecodeError:
            return False
        return True

    assert (reason_of(text=data) is None) == is_utf8()
    assert (reason_of(url=URL + data) is Reason.INVALID_UTF8) == (not is_utf8())


def test_utf8_at_every_edge_of_every_length() -> None:
    """Every sequence of one to three edge bytes, and of four that begin as one of four bytes does."""
    edges = LEADS_AND_EDGES
    sequences = [bytes(s) for n in (1, 2, 3) for s in itertools.product(edges, repeat=n)]
    few = bytes.fromhex("41 80 bf c0")
    sequences += [bytes(s) for s in itertools.product(bytes.fromhex("ef f0 f3 f4 f5"), edges, few, few)]

    _, rejections = validate(records_of([(URL, sequence) for sequence in sequences]))

    expected = [i for i, sequence in enumerate(sequences) if plain_reason(URL, sequence)]
    assert [rejection.source_row for rejection in rejections] == expected
    assert {rejection.reason for rejection in rejections} == {Reason.INVALID_UTF8}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xc0\xaf", id="overlong slash"),
        pytest.param(b"\xe0\x80\xaf", id="overlong in three"),
        pytest.param(b"\xf0\x80\x80\xaf", id="overlong in four"),
        pytest.param(b"\xc0\x80", id="NUL as Java writes it"),
        pytest.param(b"\xed\xa0\x80", id="first surrogate"),
        pytest.param(b"\xed\xbf\xbf", id="last surrogate"),
        pytest.param(b"\xed\xa0\xbd\xed\xb0\x95", id="a pair of surrogates (CESU-8)"),
        pytest.param(b"\xf4\x90\x80\x80", id="above U+10FFFF"),
        pytest.param(b"\xf8\x88\x80\x80\x80", id="five bytes"),
        pytest.param(b"\x80", id="continuation alone"),
        pytest.param(b"\xc3", id="cut in two"),
        pytest.param(b"\xe7\x8a", id="cut in three"),
        pytest.param(b"\xf0\x9f\x90", id="cut in four"),
        pytest.param(b"\xfe\xff\x00a", id="UTF-16"),
    ],
)
def test_invalid_utf8_is_refused_wherever_it_stands(data: bytes) -> None:
    for text in (data, b"a " + data, data + b" a", "犬".encode() + data + "犬".encode()):
        assert reason_of(text=text) is Reason.INVALID_UTF8
    assert reason_of(url=URL + data) is Reason.INVALID_UTF8


def test_a_character_that_was_cut_is_not_completed_by_the_next_record() -> None:
    """The bytes of a column lie side by side in memory."""
    whole = "犬".encode()
    pairs, rejections = validate(records_of([(URL, whole[:2]), (URL, whole[2:]), (URL, whole)]))

    assert [rejection.source_row for rejection in rejections] == [0, 1]
    assert pairs.column("text").to_pylist() == ["犬"]


# --- sizes and precedence


def test_a_record_of_512_kib_is_the_largest() -> None:
    """One over it is `too_large`; at it, whatever else is wrong is the reason."""
    assert reason_of(text=b"x" * (524_288 - len(URL))) is Reason.TEXT_TOO_LONG
    assert reason_of(text=b"x" * (524_289 - len(URL))) is Reason.TOO_LARGE
    assert reason_of(url=None, text=b"x" * 524_288) is Reason.URL_MISSING
    assert reason_of(url=b"u" * 524_289, text=None) is Reason.TOO_LARGE


def test_the_first_reason_that_fits_is_the_one_given() -> None:
    """Each record has also every fault that comes later in the order."""
    too_long = b"x" * 65_537
    assert reason_of(b"\xff\n", b"x" * 524_288) is Reason.TOO_LARGE
    assert reason_of(b"\xff\n", too_long) is Reason.INVALID_UTF8
    assert reason_of(None, too_long + b"\xff") is Reason.INVALID_UTF8
    assert reason_of(None, too_long) is Reason.URL_MISSING
    assert reason_of(b"ftp://\n", too_long) is Reason.URL_MALFORMED
    assert reason_of(b"f" * 8_193, too_long) is Reason.URL_MALFORMED
    assert reason_of(b"ftp://x.org", too_long) is Reason.URL_SCHEME
    assert reason_of(URL, too_long) is Reason.TEXT_TOO_LONG


@given(
    st.one_of(
        st.none(),
        st.binary(max_size=8),
        st.tuples(
            st.sampled_from([b"http:", b"HTTPS:", b"ftp:", b""]), st.binary(max_size=3), st.integers(8_180, 8_200)
        ).map(lambda parts: (parts[0] + parts[1]).ljust(parts[2], b" ")),
        st.binary(max_size=3).map(URL.__add__),
    ),
    st.one_of(
        st.none(),
        st.binary(max_size=8),
        st.integers(65_530, 65_540).map(lambda n: b"x" * n),
        st.integers(4_090, 4_100).map(lambda n: b"x " * n),
        st.integers(524_240, 524_300).map(lambda n: b"x" * n),
    ),
)
def test_the_validator_is_its_description(url: bytes | None, text: bytes | None) -> None:
    assert reason_of(url, text) is plain_reason(url, text)


def test_the_limits_are_the_published_ones() -> None:
    """A change of any of them changes every digest, and must change VALIDATOR_VERSION."""
    limits = (MAX_RECORD_BYTES, MAX_URL_BYTES, MAX_TEXT_BYTES, MAX_TEXT_TOKENS)
    assert limits == (524_288, 8_192, 65_536, 4_096)


# --- batches


@given(st.data(), rows())
def test_what_is_valid_does_not_depend_on_the_batch(data: st.DataObject, stream: list[Row]) -> None:
    whole, whole_rejections = validate(records_of(stream))
    pairs, rejections, first_row = [], [], 0
    for part in data.draw(cut(stream)):
        of_part = validate(records_of(part, first_row))
        pairs.append(of_part[0])
        rejections += of_part[1]
        first_row += len(part)

    assert pa.Table.from_batches(pairs, whole.schema).to_pylist() == whole.to_pylist()
    assert rejections == whole_rejections
    assert len(whole) + len(whole_rejections) == len(stream)
    assert [row["source_row"] for row in whole.to_pylist()] == [
        i for i, row in enumerate(stream) if not plain_reason(*row)
    ]


def test_slices_of_columns_are_read_as_what_they_show() -> None:
    urls = pa.array([b"\xff", b"ftp://", URL, None, URL + b"2"], pa.binary())
    texts = pa.array([b"\xff", b"", None, b"b", b"c"], pa.binary())

    pairs, rejections = validate(Records("s", 100, urls.slice(2), texts.slice(2)))

    assert pairs.column("text").to_pylist() == ["", "c"]
    assert pairs.column("source_row").to_pylist() == [100, 102]
    assert [(rejection.reason, rejection.source_row) for rejection in rejections] == [(Reason.URL_MISSING, 101)]


def test_pairs_have_the_columns_of_the_schema_and_carry_the_kept_ones() -> None:
    kept = {"uid": pa.array(["u0", "u1", None], pa.string()), "licence": pa.array([None, "l1", "l2"], pa.string())}
    columns = (pa.array(column, pa.binary()) for column in ([URL, b"", URL + b"2"], [TEXT, TEXT, TEXT]))

    pairs, rejections = validate(Records("memory:x", 7, *columns, kept=kept))

    assert pairs.schema == pair_schema(["uid", "licence"])
    pairs.validate(full=True)
    assert pairs.to_pylist() == [
        {
            "pair_id": xxhash.xxh3_128_digest(url + b"\x00" + TEXT),
            "url": url.decode(),
            "text": "a dog",
            "source": "memory:x",
            "source_row": row,
            "uid": uid,
            "licence": licence,
        }
        for url, row, uid, licence in ((URL, 7, "u0", None), (URL + b"2", 9, None, "l2"))
    ]
    assert [rejection.source_row for rejection in rejections] == [8]


@pytest.mark.parametrize("stream", [[], [(b"", b"")], [(b"ftp://x", b"x"), (b"\xff", b"")]])
def test_a_batch_without_a_valid_pair_is_still_a_batch_of_pairs(stream: list[Row]) -> None:
    pairs, rejections = validate(records_of(stream))

    assert pairs.schema == pair_schema()
    assert (len(pairs), len(rejections)) == (0, len(stream))


# --- rejections


def test_a_rejection_tells_where_it_was_and_shows_it_safely() -> None:
    url, text = b"ftp://x.org/\xc3\xa9", "\x1b[31m\u202e犬\r\n".encode()

    _, rejections = validate(records_of([(URL, TEXT), (url, text)], first_row=40))

    assert rejections == [
        Rejection(
            reason=Reason.URL_SCHEME,
            source="memory:",
            source_row=41,
            sha256=hashlib.sha256(url + b"\t" + text).hexdigest(),
            preview="ftp://x.org/é\\x09\\x1b[31m\\u202e犬\\x0d\\x0a",
        )
    ]


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_a_preview_is_printable_and_at_most_256_bytes(url: bytes, text: bytes) -> None:
    _, rejections = validate(records_of([(b"\xff" + url, text)]))

    assert rejections[0].preview.isprintable()
    assert len(rejections[0].preview.encode()) <= 256
    assert rejections[0].sha256 == hashlib.sha256(b"\xff" + url + b"\t" + text).hexdigest()


def test_what_a_source_has_refused_stays_refused_with_its_own_reason_and_bytes() -> None:
    columns = (pa.array(column, pa.binary()) for column in ([URL, None, None], [TEXT, None, None]))
    records = Records(
        "s", 5, *columns, rejected={1: Reason.BAD_JSON, 2: Reason.TOO_LARGE}, raw={1: b'{"url": ', 2: b"x" * 1_024}
    )

    pairs, rejections = validate(records)

    assert len(pairs) == 1
    assert rejections == [
        Rejection(Reason.BAD_JSON, "s", 6, hashlib.sha256(b'{"url": ').hexdigest(), '{"url": '),
        Rejection(Reason.TOO_LARGE, "s", 7, hashlib.sha256(b"x" * 1_024).hexdigest(), "x" * 256),
    ]


# --- identity


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=300)), max_size=20))
def test_a_pair_id_is_the_hash_of_url_nul_text(pairs: list[tuple[bytes, bytes]]) -> None:
    """Computed with xxhash itself; its 16 bytes are in canonical, big-endian order."""
    urls, texts = (pa.array([pair[i] for pair in pairs], pa.binary()) for i in (0, 1))

    found = pair_ids(urls, texts)

    assert found.type == PAIR_ID
    found.validate(full=True)
    whole = [xxhash.xxh3_128_intdigest(url + b"\x00" + text) for url, text in pairs]
    assert found.to_pylist() == [value.to_bytes(16, "big") for value in whole]


def test_url_and_text_cannot_be_shifted_into_each_other() -> None:
    """A url holds no NUL, so that the first one separates; a text may hold some."""
    pairs = make_pairs(["http://x.org/", "http://x.org/a", "http://x.org/"], ["a\x00b", "\x00b", "\x00a\x00b"])

    assert len(set(pairs.column("pair_id").to_pylist())) == 3
    assert reason_of(b"http://x.org/\x00a", b"b") is Reason.URL_MALFORMED


def test_real_pairs_are_all_valid_but_the_known_ones(golden_records: Callable[[str], list[Records]]) -> None:
    n_valid = 0
    reasons = []
    for name in ("gcc-validation.tsv", "laion-10k.parquet"):
        for records in golden_records(name):
            pairs, rejections = validate(records)
            n_valid += len(pairs)
            reasons += [rejection.reason for rejection in rejections]
            expected = [
                plain_reason(u, t) for u, t in zip(records.urls.to_pylist(), records.texts.to_pylist(), strict=True)
            ]
            assert [reason for reason in expected if reason] == [rejection.reason for rejection in rejections]
    assert (n_valid, reasons) == (25_832, [Reason.URL_SCHEME])


# --- make_pairs


def test_pairs_made_by_hand_are_validated() -> None:
    with pytest.raises(ValueError, match=r"row 11 is not a valid pair: url_scheme \(ftp://x\\x09a dog\)"):
        make_pairs(["http://x", "ftp://x"], ["a dog", "a dog"], first_row=10)
    with pytest.raises(ValueError, match="row 0 is not a valid pair: invalid_utf8"):
        make_pairs(["http://x"], ["\ud800"])
    assert make_pairs(["http://x"], [None], source="me", first_row=3).to_pylist() == [
        {
            "pair_id": xxhash.xxh3_128_digest(b"http://x\x00"),
            "url": "http://x",
            "text": "",
            "source": "me",
            "source_row": 3,
        }
    ]


def test_many_records_at_once() -> None:
    """As many as a batch can have, with a fault in every thousandth."""
    n = 200_000
    good = np.arange(n) % 1_000 != 999
    urls = pa.array([URL if ok else b"ftp:" for ok in good], pa.binary())
    texts = pa.array([b"%d" % i for i in range(n)], pa.binary())

    pairs, rejections = validate(Records("s", 0, urls, texts))

    assert pairs.column("source_row").to_pylist() == np.flatnonzero(good).tolist()
    assert [rejection.source_row for rejection in rejections] == np.flatnonzero(~good).tolist()
