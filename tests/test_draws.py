"""Draws decide what is kept and are part of every digest: they never change, and without the seed nobody knows them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS

from stream_curate import offline
from stream_curate.draws import MAX_SEED, bases, check_seed, draws, parse_seed, seed_fingerprint
from stream_curate.errors import ConfigError
from stream_curate.metadata import Metadata
from stream_curate.pairs import PAIR_ID, make_pairs

GOLDEN_DRAWS = json.loads((Path(__file__).parent / "golden" / "golden-draws.json").read_text(encoding="utf-8"))
IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


def column(pair_ids: Sequence[bytes]) -> pa.FixedSizeBinaryArray:
    return pa.array(pair_ids, PAIR_ID)


@pytest.mark.parametrize("golden", GOLDEN_DRAWS, ids=lambda golden: f"{golden['pair_id'][:8]}-seed{golden['seed'][:3]}")
def test_the_golden_draws(golden: dict[str, Any]) -> None:
    """From url and text to the last bit of each draw."""
    pair_id = make_pairs([golden["url"]], [golden["text"]]).column("pair_id")
    keys = Metadata.from_entries(golden["draws"]).keys

    base = bases(pair_id, int(golden["seed"]))

    assert pair_id[0].as_py().hex() == golden["pair_id"]
    assert base.tolist() == [int(golden["base"])]
    assert draws(np.repeat(base, len(keys)), keys).tolist() == list(golden["draws"].values())


def test_the_reference_vector_of_siphash() -> None:
    """Key 00..0f, message 00..0f: row 16 of `vectors_sip64` in the authors' reference implementation."""
    key = int.from_bytes(bytes(range(16)), "little")

    assert bases(column([bytes(range(16))]), key).tolist() == [0x3F2ACC7F57C29BDB]
    assert offline.siphash_2_4(bytes(range(16)), bytes(range(16))) == 0x3F2ACC7F57C29BDB
    assert offline.siphash_2_4(bytes(range(16)), b"") == 0x726FDB47DD0E0E31, "and row 0, which only the reference takes"


@given(IDS, SEEDS)
def test_the_kernel_hashes_as_plain_python_does(pair_ids: list[bytes], seed: int) -> None:
    found = bases(column(pair_ids), seed)

    assert found.dtype == np.uint64
    assert found.tolist() == [offline.siphash_2_4(seed.to_bytes(16, "little"), pair_id) for pair_id in pair_ids]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))))
def test_the_kernel_draws_as_plain_python_does(pairs: list[tuple[int, str]]) -> None:
    base = np.array([base for base, _ in pairs], np.uint64)
    keys = np.array([xxhash.xxh3_64_intdigest(entry.encode()) for _, entry in pairs], np.uint64)

    found = draws(base, keys)

    assert found.dtype == np.float64
    assert found.tolist() == [offline.draw(base, entry) for base, entry in pairs]
    assert ((found >= 0) & (found < 1)).all()


def test_draws_at_the_ends_of_the_range_of_hashes() -> None:
    """Sums wrap at 2^64; the largest draw is still below 1."""
    ends = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    wrapped = draws(ends, ends[::-1].copy())
    sums = [(int(a) + int(b)) % 2**64 for a, b in zip(ends, ends[::-1], strict=True)]

    assert wrapped.tolist() == draws(np.array(sums, np.uint64), np.zeros(4, np.uint64)).tolist()
    golden_ratio = 0x9E3779B97F4A7C15
    assert draws(np.array([2**64 - golden_ratio], np.uint64), np.zeros(1, np.uint64)).tolist() == [0.0]


@given(IDS, st.integers(0, 20), st.integers(0, 20))
def test_a_slice_of_a_column_is_hashed_as_what_it_shows(pair_ids: list[bytes], start: int, length: int) -> None:
    whole = bases(column(pair_ids), 7)

    assert bases(column(pair_ids).slice(start, length), 7).tolist() == whole[start : start + length].tolist()


def test_every_bit_of_the_seed_and_of_the_pair_id_counts() -> None:
    """At both ends of the range too: seeds 0 and 2^128 - 1 are seeds like others."""
    flipped_seeds = [0, MAX_SEED, *(1 << bit for bit in range(128))]
    flipped_ids = [bytes(16), *((1 << bit).to_bytes(16, "big") for bit in range(128))]

    assert len({int(bases(column([bytes(16)]), seed)[0]) for seed in flipped_seeds}) == len(flipped_seeds)
    assert len(set(bases(column(flipped_ids), MAX_SEED).tolist())) == len(flipped_ids)


def test_draws_are_uniform_and_those_of_two_entries_or_seeds_unrelated() -> None:
    """Fixed input, so that it passes for ever or never: 200,000 draws in 100 bins, bounds at 6 sigma and more."""
    n = 200_000
    pair_ids = pa.FixedSizeBinaryArray.from_buffers(
        PAIR_ID, n, [None, pa.py_buffer(np.arange(2 * n, dtype=np.uint64).tobytes())]
    )
    keys = Metadata.from_entries(["dog", "a dog"]).keys
    samples = [draws(bases(pair_ids, seed), np.repeat(key, n)) for seed in (0, 1) for key in keys]

    for sample in samples:
        bins = np.histogram(sample, 100, (0, 1))[0]
        chi_square = float(((bins - n / 100) ** 2 / (n / 100)).sum())
        assert 99 - 6 * 14.1 < chi_square < 99 + 6 * 14.1
    correlations = np.corrcoef(samples)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(n)


# --- seeds


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("0", 0),
        ("7", 7),
        (" 42\n", 42),
        ("0x1F", 31),
        ("0XfF", 255),
        ("340282366920938463463374607431768211455", MAX_SEED),
        ("0x" + "f" * 32, MAX_SEED),
    ],
)
def test_a_seed_is_decimal_or_hexadecimal(text: str, seed: int) -> None:
    assert parse_seed(text) == seed


@pytest.mark.parametrize("text", ["", " ", "dog", "1.5", "0x", "0xg", "12a", "1e5", "0b1", "--1", "9" * 5_000])
def test_what_is_no_seed_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError, match="the seed is not a number") as error:
        parse_seed(text)
    assert len(text.strip()) < 3 or text not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__, "a traceback would show the text"


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 10**50])
def test_a_seed_out_of_range_is_refused_without_repeating_it(seed: int) -> None:
    for check in (lambda: check_seed(seed), lambda: parse_seed(str(seed)), lambda: parse_seed("0x1" + "0" * 32)):
        with pytest.raises(ConfigError, match="at least 0 and below 2\\^128") as error:
            check()
        assert not re.search(r"\d{4}|-\d", str(error.value))


def test_the_ends_of_the_range_are_seeds() -> None:
    assert (check_seed(0), check_seed(MAX_SEED)) == (0, 2**128 - 1)


@given(SEEDS)
def test_a_fingerprint_is_all_that_is_ever_shown_of_a_seed(seed: int) -> None:
    expected = hashlib.sha256(b"stream-curate seed" + seed.to_bytes(16, "little")).hexdigest()[:16]

    assert seed_fingerprint(seed) == expected


def test_fingerprints_that_stand_in_tables_do_not_change() -> None:
    assert [seed_fingerprint(seed) for seed in (0, 1, MAX_SEED)] == [
        "240981dc41a01761",
        "11e4f367d287173b",
        "3c11a834f09666f8",
    ]
