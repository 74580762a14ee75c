"""The user relies on every matcher finding exactly the entries with `" " + entry + " "` in the spaced text, whatever
is in the texts and entries, and however the texts are cut into batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_curate.matching import AutomatonMatcher, Matcher, Matches, TrieMatcher, make_matcher
from stream_curate.spacing import spacing

TESTS = Path(__file__).resolve().parents[1]

MakeMatcher = Callable[[pa.StringArray], Matcher]

MATCHERS: dict[str, MakeMatcher] = {
    "trie": TrieMatcher,
    "trie, few hashes": lambda entries: TrieMatcher(entries, hash_bits=0b101),
    "trie, one hash": lambda entries: TrieMatcher(entries, hash_bits=0),
    "automaton": AutomatonMatcher,
}

# Tokens on both sides of 8 and 16 bytes, where the trie's keys change; few of them, so that much matches.
TOKEN = st.sampled_from(
    ["a", "b", "A", "é", "e\u0301", "\0", "a\0", "\x7f", "\xa0", "🐈", "é" * 7 + "\0", "é" * 8]
    + ["a" * n for n in (7, 8, 9, 15, 16, 17, 24)]
    + ["b" * 8, "b" * 17, "a" * 23 + "b", "b" + "a" * 23]
)
SEPARATOR = st.sampled_from([*"   ,.;:?!`\t\n\r", "  ", ", ", " ,", " , ", "``", "!?", "\r\n", ""])
TEXT = st.lists(TOKEN | SEPARATOR, max_size=24).map("".join)
PLAIN_SEPARATOR = st.sampled_from([" ", " ", "  ", " , ", " ,  ", ", ", ",", "   ", ""])
ENTRY = st.lists(TOKEN | PLAIN_SEPARATOR, min_size=1, max_size=8).map("".join).filter(bool)
ENTRIES = st.lists(ENTRY, unique=True, max_size=30)


@pytest.fixture(params=MATCHERS)
def make(request: pytest.FixtureRequest) -> MakeMatcher:
    return MATCHERS[request.param]


def strings(values: list[str], kind: Any = None) -> Any:
    return pa.array(values, kind or pa.string())


def as_lists(matches: Matches) -> list[list[int]]:
    assert (matches.offsets.dtype, matches.entry_ids.dtype) == (np.int64, np.int32)
    assert (matches.offsets[0], matches.offsets[-1]) == (0, len(matches.entry_ids))
    ends = matches.offsets.tolist()
    return [matches.entry_ids[ends[i] : ends[i + 1]].tolist() for i in range(len(matches))]


def by_definition(entries: list[str], texts: list[str]) -> list[list[int]]:
    return [[row for row, entry in enumerate(entries) if f" {entry} " in spacing(text)] for text in texts]


def captions() -> list[str]:
    texts = pq.read_table(TESTS / "shards/laion-10k.parquet")["TEXT"].to_pylist()
    lines = (TESTS / "shards/gcc-validation.tsv").read_bytes().decode().removesuffix("\n").split("\n")
    texts += [line.rsplit("\t", 1)[0] for line in lines]
    texts += [json.loads(line)["caption"] for line in (TESTS / "shards/gcc-validation.jsonl").read_bytes().splitlines()]
    return [text or "" for text in texts]


def golden_entries() -> list[str]:
    return (TESTS / "golden/golden-metadata.txt").read_bytes().decode().removesuffix("\n").split("\n")


@given(entries=ENTRIES, texts=st.lists(TEXT, max_size=6))
def test_matches_are_those_of_the_definition(entries: list[str], texts: list[str]) -> None:
    for make in MATCHERS.values():
        assert as_lists(make(strings(entries)).match(strings(texts))) == by_definition(entries, texts)


@given(texts=st.lists(TEXT, min_size=1, max_size=4), data=st.data())
def test_any_stretch_of_a_spaced_text_matches_it(texts: list[str], data: st.DataObject) -> None:
    """Entries taken out of the texts: nearly all match, at the very start and end too, with their empty tokens."""
    entries = set()
    for text in texts:
        pieces = spacing(text)[1:-1].split(" ")
        for _ in range(5):
            first = data.draw(st.integers(0, len(pieces) - 1))
            last = data.draw(st.integers(first, len(pieces) - 1))
            entries.add(" ".join(pieces[first : last + 1]))
    rows = sorted(entries - {""})
    expected = by_definition(rows, texts)
    assert {row for found in expected for row in found} == set(range(len(rows)))
    for make in MATCHERS.values():
        assert as_lists(make(strings(rows)).match(strings(texts))) == expected


@given(entries=ENTRIES, texts=st.lists(TEXT, max_size=8), data=st.data())
def test_the_cut_into_batches_changes_nothing(entries: list[str], texts: list[str], data: st.DataObject) -> None:
    whole = strings(texts)
    cut = data.draw(st.integers(0, len(texts)))
    for make in MATCHERS.values():
        matcher = make(strings(entries))
        parts = as_lists(matcher.match(whole.slice(0, cut))) + as_lists(matcher.match(whole.slice(cut)))
        assert as_lists(matcher.match(whole)) == parts


def test_the_readable_cases(make: MakeMatcher) -> None:
    entries = ["cat", "a cat", "Cat", ",", ", ", "a,b", "a , b", ", ,", " ", "cat asleep", " cat", "cat  asleep", "."]
    cases = {
        "cat": ["cat"],
        "a cat": ["cat", "a cat"],
        "a  cat": ["cat", " cat"],
        "cats": [],
        "a cat, asleep.": ["cat", "a cat", ",", ", ", "."],
        "a,b": [",", "a , b"],
        ",,": [",", ", "],
        "a, , b": [",", ", ", " "],
        "cat\tasleep": ["cat", "cat asleep"],
        "cat\r\nasleep": ["cat", "cat  asleep"],
        "": [],
    }
    found = as_lists(make(strings(entries)).match(strings(list(cases))))
    assert [{entries[row] for row in rows} for rows in found] == [set(names) for names in cases.values()]


def test_no_texts_and_empty_texts(make: MakeMatcher) -> None:
    matcher = make(strings(["a", " "]))
    assert as_lists(matcher.match(strings([]))) == []
    assert as_lists(matcher.match(strings(["", "", ""]))) == [[], [], []]
    assert as_lists(matcher.match(strings(["a", "", "a"]).slice(1, 1))) == [[]]
    assert as_lists(matcher.match(strings(["a"]).slice(1))) == []


def test_no_entries(make: MakeMatcher) -> None:
    assert as_lists(make(strings([])).match(strings(["a cat", ""]))) == [[], []]


def test_slices_and_large_strings(make: MakeMatcher) -> None:
    entries, texts = ["b", "c d", "🐈"], ["a", "b", "c d", "", "🐈 b", "c", "d"]
    expected = by_definition(entries, texts)
    for entry_type in (pa.string(), pa.large_string()):
        padded = strings(["x", *entries, "y"], entry_type).slice(1, 3)
        matcher = make(padded)
        for text_type in (pa.string(), pa.large_string()):
            array = strings(texts, text_type)
            for first in range(len(texts)):
                assert as_lists(matcher.match(array.slice(first))) == expected[first:]
                assert as_lists(matcher.match(array.slice(0, first))) == expected[:first]


def test_a_text_ends_where_the_next_begins(make: MakeMatcher) -> None:
    """Side by side in one buffer, `ca` and `t` are no `cat`, and `a` and `b` no `a b`."""
    assert as_lists(make(strings(["cat", "a b", "t"])).match(strings(["ca", "t", "a", "b", "a ", "b"]))) == [
        [],
        [2],
        [],
        [],
        [],
        [],
    ]


def test_long_entries_that_differ_in_one_byte(make: MakeMatcher) -> None:
    words = ["x" * 1024, "x" * 1023 + "y", "y" + "x" * 1023, "x" * 1023, "ab " * 341, "x" * 511 + " " + "x" * 512]
    texts = [*words, words[0] + "x", "z " + words[1] + ", z", "x" * 1022, ".".join(words)]
    assert as_lists(make(strings(words)).match(strings(texts))) == by_definition(words, texts)


@pytest.mark.parametrize("make", [TrieMatcher, AutomatonMatcher])
def test_the_longest_texts(make: MakeMatcher) -> None:
    """64 KiB of one byte, of nothing but blanks or marks, and of one-letter words."""
    entries = ["a", "a a", "a" * 1024, ",", ", ", " ", "   ", " " * 1024, "a , a", "."]
    texts = ["a" * 65536, " " * 65536, "," * 65536, "\n" * 65536, ", " * 32768, "a " * 32768, "a," * 32768]
    assert as_lists(make(strings(entries)).match(strings(texts))) == by_definition(entries, texts)


def test_every_entry_of_50_000_in_one_text() -> None:
    """More matches than any buffer was made for at first, in an order that is bad for simple sorting."""
    words = [f"w{i:05d}" for i in range(50_000)]
    for order in (words, words[::-1], words[::2] + words[1::2][::-1], words * 2):
        for make in (TrieMatcher, AutomatonMatcher):
            found = make(strings(words)).match(strings(["w00007", " ".join(order), "w00003"]))
            assert found.offsets.tolist() == [0, 1, 50_001, 50_002]
            assert found.entry_ids.tolist() == [7, *range(50_000), 3]


@pytest.mark.parametrize("n_matches", [1, 2, 62, 63, 64, 65, 66, 127, 128, 129, 1000])
def test_any_number_of_matches_comes_sorted_and_once(make: MakeMatcher, n_matches: int) -> None:
    words = [f"w{i}" for i in range(n_matches)]
    text = " ".join(words[::-1] + words + words[: n_matches // 2])
    many_times = " ".join(words[::-1] * (1 + 300 // n_matches))
    found = make(strings(words)).match(strings(["", text, "w0 w0", many_times, text]))
    all_ids = list(range(n_matches))
    assert as_lists(found) == [[], all_ids, [0], all_ids, all_ids]


def test_nested_prefixes(make: MakeMatcher) -> None:
    """`a`, `a a`, `a a a`, ... 512 tokens deep: every token of the text is within 512 entries at once."""
    nested = [" ".join("a" * n) for n in range(1, 513)]
    texts = [nested[-1], nested[99], " ".join("a" * 1500), nested[510] + " b " + nested[3]]
    ids = [[*range(512)], [*range(100)], [*range(512)], [*range(511)]]
    assert as_lists(make(strings(nested)).match(strings(texts))) == ids


def test_nested_blanks(make: MakeMatcher) -> None:
    nested = [" " * n for n in range(1, 1025)]
    texts = ["", " ", " " * 1022, " " * 1023, " " * 3000]
    # A spaced text has two spaces more than its text, and so has what is looked for in it.
    assert [len(found) for found in as_lists(make(strings(nested)).match(strings(texts)))] == [0, 1, 1022, 1023, 1024]


def test_entries_that_begin_alike(make: MakeMatcher) -> None:
    entries = ["a b c", "a b", "b c d", "b", "c d e", "a b x", "a", "x y"]
    texts = ["a b c d e", "a b c", "a b d", "a b a b c", "b c d e", "a b x y", "a b, c d e"]
    assert as_lists(make(strings(entries)).match(strings(texts))) == by_definition(entries, texts)


def test_a_matcher_can_be_used_again(make: MakeMatcher) -> None:
    matcher = make(strings(["a", "b", "a b"]))
    texts = strings(["a b", "b a", "a"])
    assert as_lists(matcher.match(texts)) == as_lists(matcher.match(texts)) == [[0, 1, 2], [0, 1], [0]]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_the_matchers_agree_on_random_words(seed: int) -> None:
    random = np.random.default_rng(seed)
    words = [f"{word:x}" * (1 + word % 5) for word in random.integers(0, 2**20, 200)]
    entries = sorted({" ".join(random.choice(words, random.integers(1, 4))) for _ in range(300)} | set(words[:100]))
    texts = [" ".join(random.choice(words, random.integers(0, 60))) for _ in range(100)]
    trie, automaton = make_matcher("trie", strings(entries)), make_matcher("automaton", strings(entries))
    assert as_lists(trie.match(strings(texts))) == as_lists(automaton.match(strings(texts)))


def test_the_matchers_agree_on_real_captions() -> None:
    texts = captions()
    assert len(texts) == 25_833
    entries = strings(golden_entries())
    trie, automaton = TrieMatcher(entries).match(strings(texts)), AutomatonMatcher(entries).match(strings(texts))
    assert len(trie) == len(automaton) == 25_833
    assert len(trie.entry_ids) > 25_833
    np.testing.assert_array_equal(trie.offsets, automaton.offsets)
    np.testing.assert_array_equal(trie.entry_ids, automaton.entry_ids)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (pa.array(["a", "b", "a"]), "rows 0 and 2"),
        (pa.array(["a", ""]), "row 1 is empty"),
        (pa.array(["a", None]), "1 null"),
        (pa.array([1, 2]), "not int64"),
        (["a"], "not list"),
    ],
)
def test_entries_that_are_refused(make: MakeMatcher, entries: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(entries)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (pa.array(["a", None]), "1 null"),
        (pa.array([b"a"]), "not binary"),
        (pa.array(["a"]).dictionary_encode(), "not dictionary"),
        (pa.chunked_array([["a"]]), "not string|not .*Chunked"),
        ("a", "not str"),
    ],
)
def test_texts_that_are_refused(make: MakeMatcher, texts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(strings(["a"])).match(texts)


def test_a_matcher_is_made_by_name() -> None:
    assert isinstance(make_matcher("trie", strings(["a"])), TrieMatcher)
    assert isinstance(make_matcher("automaton", strings(["a"])), AutomatonMatcher)
    with pytest.raises(ValueError, match="trie and automaton"):
        make_matcher("tree", strings(["a"]))  # type: ignore[arg-type]
