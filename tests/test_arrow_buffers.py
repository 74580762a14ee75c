"""Kernels read Arrow's own memory: what they see must be what the column shows, for every layout it can have."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.arrow_buffers import string_buffers

TYPES = [pa.string(), pa.binary(), pa.large_string(), pa.large_binary()]


def values_of(column: pa.Array) -> list[bytes]:
    """The values as a kernel would read them."""
    offsets, data = string_buffers(column)
    assert data.dtype == np.uint8
    assert len(offsets) == len(column) + 1
    return [data[start:end].tobytes() for start, end in itertools.pairwise(offsets)]


@given(st.lists(st.text(max_size=5), max_size=12), st.sampled_from(TYPES), st.integers(0, 12), st.integers(0, 12))
def test_a_column_or_any_slice_of_it_is_read_as_what_it_shows(
    texts: list[str], type_: pa.DataType, start: int, length: int
) -> None:
    encoded = [text.encode() for text in texts]
    column = pa.array(encoded, type_)

    assert values_of(column) == encoded
    assert values_of(column.slice(start, length)) == encoded[start : start + length]


@pytest.mark.parametrize("type_", TYPES)
def test_offsets_have_the_width_of_the_type_and_nothing_is_copied(type_: pa.DataType) -> None:
    column = pa.array([b"dog", b"cat"], type_)

    offsets, data = string_buffers(column)

    assert offsets.dtype == (
        np.int64 if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_) else np.int32
    )
    assert data.ctypes.data == column.buffers()[2].address
    assert offsets.ctypes.data == column.buffers()[1].address


@pytest.mark.parametrize("type_", TYPES)
def test_an_empty_column_may_have_no_offsets(type_: pa.DataType) -> None:
    """Arrow allows that; other writers make use of it."""
    nothing = pa.py_buffer(b"")
    column = pa.Array.from_buffers(type_, 0, [None, nothing, nothing])

    assert values_of(column) == []
    assert string_buffers(column)[0].tolist() == [0]


def test_a_column_of_empty_values_has_no_bytes() -> None:
    offsets = pa.py_buffer(np.zeros(3, np.int32))

    assert values_of(pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"")])) == [b"", b""]


@pytest.mark.parametrize(
    "column", [pa.array([1]), pa.array(["a"]).dictionary_encode(), pa.array(["a"], pa.string_view())]
)
def test_another_type_is_refused(column: pa.Array) -> None:
    with pytest.raises(ValueError, match=f"a string or binary column is needed, not {column.type}"):
        string_buffers(column)


def test_nulls_are_refused() -> None:
    with pytest.raises(ValueError, match="2 nulls in a column that may have none"):
        string_buffers(pa.array(["a", None, None]))
    assert values_of(pa.array([None, "a"]).slice(1)) == [b"a"]
