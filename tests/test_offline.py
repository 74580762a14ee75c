"""The plain reference: against the golden vectors, against the formula, and in what it writes and refuses."""

from __future__ import annotations

import ast
import inspect
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import MemorySource
from strategies import COUNTERS, DEDUPS, EXACT, METADATA, SEEDS, Row, ids, offline_subset, records_of, rows

from stream_curate import offline as offline_module
from stream_curate.balance import keep_probability
from stream_curate.counting import Counter
from stream_curate.errors import ConfigError, InputError, OutputError, StreamCurateError, UsageError
from stream_curate.metadata import Metadata
from stream_curate.offline import OFFLINE_SCHEMA, OfflinePool, digest, draw, offline, siphash_2_4
from stream_curate.offline import records_of as records_of_sources
from stream_curate.pairs import Records, make_pairs, validate
from stream_curate.reasons import Reason
from stream_curate.rule import Dedup
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.spacing import spacing

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_DRAWS = json.loads((GOLDEN / "golden-draws.json").read_text(encoding="utf-8"))
GOLDEN_SETS = json.loads((GOLDEN / "golden-sets.json").read_text(encoding="utf-8"))

# vectors_sip64 of the authors' reference implementation: key 00 01 .. 0f, message of row n 00 01 .. n-1
SIPHASH_VECTORS = bytes.fromhex(
    "310e0edd47db6f72 fd67dc93c539f874 5a4fa9d909806c0d 2d7efbd796666785 b7877127e09427cf 8da699cd64557618 "
    "cee3fe586e46c9cb 37d1018bf50002ab 6224939a79f5f593 b0e4a90bdf82009e f3b9dd94c5bb5d7a a7ad6b22462fb3f4 "
    "fbe50e86bc8f1e75 903d84c02756ea14 eef27a8e90ca23f7 e545be4961ca29a1 db9bc2577fcc2a3f"
)

METADATA_OF_DOGS = Metadata.from_entries(["dog", "cat", "zebra"])
DOGS: list[Row] = [
    (b"http://x.org/1", b"a dog"),
    (b"http://x.org/2", b"a dog and a cat"),
    (b"ftp://x.org/3", b"a dog"),
    (b"http://x.org/1", b"a dog"),
    (b"http://x.org/4", None),
    (b"http://x.org/5", b"a dog"),
    (b"http://x.org/6", b"\xff"),
]


def dogs() -> list[MemorySource]:
    return [MemorySource("memory:one", DOGS[:3]), MemorySource("memory:two", DOGS[3:])]


# Golden vectors


@pytest.mark.parametrize("golden", GOLDEN_DRAWS, ids=lambda golden: f"{golden['pair_id'][:8]}-seed{golden['seed'][:3]}")
def test_the_golden_draws(golden: dict[str, Any]) -> None:
    pair_id = make_pairs([golden["url"]], [golden["text"]]).column("pair_id")[0].as_py()

    base = siphash_2_4(int(golden["seed"]).to_bytes(16, "little"), pair_id)

    assert pair_id.hex() == golden["pair_id"]
    assert base == int(golden["base"])
    assert {entry: draw(base, entry) for entry in golden["draws"]} == golden["draws"]


@pytest.fixture(scope="module")
def golden_pool(
    golden_records: Callable[[str], list[Records]], golden_metadata: Metadata
) -> Callable[[str], OfflinePool]:
    """The pool of a golden input; made once for all its counters, thresholds and seeds."""

    def pool(name: str) -> OfflinePool:
        if name not in known:
            known[name] = OfflinePool.read(golden_records(name), golden_metadata)
        return known[name]

    known: dict[str, OfflinePool] = {}
    return pool


@pytest.mark.parametrize(
    "golden",
    GOLDEN_SETS,
    ids=lambda golden: f"{golden['input'][:4]}-t{golden['t']}-seed{golden['seed']}-{golden['counter']['kind']}",
)
def test_the_golden_sets(golden: dict[str, Any], golden_pool: Callable[[str], OfflinePool]) -> None:
    pool = golden_pool(golden["input"])
    curated = offline_subset(pool, Counter(**golden["counter"]), golden["t"], int(golden["seed"]))

    assert digest(curated) == golden["digest"]
    assert len(curated) == golden["n_curated"]
    assert (len(pool), pool.n_matched) == (golden["n_unique"], golden["n_matched"])
    assert sum(pool.entry_counts(EXACT).values()) == golden["sum_of_counts"]


