"""The law of the library: what the stream gives at every moment is what offline MetaCLIP gives of the same pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    COUNTERS,
    DEDUPS,
    EXACT,
    METADATA,
    SEEDS,
    TINY,
    Row,
    batches,
    cut,
    ids,
    offline_subset,
    records_of,
    rows,
)

from stream_curate import Curator, Metadata, make_pairs
from stream_curate.counting import Counter
from stream_curate.curator import matches_of
from stream_curate.digest import digest
from stream_curate.draws import bases
from stream_curate.errors import ConfigError
from stream_curate.offline import OfflinePool
from stream_curate.pairs import validate

GOLDEN_SETS = json.loads((Path(__file__).parent / "golden" / "golden-sets.json").read_text(encoding="utf-8"))


def golden_name(golden: dict[str, Any]) -> str:
    return f"{golden['input'].split(',')[0]}-t{golden['t']}-seed{golden['seed']}-{golden['counter']['kind']}"


@pytest.mark.parametrize("batch_size", [61, 997, 65_536])
@pytest.mark.parametrize("golden", GOLDEN_SETS, ids=golden_name)
def test_the_golden_sets(
    golden: dict[str, Any],
    batch_size: int,
    golden_metadata: Metadata,
    golden_pairs: Callable[[str], pa.RecordBatch],
) -> None:
    """Real pairs give the published digest, at any batch size."""
    curator = Curator(
        golden_metadata, threshold=golden["t"], seed=int(golden["seed"]), counter=Counter(**golden["counter"])
    )
    pairs = golden_pairs(golden["input"])

    admitted = [curator.observe(pairs.slice(i, batch_size)) for i in range(0, len(pairs), batch_size)]
    settled = curator.settle(admitted)

    assert digest(batch.column("pair_id") for batch in settled) == golden["digest"]
    assert sum(map(len, settled)) == golden["n_curated"]
    assert (curator.tally.n_unique, curator.tally.n_matched) == (golden["n_unique"], golden["n_matched"])
    assert curator.counts.total == golden["sum_of_counts"]
    assert golden["n_curated"] <= curator.tally.n_admitted == sum(map(len, admitted))
    if batch_size < 1_000 and golden["t"] == 5:
        assert golden["n_curated"] < curator.tally.n_admitted  # there was something to settle


@given(
    stream=batches(),
    metadata=METADATA,
    threshold=st.integers(1, 6),
    seed=SEEDS,
    counter=COUNTERS,
    dedup=DEDUPS,
    matcher=st.sampled_from(["trie", "automaton"]),
)
def test_at_every_prefix_settling_gives_the_offline_subset(
    stream: list[list[Row]], metadata: Metadata, threshold: int, seed: int, counter: Counter, dedup: Any, matcher: Any
) -> None:
    """And before settling nothing that offline keeps is missing."""
    curator = Curator(metadata, threshold=threshold, seed=seed, counter=counter, dedup=dedup, matcher=matcher)
    pool = OfflinePool(metadata, dedup)
    admitted = []
    for batch in stream:
        records = records_of(batch)
        admitted.append(curator.observe(validate(records)[0]))
        pool.add(records)

        expected = offline_subset(pool, counter, threshold, seed)

        assert set(ids(admitted)) >= expected
        assert set(ids(curator.settle(admitted))) == expected
    tally = curator.tally
    assert (tally.n_unique, tally.n_duplicate, tally.n_matched) == (len(pool), pool.n_duplicate, pool.n_matched)
    assert tally.n_admitted == len(ids(admitted))
    assert tally.n_unique >= tally.n_matched >= tally.n_admitted
    if dedup == "exact":
        assert len(ids(admitted)) == len(set(ids(admitted)))


@given(
    stream=batches(),
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=9, max_size=9),
    metadata=METADATA,
    seed=SEEDS,
    counter=COUNTERS,
    dedup=DEDUPS,
)
def test_settling_midway_and_lowering_the_threshold_change_nothing_at_the_end(
    stream: list[list[Row]],
    steps: list[tuple[int, bool]],
    metadata: Metadata,
    seed: int,
    counter: Counter,
    dedup: Any,
) -> None:
    """A table settled as often as you like, and a t lowered on the way, end as offline at the last t."""
    threshold = 8
    curator = Curator(metadata, threshold=threshold, seed=seed, counter=counter, dedup=dedup)
    pool = OfflinePool(metadata, dedup)
    table: list[pa.RecordBatch] = []
    for batch, (lower_by, settle_now) in zip(stream, steps, strict=False):
        threshold = max(1, threshold - lower_by)
        curator.lower_threshold(threshold)
        records = records_of(batch)
        table.append(curator.observe(validate(records)[0]))
        pool.add(records)
        if settle_now:
            table = curator.settle(table)
            assert set(ids(table)) == offline_subset(pool, counter, threshold, seed)
            assert ids(curator.settle(table)) == ids(table)
    assert set(ids(curator.settle(table))) == offline_subset(pool, counter, threshold, seed)


@given(
    data=st.data(),
    stream=rows(),
    metadata=METADATA,
    threshold=st.integers(1, 6),
    seed=SEEDS,
    counter=COUNTERS,
    dedup=DEDUPS,
)
def test_one_digest_for_any_order_and_batching(
    data: st.DataObject,
    stream: list[Row],
    metadata: Metadata,
    threshold: int,
    seed: int,
    counter: Counter,
    dedup: Any,
) -> None:
    def settled_digest(parts: list[list[Row]]) -> str:
        curator = Curator(metadata, threshold=threshold, seed=seed, counter=counter, dedup=dedup)
        admitted = [curator.observe(validate(records_of(part))[0]) for part in parts]
        return digest(batch.column("pair_id") for batch in curator.settle(admitted))

    shuffled = data.draw(st.permutations(stream))

    assert settled_digest(data.draw(cut(shuffled))) == settled_digest([stream])


@given(stream=batches(), metadata=METADATA, counter=COUNTERS)
def test_what_is_known_of_the_counts_is_a_lower_bound_that_never_falls(
    stream: list[list[Row]], metadata: Metadata, counter: Counter
) -> None:
    """Deciding early is safe only because of this; and an entry of the batch itself is known exactly as counted."""
    curator = Curator(metadata, counter=counter)
    before = curator.known_counts.copy()
    for batch in stream:
        curator.observe(validate(records_of(batch))[0])
        assert (before <= curator.known_counts).all()
        assert (curator.known_counts <= curator.entry_counts()).all()
        before = curator.known_counts.copy()


def test_admitted_pairs_keep_their_columns_and_order_and_gain_their_matches() -> None:
    curator = Curator(Metadata.from_entries(["cat", "dog", "zebra"]), counter="exact")
    pairs = make_pairs([f"http://x.org/{i}" for i in range(4)], ["a dog , a cat", "nothing", None, "zebra"])

    admitted = curator.observe(pairs)

    assert admitted.schema.names == [*pairs.schema.names, "entry_ids"]
    assert admitted.column("entry_ids").to_pylist() == [[0, 1], [2]]
    assert admitted.drop_columns(["entry_ids"]).equals(pairs.take(pa.array([0, 3])))
    assert curator.entry_counts().tolist() == [1, 1, 1]
    assert curator.entry_counts().dtype == np.int64


def test_a_pair_that_comes_again_counts_nothing_with_dedup_and_everything_without() -> None:
    pairs = make_pairs(["http://x.org/1"] * 3, ["a dog"] * 3)
    counts = {}
    for dedup in ("exact", "none"):
        curator = Curator(Metadata.from_entries(["dog"]), threshold=5, counter="exact", dedup=dedup)
        admitted = [curator.observe(pairs), curator.observe(pairs)]
        counts[dedup] = (len(ids(admitted)), curator.tally.n_duplicate, curator.entry_counts().tolist())

    assert counts == {"exact": (1, 5, [1]), "none": (6, 0, [6])}


def test_an_empty_batch_is_a_batch() -> None:
    curator = Curator(Metadata.from_entries(["dog"]))

    admitted = curator.observe(make_pairs([], []))

    assert len(admitted) == 0
    assert admitted.schema.names[-1] == "entry_ids"
    assert curator.settle([admitted])[0].equals(admitted)
    assert curator.counts.total == 0


def test_settling_takes_slices_and_other_string_widths() -> None:
    """A table is read back in pieces, and Delta gives pair_ids of variable length."""
    metadata = Metadata.from_entries(["dog", "cat", "a"])
    curator = Curator(metadata, threshold=4, seed=3, counter="exact")
    n = 50
    admitted = curator.observe(make_pairs([f"http://x.org/{i}" for i in range(n)], ["a dog", "cat"] * (n // 2)))
    whole = ids(curator.settle([admitted]))
    as_binary = admitted.set_column(0, "pair_id", admitted.column("pair_id").cast(pa.binary()))

    assert 0 < len(whole) < n
    for batch in (admitted, as_binary):
        parts = [batch.slice(i, 7) for i in range(0, len(batch), 7)]
        assert ids(curator.settle(parts)) == whole
        assert [matches_of(part).offsets[0] for part in parts] == [0] * len(parts)


def test_a_run_with_a_wrong_seed_settles_to_something_else() -> None:
    """So that equality above is not equality of everything with everything."""
    pairs = make_pairs([f"http://x.org/{i}" for i in range(200)], ["a dog"] * 200)

    def settled(seed: int) -> set[bytes]:
        curator = Curator(Metadata.from_entries(["dog"]), threshold=20, seed=seed, counter="exact")
        return set(ids(curator.settle([curator.observe(pairs)])))

    assert settled(1) == settled(1) != settled(2)
    assert 5 < len(settled(1)) < 50


@given(stream=rows(), seeds=st.tuples(SEEDS, SEEDS))
def test_where_nothing_is_balanced_the_seed_changes_nothing(stream: list[Row], seeds: tuple[int, int]) -> None:
    """Which records are valid, which are duplicates and what they match is no matter of chance."""
    curators = [Curator(Metadata.from_entries(["a", "dog"]), seed=seed, counter="exact") for seed in seeds]

    admitted = [curator.observe(validate(records_of(stream))[0]) for curator in curators]

    assert admitted[0].equals(admitted[1])
    assert curators[0].tally == curators[1].tally


def test_the_steps_of_a_batch_may_be_taken_apart() -> None:
    """Threads identify and match several batches at once; only what depends on earlier ones is done in order."""
    metadata = Metadata.from_entries(["dog", "cat"])
    whole, apart = Curator(metadata, threshold=2, seed=9), Curator(metadata, threshold=2, seed=9)
    stream = make_pairs([f"http://x.org/{i % 7}" for i in range(14)], ["a dog"] * 7 + ["a dog", "a cat"] * 3 + [""])
    pairs = [stream.slice(0, 9), stream.slice(9)]
    expected = [whole.observe(batch) for batch in pairs]

    base = [apart.identify(batch) for batch in reversed(pairs)][::-1]
    new = [apart.drop_seen(*each) for each in zip(pairs, base, strict=True)]
    matched = [apart.match(each) for each in reversed(new)][::-1]
    admitted = [apart.admit(each) for each in matched]

    assert all(map(pa.RecordBatch.equals, admitted, expected))
    assert apart.tally == whole.tally
    assert [each.n_duplicate for each in new] == [1, 2]
    assert [each.base.tolist() for each in new] == [bases(each.pairs.column("pair_id"), 9).tolist() for each in new]


def test_a_threshold_cannot_be_raised_nor_fall_below_one() -> None:
    curator = Curator(Metadata.from_entries(["dog"]), threshold=10)
    for threshold in (11, 0, -1):
        with pytest.raises(ValueError, match=f"can only be lowered from 10, not set to {threshold}"):
            curator.lower_threshold(threshold)
    curator.lower_threshold(3)
    assert curator.rule.threshold == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"threshold": 0}, "threshold is 0: it must be at least 1"),
        ({"seed": -1}, "at least 0 and below 2\\^128"),
        ({"seed": 2**128}, "at least 0 and below 2\\^128"),
        ({"counter": "hyperloglog"}, "no counter 'hyperloglog': choose one of count-min, exact"),
        ({"counter": Counter("count-min", 0, 16)}, "cannot have 0 x 16 cells"),
        ({"dedup": "fuzzy"}, "no dedup 'fuzzy': choose one of exact, none"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_words(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Curator(Metadata.from_entries(["dog"]), **wrong)


def test_every_stage_of_a_batch_is_timed() -> None:
    curator = Curator(Metadata.from_entries(["dog"]), counter=TINY)
    curator.observe(make_pairs(["http://x.org/1"], ["a dog"]))
    timed = {name for name, seconds in curator.clock.seconds.items() if seconds > 0}
    assert timed == {"hash", "seen", "match", "count", "decide", "write"}


def test_exact_counts_are_those_of_the_pool() -> None:
    stream = [(b"http://x.org/%d" % i, b"a dog , a cat" if i % 2 else b"zebra") for i in range(9)]
    metadata = Metadata.from_entries(["zebra", "dog", "absent", "a"])
    curator = Curator(metadata, counter=EXACT)
    curator.observe(validate(records_of(stream))[0])

    offline = OfflinePool.read([records_of(stream)], metadata).entry_counts(EXACT)

    assert curator.entry_counts().tolist() == [offline.get(i, 0) for i in range(4)] == [5, 4, 0, 4]
