"""The hash is that of the xxhash library, for every length and whatever the bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.xxh3 import xxh3_128_of_both


def assert_as_the_library(heads: list[bytes], tails: list[bytes], *types: pa.DataType) -> None:
    head_type, tail_type = types or (pa.binary(), pa.binary())
    found = xxh3_128_of_both(pa.array(heads, head_type), pa.array(tails, tail_type))

    assert (found.dtype, found.shape) == (np.uint8, (len(heads), 16))
    assert [digest.tobytes() for digest in found] == [
        xxhash.xxh3_128_digest(head + b"\x00" + tail) for head, tail in zip(heads, tails, strict=True)
    ]


def test_every_length_up_to_2100_bytes(rng: np.random.Generator) -> None:
    lengths = range(2_100)
    cuts = [int(rng.integers(0, n + 1)) for n in lengths]
    assert_as_the_library(
        [rng.bytes(cut) for cut in cuts], [rng.bytes(n - cut) for n, cut in zip(lengths, cuts, strict=True)]
    )


@pytest.mark.parametrize("byte", [b"\x00", b"\x7f", b"\x80", b"\xff"])
def test_bytes_that_are_all_the_same(byte: bytes) -> None:
    """Products and sums that overflow."""
    assert_as_the_library([byte * (n // 2) for n in range(1_100)], [byte * (n - n // 2) for n in range(1_100)])


@pytest.mark.parametrize("n_bytes", [4_096, 65_537, 8_192 + 1 + 65_536, 524_289, 3_000_001])
def test_long_ones(n_bytes: int, rng: np.random.Generator) -> None:
    assert_as_the_library([rng.bytes(n_bytes), b""], [b"", rng.bytes(n_bytes)])


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=20),
    st.sampled_from([pa.binary(), pa.large_binary()]),
    st.sampled_from([pa.binary(), pa.large_binary()]),
)
def test_any_bytes(pairs: list[tuple[bytes, bytes]], head_type: pa.DataType, tail_type: pa.DataType) -> None:
    assert_as_the_library([head for head, _ in pairs], [tail for _, tail in pairs], head_type, tail_type)


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=80)), min_size=1, max_size=20))
def test_any_text(pairs: list[tuple[str, str]]) -> None:
    heads, tails = zip(*pairs, strict=True)
    found = xxh3_128_of_both(pa.array(heads, pa.string()), pa.array(tails, pa.string()))

    assert [digest.tobytes() for digest in found] == [
        xxhash.xxh3_128_digest(f"{head}\x00{tail}".encode()) for head, tail in pairs
    ]


def test_a_slice_is_hashed_as_what_it_shows(rng: np.random.Generator) -> None:
    heads = pa.array([rng.bytes(n) for n in range(300)], pa.binary())
    tails = pa.array([rng.bytes(n) for n in range(299, -1, -1)], pa.binary())

    found = xxh3_128_of_both(heads.slice(7, 250), tails.slice(7, 250))

    assert found.tolist() == xxh3_128_of_both(heads, tails)[7:257].tolist()


def test_nothing_has_no_hashes() -> None:
    assert_as_the_library([], [])


def test_a_published_value() -> None:
    """Of the xxHash repository's own vectors, so that a change of the library too would be seen."""
    assert xxhash.xxh3_128_digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