def test_the_shards_as_files_give_a_golden_set(tmp_path: Path, golden_metadata: Metadata) -> None:
    """From files to a file, with all the reading between."""
    shards = Path(__file__).parent / "shards"
    sources = [
        *open_sources([str(shards / "gcc-validation.tsv")], ColumnChoice(headerless=("caption", "url"))),
        *open_sources([str(shards / "gcc-validation.jsonl")], ColumnChoice()),
    ]
    result = offline(sources, golden_metadata, threshold=20, seed=7, out=tmp_path / "curated.parquet")

    golden = next(g for g in GOLDEN_SETS if (g["input"], g["t"], g["seed"]) == ("gcc-validation.tsv", 20, "7"))
    curated = pq.read_table(tmp_path / "curated.parquet")
    assert result.digest == golden["digest"] == digest(curated["pair_id"].to_pylist())
    assert result.n_curated == golden["n_curated"] == len(curated)


# The rule


@pytest.mark.parametrize("n_bytes", range(len(SIPHASH_VECTORS) // 8))
def test_siphash_gives_the_authors_vectors(n_bytes: int) -> None:
    found = siphash_2_4(bytes(range(16)), bytes(range(n_bytes)))
    assert found.to_bytes(8, "little") == SIPHASH_VECTORS[8 * n_bytes : 8 * n_bytes + 8]


def test_nothing_of_the_fast_path_is_imported() -> None:
    """What is compared with the fast path must not be made of it."""
    imported = {
        node.module
        for node in ast.walk(ast.parse(inspect.getsource(offline_module)))
        if isinstance(node, ast.ImportFrom)
    }
    fast = {"balance", "curator", "digest", "draws", "kernels", "seen", "matching", "matching.trie"}
    assert not imported & {f"stream_curate.{name}" for name in fast}


@given(rows(), METADATA, SEEDS, COUNTERS, DEDUPS, st.integers(1, 12))
def test_every_pair_is_judged_by_the_formula(
    stream: list[Row], metadata: Metadata, seed: int, counter: Counter, dedup: Dedup, threshold: int
) -> None:
    """Matching by substring and the comparison of the rule alone, for each pair and entry."""
    pool = OfflinePool.read([records_of(stream)], metadata, dedup)
    pairs, _ = validate(records_of(stream))
    texts = dict(zip(pairs.column("pair_id").to_pylist(), pairs.column("text").to_pylist(), strict=True))
    entries = metadata.entries.to_pylist()
    counts = pool.entry_counts(counter)

    expected = []
    for index, pair_id in enumerate(pool.pair_ids):
        matched = [e for e, entry in enumerate(entries) if f" {entry} " in spacing(texts[pair_id])]
        assert list(pool.matched(index)) == matched
        base = siphash_2_4(seed.to_bytes(16, "little"), pair_id)
        if any(draw(base, entries[e]) * counts[e] < threshold for e in matched):
            expected.append(index)
    assert pool.kept(counts, threshold, seed) == expected


@given(rows(), METADATA, DEDUPS)
def test_exact_counts_are_the_numbers_of_pairs_that_match(stream: list[Row], metadata: Metadata, dedup: Dedup) -> None:
    pool = OfflinePool.read([records_of(stream)], metadata, dedup)
    matched = [entry_id for index in range(len(pool)) for entry_id in pool.matched(index)]
    assert pool.entry_counts(EXACT) == {entry_id: matched.count(entry_id) for entry_id in matched}


@pytest.mark.parametrize(
    ("counts", "threshold"),
    [((40, 80, 25), 20), ((1000, 1000, 1000), 20), ((21, 10**9, 10**9), 20), ((50, 50, 20), 20)],
)
def test_pairs_are_kept_as_often_as_the_formula_says(counts: tuple[int, ...], threshold: int) -> None:
    """Over seeds that are fixed, so that it comes out the same each time; within 5 standard deviations."""
    n_seeds = 4_000
    pool = OfflinePool.read([records_of([(b"http://x.org/1", b"dog cat zebra")])], METADATA_OF_DOGS)
    n_kept = sum(len(pool.kept(dict(enumerate(counts)), threshold, seed)) for seed in range(n_seeds))

    p = keep_probability(np.array(counts), threshold)
    assert abs(n_kept - n_seeds * p) <= 5 * math.sqrt(n_seeds * p * (1 - p))


def test_draws_are_uniform_and_of_each_entry_alone() -> None:
    bases = [siphash_2_4(bytes(16), i.to_bytes(16, "little")) for i in range(4_000)]
    dog, cat = (np.array([draw(base, entry) for base in bases]) for entry in ("dog", "cat"))

    for draws in (dog, cat):
        counts, _ = np.histogram(draws, 20, (0, 1))
        assert np.sum((counts - 200) ** 2 / 200) < 43.8, "chi-squared with 19 degrees of freedom, p = 0.001"
    assert abs(np.corrcoef(dog, cat)[0, 1]) < 5 / math.sqrt(len(bases))


# The pool


def test_each_record_is_counted_in_one_place() -> None:
    pool = OfflinePool.read(records_of_sources(dogs()), METADATA_OF_DOGS)

    assert (pool.n_read, len(pool), pool.n_duplicate, pool.n_matched) == (7, 4, 1, 3)
    assert pool.n_rejected == {Reason.URL_SCHEME: 1, Reason.INVALID_UTF8: 1}
    assert pool.entry_counts(EXACT) == {0: 3, 1: 1}
    assert [pool.where(index) for index in range(len(pool))] == [
        ("memory:one", 0),
        ("memory:one", 1),
        ("memory:two", 1),
        ("memory:two", 2),
    ]


def test_without_dedup_a_pair_that_comes_again_counts_again() -> None:
    pool = OfflinePool.read(records_of_sources(dogs()), METADATA_OF_DOGS, "none")

    assert (pool.n_read, len(pool), pool.n_duplicate, pool.n_matched) == (7, 5, 0, 4)
    assert pool.entry_counts(EXACT) == {0: 4, 1: 1}
    assert pool.pair_ids[0] == pool.pair_ids[2]


@given(rows(), METADATA, COUNTERS, DEDUPS, st.data())
def test_part_of_a_pool_is_the_pool_of_that_part(
    stream: list[Row], metadata: Metadata, counter: Counter, dedup: Dedup, data: st.DataObject
) -> None:
    n_records = data.draw(st.integers(0, len(stream)))
    pool = OfflinePool.read([records_of(stream)], metadata, dedup)
    prefix = OfflinePool.read([records_of(stream[:n_records])], metadata, dedup)

    part = pool.take(range(len(prefix)))
    assert part.pair_ids == prefix.pair_ids
    assert part.entry_counts(counter) == prefix.entry_counts(counter)
    assert offline_subset(part, counter, 2, 7) == offline_subset(prefix, counter, 2, 7)
    assert [part.where(i) for i in range(len(part))] == [prefix.where(i) for i in range(len(part))]


@given(st.lists(st.binary(min_size=16, max_size=16)), st.randoms())
def test_a_digest_is_of_the_set(pair_ids: list[bytes], random: Any) -> None:
    again = pair_ids + pair_ids[:3]
    random.shuffle(again)
    assert digest(again) == digest(pair_ids)
    assert digest([*pair_ids, bytes(17)]) != digest(pair_ids)


# What is written


@given(rows(), METADATA, SEEDS, COUNTERS, DEDUPS, st.integers(1, 12))
def test_the_file_holds_the_kept_pairs_each_once(
    tmp_path_factory: pytest.TempPathFactory,
    stream: list[Row],
    metadata: Metadata,
    seed: int,
    counter: Counter,
    dedup: Dedup,
    threshold: int,
) -> None:
    out = tmp_path_factory.mktemp("offline") / "curated.parquet"
    source = MemorySource("memory:", stream)
    result = offline([source], metadata, threshold=threshold, seed=seed, counter=counter, dedup=dedup, out=out)

    table = pq.read_table(out)
    pool = OfflinePool.read([records_of(stream)], metadata, dedup)
    found = ids(table.to_batches())
    assert table.schema == OFFLINE_SCHEMA
    assert len(found) == len(set(found)) == result.n_curated
    assert set(found) == offline_subset(pool, counter, threshold, seed)
    assert result.digest == digest(found)
    for row in table.to_pylist():
        assert make_pairs([row["url"]], [row["text"]]).column("pair_id")[0].as_py() == row["pair_id"]
        assert row["entry_ids"] == list(pool.matched(pool.pair_ids.index(row["pair_id"])))
    assert result.n_read == len(stream) == result.n_unique + result.n_duplicate + sum(result.n_rejected.values())


def test_the_result_says_what_was_done(tmp_path: Path) -> None:
    out = tmp_path / "curated.parquet"
    result = offline(dogs(), METADATA_OF_DOGS, threshold=2, seed=7, out=out)

    assert (result.n_head, result.n_tail) == (1, 1)
    assert result.largest == [("dog", 3), ("cat", 1)]
    assert json.loads(json.dumps(result.as_dict())) == {
        "rule": result.rule.as_dict(),
        "out": str(out),
        "n_read": 7,
        "n_unique": 4,
        "n_duplicate": 1,
        "n_rejected": {"url_scheme": 1, "invalid_utf8": 1},
        "n_matched": 3,
        "n_curated": result.n_curated,
        "digest": result.digest,
        "n_head": 1,
        "n_tail": 1,
        "largest": [{"entry": "dog", "count": 3}, {"entry": "cat", "count": 1}],
    }
    assert result.rule.counter == EXACT


def test_a_file_without_a_pair_can_be_read(tmp_path: Path) -> None:
    result = offline(
        [MemorySource("memory:", [])], METADATA_OF_DOGS, threshold=2, seed=7, out=tmp_path / "curated.parquet"
    )
    assert (result.n_read, result.n_curated, result.largest) == (0, 0, [])
    assert pq.read_table(tmp_path / "curated.parquet").schema == OFFLINE_SCHEMA


# Part of the sources


def test_only_the_rows_up_to_a_cut_are_taken(tmp_path: Path) -> None:
    cut = {"memory:two": 3, "memory:one": 2, "memory:gone": 0}
    result = offline(dogs(), METADATA_OF_DOGS, threshold=20, seed=7, out=tmp_path / "o.parquet", up_to=cut)

    assert (result.n_read, result.n_unique, result.n_duplicate, result.n_rejected) == (5, 4, 1, {})
    only_two = {"memory:two": 4}
    result = offline(dogs(), METADATA_OF_DOGS, threshold=20, seed=7, out=tmp_path / "o.parquet", up_to=only_two)
    assert (result.n_read, result.n_unique, result.n_rejected) == (4, 3, {Reason.INVALID_UTF8: 1})


@given(rows(), st.data())
def test_a_cut_inside_a_batch_is_as_if_the_source_ended_there(stream: list[Row], data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(0, len(stream)))
    whole, cut = MemorySource("memory:", stream), MemorySource("memory:", stream[:n_rows])
    up_to = OfflinePool.read(records_of_sources([whole], {"memory:": n_rows}), METADATA_OF_DOGS)
    expected = OfflinePool.read(records_of_sources([cut]), METADATA_OF_DOGS)

    assert (up_to.n_read, up_to.n_rejected, up_to.pair_ids) == (n_rows, expected.n_rejected, expected.pair_ids)


def test_what_a_source_has_found_itself_is_cut_too() -> None:
    nothing = pa.array([None, None, None], pa.binary())
    rejected = {0: Reason.BAD_ROW, 2: Reason.BAD_JSON}
    records = Records(
        "memory:", 0, nothing, nothing, {"uid": pa.array(["a", "b", "c"])}, rejected, {0: b"first", 2: b"last"}
    )

    @dataclass(frozen=True)
    class Found(MemorySource):
        def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
            yield records

    (cut,) = records_of_sources([Found("memory:", [])], {"memory:": 2})
    assert (len(cut), cut.kept["uid"].to_pylist()) == (2, ["a", "b"])
    assert (cut.rejected, cut.raw) == ({0: Reason.BAD_ROW}, {0: b"first"})


# What is refused


@dataclass(frozen=True)
class Changing(MemorySource):
    """A file that is overwritten between two readings."""

    n_reads: list[int] = field(default_factory=list)

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        self.n_reads.append(1)
        yield from MemorySource(self.uri, self.rows if len(self.n_reads) == 1 else self.rows[2:]).read(0, batch_size)


@pytest.mark.parametrize(
    ("sources", "options", "kind", "words"),
    [
        ([*dogs(), *open_sources(["-"], ColumnChoice())], {}, UsageError, "reads its input twice"),
        (dogs(), {"up_to": {"memory:three": 1}}, UsageError, "memory:three is needed too, with its first 1 rows"),
        (dogs(), {"up_to": {"memory:one": 4}}, InputError, "memory:one has 3 rows where 4 were read before"),
        ([Changing("memory:", DOGS)], {}, InputError, "1 of the pairs to keep were gone at the second reading"),
        (dogs(), {"threshold": 0}, ConfigError, "threshold is 0"),
        (dogs(), {"seed": -1}, ConfigError, "seed is out of range"),
    ],
)
def test_refusals_leave_what_was_there(
    tmp_path: Path, sources: list[Any], options: dict[str, Any], kind: type[StreamCurateError], words: str
) -> None:
    out = tmp_path / "curated.parquet"
    out.write_bytes(b"from before")
    with pytest.raises(kind, match=words):
        offline(sources, METADATA_OF_DOGS, **({"threshold": 20, "seed": 7, "out": out} | options))
    assert out.read_bytes() == b"from before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        offline(dogs(), METADATA_OF_DOGS, threshold=2, seed=7, out=tmp_path / "missing" / "curated.parquet")
    folder = tmp_path / "curated.parquet"
    folder.mkdir()
    with pytest.raises(OutputError, match=r"curated\.parquet: cannot be written"):
        offline(dogs(), METADATA_OF_DOGS, threshold=2, seed=7, out=folder)
    assert list(tmp_path.iterdir()) == [folder]
