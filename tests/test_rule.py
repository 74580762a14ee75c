"""Two runs are the same curation iff their rules are equal; the seed stands in none of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEDUPS, SEEDS

from stream_curate.counting import Counter, CountsAndCoins, empty_counts
from stream_curate.draws import seed_fingerprint
from stream_curate.errors import ConfigError
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.pairs import VALIDATOR_VERSION
from stream_curate.rule import Rule

METADATA = Metadata.from_entries(["dog", "cat"])
COUNTERS = st.just(Counter("exact")) | st.builds(
    Counter, st.just("count-min"), num_hashes=st.integers(1, 127), num_buckets=st.integers(3, 2**20)
)


def rule_of(**other: Any) -> Rule:
    settings = {"threshold": 20, "seed": 7, "counter": Counter("exact"), "dedup": "exact"}
    return Rule.of(other.pop("metadata", METADATA), **(settings | other))


FINALS = st.builds(FinalDecisions, st.integers(1, 2**53), st.sampled_from(["known", "endless"]))


@given(st.integers(1, 2**53), SEEDS, COUNTERS, DEDUPS, st.none() | FINALS)
def test_a_rule_that_was_stored_is_read_back_as_the_same(
    threshold: int, seed: int, counter: Counter, dedup: Any, final: FinalDecisions | None
) -> None:
    if final is not None:
        counter = Counter("exact")
    rule = rule_of(threshold=threshold, seed=seed, counter=counter, dedup=dedup, final=final)

    assert rule.decisions == ("provisional" if final is None else "final")
    assert Rule.from_dict(orjson.loads(orjson.dumps(rule.as_dict()))) == rule


def test_the_sizes_of_a_sketch_make_no_difference_to_the_exact_counter() -> None:
    """They mean nothing to it, so a table made with some must open again."""
    rule = rule_of(counter=Counter("exact", 2, 16))

    assert Rule.from_dict(rule.as_dict()) == rule == rule_of()


def test_everything_that_decides_is_in_it() -> None:
    rules = [
        rule_of(),
        rule_of(threshold=21),
        rule_of(seed=8),
        rule_of(counter=Counter("count-min")),
        rule_of(counter=Counter("count-min", 5)),
        rule_of(counter=Counter("count-min", 4, 2**19)),
        rule_of(dedup="none"),
        rule_of(metadata=Metadata.from_entries(["cat", "dog"])),
        dataclasses.replace(rule_of(), validator_version=VALIDATOR_VERSION + 1),
        rule_of(final=FinalDecisions(100)),
        rule_of(final=FinalDecisions(101)),
        rule_of(final=FinalDecisions(100, "known")),
        rule_of(final=FinalDecisions(100, version=2)),
    ]

    assert len({orjson.dumps(rule.as_dict()) for rule in rules}) == len(set(rules)) == len(rules)
    assert rule_of() == rule_of()


def test_how_a_rule_stands_in_headers() -> None:
    """Tables that exist are read by these keys."""
    assert rule_of().as_dict() == {
        "threshold": 20,
        "seed_fingerprint": seed_fingerprint(7),
        "metadata_sha256": METADATA.fingerprint,
        "dedup": "exact",
        "counter": {"kind": "exact"},
        "validator_version": 1,
    }
    assert rule_of(counter=Counter("count-min", 2, 16)).as_dict()["counter"] == {
        "kind": "count-min",
        "num_hashes": 2,
        "num_buckets": 16,
    }


def test_how_final_decisions_stand_in_headers() -> None:
    rule = rule_of(final=FinalDecisions(1000, "known"))
    assert rule.as_dict() == rule_of().as_dict() | {
        "decisions": {"kind": "final", "pool_size": 1000, "horizon": "known", "version": 1}
    }


def test_final_decisions_are_refused_with_a_sketch() -> None:
    with pytest.raises(ConfigError, match="final decisions need exact counts, not count-min"):
        rule_of(final=FinalDecisions(1000), counter=Counter("count-min"))


def test_counts_are_read_as_the_rule_has_them() -> None:
    exact, coins = empty_counts(Counter("exact"), 5), CountsAndCoins(5)
    assert type(rule_of().load_counts(5, exact.to_bytes())) is type(exact)
    assert isinstance(rule_of(final=FinalDecisions(9)).load_counts(5, coins.to_bytes()), CountsAndCoins)
    for rule, data in ((rule_of(), coins.to_bytes()), (rule_of(final=FinalDecisions(9)), exact.to_bytes())):
        with pytest.raises(ValueError, match="are needed"):
            rule.load_counts(5, data)


def test_the_seed_is_nowhere_in_it() -> None:
    seed = 0xDEADBEEF_0BADF00D_CAFEBABE
    shown = f"{rule_of(seed=seed)!r} {rule_of(seed=seed).as_dict()}"

    assert str(seed) not in shown
    assert f"{seed:x}" not in shown.lower()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"threshold": 0}, "the threshold is 0: it must be at least 1"),
        ({"threshold": -5}, "the threshold is -5"),
        ({"seed": 2**128}, "the seed is out of range"),
        ({"seed": -1}, "the seed is out of range"),
        ({"dedup": "bloom"}, "no dedup 'bloom': choose one of exact, none"),
    ],
)
def test_what_is_out_of_range_is_refused_in_words(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rule_of(**wrong)
