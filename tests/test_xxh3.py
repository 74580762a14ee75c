"""The hash is that of the xxhash library, for every length and whatever the bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.xxh3 import xxh3_128


def assert_as_the_library(values: list[bytes], type_: pa.DataType | None = None) -> None:
    found = xxh3_128(pa.array(values, type_ or pa.binary()))

    assert (found.dtype, found.shape) == (np.uint8, (len(values), 16))
    assert [digest.tobytes() for digest in found] == [xxhash.xxh3_128_digest(value) for value in values]


def test_every_length_up_to_2100_bytes(rng: np.random.Generator) -> None:
    assert_as_the_library([rng.bytes(n) for n in range(2_101)])


@pytest.mark.parametrize("byte", [b"\x00", b"\x7f", b"\x80", b"\xff"])
def test_bytes_that_are_all_the_same(byte: bytes) -> None:
    """Products and sums that overflow."""
    assert_as_the_library([byte * n for n in range(1_100)])


@pytest.mark.parametrize("n_bytes", [4_096, 65_537, 8_192 + 1 + 65_536, 524_289, 3_000_001])
def test_long_ones(n_bytes: int, rng: np.random.Generator) -> None:
    assert_as_the_library([rng.bytes(n_bytes)])


@given(st.lists(st.binary(max_size=600), max_size=20), st.sampled_from([pa.binary(), pa.large_binary()]))
def test_any_bytes(values: list[bytes], type_: pa.DataType) -> None:
    assert_as_the_library(values, type_)


@given(st.lists(st.text(max_size=80), min_size=1, max_size=20))
def test_any_text(values: list[str]) -> None:
    found = xxh3_128(pa.array(values, pa.string()))

    assert [digest.tobytes() for digest in found] == [xxhash.xxh3_128_digest(value.encode()) for value in values]


def test_a_slice_is_hashed_as_what_it_shows(rng: np.random.Generator) -> None:
    values = pa.array([rng.bytes(n) for n in range(300)], pa.binary())

    assert xxh3_128(values.slice(7, 250)).tolist() == xxh3_128(values)[7:257].tolist()


def test_the_published_values() -> None:
    """Of the xxHash repository's own test data, so that a change of the library too would be seen."""
    assert xxh3_128(pa.array([b""], pa.binary())).tobytes().hex() == "99aa06d3014798d86001c324468d497f"
