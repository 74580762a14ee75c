"""One value for a set of pairs: users compare tables by it, and can compute it themselves."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cut

from stream_curate import digest as digest_module
from stream_curate import offline
from stream_curate.digest import digest
from stream_curate.pairs import PAIR_ID

# zeros and ones at either end, where sorting or padding could go wrong; and many that are equal
ID = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 3).map(lambda n: bytes([n]) + bytes(15)),
    st.integers(0, 3).map(lambda n: bytes(15) + bytes([n])),
    st.sampled_from([bytes(16), b"\xff" * 16, b"\x7f" * 16, b"\x80" + bytes(15)]),
)


def plain_digest(pair_ids: list[bytes]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in sorted({i.hex() for i in pair_ids})).encode()).hexdigest()


@given(st.data(), st.lists(ID, max_size=30), st.sampled_from([PAIR_ID, pa.binary()]))
def test_it_is_the_hash_of_the_sorted_distinct_ids_in_hex(
    data: st.DataObject, pair_ids: list[bytes], type_: pa.DataType
) -> None:
    """In whatever order and pieces they come."""
    pieces = [pa.array(piece, type_) for piece in data.draw(st.permutations(pair_ids).flatmap(cut))]

    assert digest(pieces) == plain_digest(pair_ids) == offline.digest(pair_ids)


@given(st.lists(ID, max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_slices_count_as_what_they_show(pair_ids: list[bytes], start: int, length: int) -> None:
    column = pa.array(pair_ids, PAIR_ID).slice(start, length)

    assert digest([column]) == plain_digest(pair_ids[start : start + length])


@pytest.mark.parametrize("chunk", [1, 3, 7, 10, 11])
def test_large_sets_are_hashed_in_chunks_without_a_seam(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_module, "_CHUNK_PAIRS", chunk)
    pair_ids = [hashlib.md5(bytes([i]), usedforsecurity=False).digest() for i in range(10)]

    assert digest([pa.array(pair_ids * 2, PAIR_ID)]) == plain_digest(pair_ids)


def test_different_sets_differ(rng: np.random.Generator) -> None:
    pair_ids = [rng.bytes(16) for _ in range(50)]
    whole = digest([pa.array(pair_ids, PAIR_ID)])

    for i in range(50):
        flipped = bytes([pair_ids[i][0] ^ 1]) + pair_ids[i][1:]
        assert digest([pa.array(pair_ids[:i] + pair_ids[i + 1 :], PAIR_ID)]) != whole
        assert digest([pa.array([*pair_ids[:i], flipped, *pair_ids[i + 1 :]], PAIR_ID)]) != whole


def test_of_nothing() -> None:
    assert digest([]) == digest([pa.array([], PAIR_ID)]) == hashlib.sha256(b"").hexdigest()


def test_ids_of_another_width_are_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        digest([pa.array([b"short"], pa.binary())])
