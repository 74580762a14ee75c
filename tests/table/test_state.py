"""A checkpoint's state: read back as it was, or refused so that the one before is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.checked_file import DamagedFile, read_checked, write_checked
from stream_curate.counting import Counter
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.table.append_file import Mark
from stream_curate.table.data_files import DataFile
from stream_curate.table.state import (
    Numbers,
    Settled,
    SourcePosition,
    State,
    counts_path,
    paths_of,
    paths_present,
    read_counts,
    read_settled_counts,
    read_state,
    settled_counts_path,
    state_path,
    write_counts,
    write_settled_counts,
    write_state,
)

N = st.integers(0, 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
COUNTERS = st.sampled_from([Counter("exact"), Counter("count-min"), Counter("count-min", 2, 16)])
RULES = st.builds(
    Rule,
    N,
    st.just("0123456789abcdef"),
    st.just("f" * 64),
    st.sampled_from(["exact", "none"]),
    COUNTERS,
    st.integers(1, 9),
    st.none() | st.builds(FinalDecisions, st.integers(1, 2**53), st.sampled_from(["known", "endless"])),
)
NUMBERS = st.builds(Numbers, N, N, N, N, N, N, st.dictionaries(NAMES, N, max_size=3))
STATES = st.builds(
    State,
    checkpoint=st.integers(0, 10**12 - 1),
    version=N,
    rule=RULES,
    numbers=NUMBERS,
    sources=st.lists(st.builds(SourcePosition, NAMES, st.none() | N, N, st.booleans()), max_size=3),
    seen=st.builds(Mark, N, NAMES),
    rejects=st.builds(Mark, N, NAMES),
    settled=st.none()
    | st.builds(Settled, N, N, N, N, N, N, st.dictionaries(NAMES, N, max_size=3), st.lists(NAMES, max_size=3)),
    files=st.lists(st.builds(DataFile, NAMES, N, N), max_size=3),
)


SETTLED = Settled(checkpoint=1, version=2, threshold=20, n_read=9, n_unique=8, n_curated=7, cut={"a": 9}, files=["f"])


def state_of(checkpoint: int, **other: Any) -> State:
    metadata = Metadata.from_entries(["dog"])
    rule = Rule.of(metadata, threshold=20, seed=7, counter=Counter("exact"), dedup="exact")
    state = State(
        checkpoint=checkpoint,
        version=checkpoint + 1,
        rule=rule,
        numbers=Numbers(),
        sources=[],
        seen=Mark(),
        rejects=Mark(),
        settled=None,
    )
    return replace(state, **other)


@given(state=STATES)
def test_a_state_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, state: State) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_state(folder, state)

    assert read_state(folder, state.checkpoint) == state
    state_path(folder, state.checkpoint).unlink()


def test_the_counter_is_read_back_as_it_was(tmp_path: Path) -> None:
    for checkpoint, counts in ((1, b""), (2, bytes(range(256)))):
        write_counts(tmp_path, checkpoint, counts)
        assert read_counts(tmp_path, checkpoint) == counts
    assert read_counts(tmp_path, 1) == b""


def test_large_counters_are_packed_and_those_written_unpacked_before_are_still_read(tmp_path: Path) -> None:
    sketch = np.zeros(100_000)
    sketch[::50] = 7.0
    write_counts(tmp_path, 1, sketch.tobytes())
    assert read_counts(tmp_path, 1) == sketch.tobytes()
    assert counts_path(tmp_path, 1).stat().st_size < sketch.nbytes // 10

    write_checked(counts_path(tmp_path, 2), {"checkpoint": 2}, sketch.tobytes())
    assert read_counts(tmp_path, 2) == sketch.tobytes()

    write_settled_counts(tmp_path, 3, sketch.astype(np.int64))
    assert read_settled_counts(tmp_path, 3).tolist() == sketch.astype(np.int64).tolist()
    assert settled_counts_path(tmp_path, 3).stat().st_size < sketch.nbytes // 10


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_format_version_is_refused_naming_both(tmp_path: Path, version: Any) -> None:
    write_checked(state_path(tmp_path, 1), state_of(1).as_dict() | {"format_version": version})

    with pytest.raises(DamagedFile, match=f"the state is of format version {version}; this program reads version 1"):
        read_state(tmp_path, 1)


KINDS = [
    pytest.param(state_path, lambda folder, n: write_state(folder, state_of(n)), read_state, id="state"),
    pytest.param(counts_path, lambda folder, n: write_counts(folder, n, b"counts"), read_counts, id="counts"),
    pytest.param(
        settled_counts_path,
        lambda folder, n: write_settled_counts(folder, n, np.arange(5)),
        read_settled_counts,
        id="settled",
    ),
]


@pytest.mark.parametrize(("path_of", "write", "read"), KINDS)
def test_what_is_missing_or_changed_is_damaged_in_words(tmp_path: Path, path_of: Any, write: Any, read: Any) -> None:
    """And the one of the checkpoint before is there still."""
    path = path_of(tmp_path, 2)
    with pytest.raises(DamagedFile, match=f"{path.name} is missing"):
        read(tmp_path, 2)
    for checkpoint in (1, 2):
        write(tmp_path, checkpoint)
    data = path.read_bytes()
    for wrong in (data[:-1], data[:20], b"", data[:-20] + b"\x7f" + data[-19:]):
        path.write_bytes(wrong)
        with pytest.raises(DamagedFile, match=path.name):
            read(tmp_path, 2)
    read(tmp_path, 1)


def test_the_seed_is_not_in_the_file(tmp_path: Path) -> None:
    seed = 0xDEAD_BEEF_0BAD_F00D_CAFE_BABE
    rule = Rule.of(Metadata.from_entries(["dog"]), threshold=20, seed=seed, counter=Counter("exact"), dedup="exact")
    write_state(tmp_path, state_of(1, rule=rule))

    data = state_path(tmp_path, 1).read_bytes()
    for shape in (str(seed).encode(), f"{seed:x}".encode(), seed.to_bytes(12, "little"), seed.to_bytes(12, "big")):
        assert shape not in data.lower()
    assert rule.seed_fingerprint.encode() in data


# --- counts at a settled cut


def test_settled_counts_are_read_back_as_they_were(tmp_path: Path) -> None:
    counts = np.array([0, 1, 2**53, 7], np.int64)
    write_settled_counts(tmp_path, 4, counts)

    found = read_settled_counts(tmp_path, 4)

    assert found.dtype == np.int64
    assert found.tolist() == counts.tolist()
    assert read_checked(settled_counts_path(tmp_path, 4))[0] == {"checkpoint": 4}


# --- cleaning up


def test_the_files_of_states_and_all_others_are_told_apart(tmp_path: Path) -> None:
    """A state can go with the settled counts of an earlier checkpoint and another writer: these belong to it too."""
    for checkpoint in range(6):
        write_state(tmp_path, state_of(checkpoint))
        write_counts(tmp_path, checkpoint, b"counts")
        write_settled_counts(tmp_path, checkpoint, np.arange(2))
    written = [state_path(tmp_path, 5), counts_path(tmp_path, 5), settled_counts_path(tmp_path, 5)]
    others = [tmp_path / "rejects.jsonl", tmp_path / "identity.json"]
    for path in (*others, *(path.with_name(path.name + ".draft") for path in written)):
        path.write_bytes(b"x")

    wanted = paths_of(tmp_path, [state_of(4, settled=SETTLED), None, state_of(5, settled=None)])

    left = {state_path(tmp_path, 4), state_path(tmp_path, 5), counts_path(tmp_path, 4), counts_path(tmp_path, 5)}
    assert wanted == {*left, settled_counts_path(tmp_path, 1)}
    assert sorted(paths_present(tmp_path)) == sorted(set(tmp_path.iterdir()) - set(others))
    by_others = paths_of(tmp_path, [state_of(4, settled=replace(SETTLED, writer=2), writer=3)])
    assert by_others == {
        state_path(tmp_path, 4, 3),
        counts_path(tmp_path, 4, 3),
        settled_counts_path(tmp_path, 1, 2),
    }
    assert not by_others & wanted


def test_names_sort_as_numbers_do(tmp_path: Path) -> None:
    """The newest state is found by its name."""
    numbers = [0, 9, 10, 99, 100, 10**11]

    assert sorted(state_path(tmp_path, n) for n in reversed(numbers)) == [state_path(tmp_path, n) for n in numbers]


# --- numbers


@given(NUMBERS)
def test_numbers_add_up(numbers: Numbers) -> None:
    """Every record is unique, a duplicate or rejected; what is in the table was admitted and not evicted."""
    assert numbers.n_read == numbers.n_unique + numbers.n_duplicate + sum(numbers.rejected.values())
    assert numbers.n_rejected == sum(numbers.rejected.values())
    assert numbers.n_in_table == numbers.n_admitted - numbers.n_evicted
    assert sum(numbers.dropped.values()) == numbers.n_unique - numbers.n_admitted + numbers.n_duplicate
