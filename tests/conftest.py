"""What tests share: the fixed real input, the golden metadata, and chance that can be repeated."""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from stream_curate.metadata import Metadata
from stream_curate.pairs import Records, validate

TESTS = Path(__file__).parent
RANDOM_SEED = "TEST_RANDOM_SEED"

# A failure prints what repeats it. No deadline and no check of speed: kernels are compiled on first use. The same
# examples each time, so that a commit that passed passes again; `make fuzz` looks for new ones.
settings.register_profile(
    "same", print_blob=True, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", settings.get_profile("same"), derandomize=False, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "same")


@pytest.fixture
def rng() -> np.random.Generator:
    """Chance that differs from run to run; its seed is printed with a failure, and TEST_RANDOM_SEED repeats it."""
    seed = int(os.environ.get(RANDOM_SEED) or secrets.randbits(64))
    print(f"repeat with {RANDOM_SEED}={seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def golden_metadata() -> Metadata:
    return Metadata.load(TESTS / "golden" / "golden-metadata.txt")


@pytest.fixture(scope="session")
def golden_records() -> Callable[[str], list[Records]]:
    """The inputs of the golden sets by their names there, read without the sources that are under test elsewhere."""
    captions = _gcc_validation()
    laion = _laion()
    again = _records("gcc-validation.tsv again", captions[:100])
    inputs = {
        "gcc-validation.tsv": [_records("gcc-validation.tsv", captions)],
        "laion-10k.parquet": [laion],
        "both, then the first 100 rows of gcc-validation.tsv again": [
            _records("gcc-validation.tsv", captions),
            laion,
            again,
        ],
    }
    return inputs.__getitem__


@pytest.fixture(scope="session")
def golden_pairs(golden_records: Callable[[str], list[Records]]) -> Callable[[str], pa.RecordBatch]:
    """The valid pairs of a golden input, as one batch."""

    def pairs(name: str) -> pa.RecordBatch:
        if name not in known:
            batches = [validate(records)[0] for records in golden_records(name)]
            known[name] = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]
        return known[name]

    known: dict[str, pa.RecordBatch] = {}
    return pairs


def _gcc_validation() -> list[tuple[str, str]]:
    """(url, text) of the tsv shard, then of the jsonl shard: the two halves of one published file."""
    with open(TESTS / "shards" / "gcc-validation.tsv", encoding="utf-8", newline="\n") as file:
        rows = [(url, text) for text, url in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    with open(TESTS / "shards" / "gcc-validation.jsonl", encoding="utf-8", newline="\n") as file:
        objects = [json.loads(line) for line in file]
    return rows + [(pair["url"], pair["caption"]) for pair in objects]


def _laion() -> Records:
    table = pq.read_table(TESTS / "shards" / "laion-10k.parquet", columns=["URL", "TEXT"])
    urls, texts = (column.combine_chunks().cast(pa.binary()) for column in table.columns)
    return Records("laion-10k.parquet", 0, urls, texts)


def _records(source: str, rows: list[tuple[str, str]]) -> Records:
    urls, texts = (pa.array([value.encode() for value in column], pa.binary()) for column in zip(*rows, strict=True))
    return Records(source, 0, urls, texts)
