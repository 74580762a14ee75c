"""A settled table held against the plain reference: what must be found, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rig import MemorySource, Setup, small_stream

from stream_curate.counting import Counter
from stream_curate.errors import ConfigError, InputError, UsageError
from stream_curate.stop import StopRequest
from stream_curate.table.view import TableView
from stream_curate.verify import N_DIFFERENCES, Verification, verify

SEED = 7
SETUP = Setup(small_stream(200))

Rows = list[dict[str, Any]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    SETUP.run(tmp_path / "t")
    return tmp_path / "t"


def verified(out: Path, sources: list[MemorySource] | None = None) -> Verification:
    return verify(TableView(out), SETUP.sources if sources is None else sources, SEED)


def tamper(out: Path, change: Callable[[Rows], None]) -> None:
    """Change the rows of the settled table behind its back; they end up in its first data file."""
    names = TableView(out).settled.files
    tables = [pq.read_table(out / name) for name in names]
    rows = [row for table in tables for row in table.to_pylist()]
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, tables[0].schema), out / names[0])
    for name in names[1:]:
        pq.write_table(tables[0].schema.empty_table(), out / name)


@pytest.mark.parametrize("counter", [Counter("exact"), Counter("count-min", 2, 16)], ids=["exact", "count-min"])
@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_a_table_that_was_left_alone_is_equal(tmp_path: Path, counter: Counter, dedup: Any) -> None:
    setup = replace(SETUP, counter=counter, dedup=dedup)
    setup.run(tmp_path / "t")
    result = verified(tmp_path / "t")
    assert result.is_equal
    assert (result.n_differences, result.differences) == (0, [])
    assert result.digest_table == result.digest_offline == setup.offline_digest()
    assert result.n_table == result.n_offline == TableView(tmp_path / "t").settled.n_curated
    assert result.as_dict()["equal"] is True


def test_with_exact_counts_the_distance_from_exact_counts_is_0(out: Path) -> None:
    result = verified(out)
    assert (result.tv_from_exact, result.n_offline_exact) == (0.0, result.n_offline)


def test_a_sketch_that_is_far_too_small_is_equal_to_itself_and_far_from_exact_counts(tmp_path: Path) -> None:
    replace(SETUP, counter=Counter("count-min", 1, 3)).run(tmp_path / "t")
    result = verified(tmp_path / "t")
    assert result.is_equal
    assert result.tv_from_exact > 0.01
    assert result.n_offline_exact > result.n_offline


def drop_a_row(rows: Rows) -> None:
    rows.pop(3)


def repeat_a_row(rows: Rows) -> None:
    rows.append(rows[3])


def swap_entry_ids(rows: Rows) -> None:
    other = next(row for row in rows if row["entry_ids"] != rows[0]["entry_ids"])
    rows[0]["entry_ids"], other["entry_ids"] = other["entry_ids"], rows[0]["entry_ids"]


def change_a_text(rows: Rows) -> None:
    rows[3]["text"] += " "


def change_a_url(rows: Rows) -> None:
    rows[3]["url"] = "http://evil.org/"


def add_a_row(rows: Rows) -> None:
    rows.append(rows[3] | {"pair_id": bytes(16)})


def no_rows(rows: Rows) -> None:
    rows.clear()


@pytest.mark.parametrize(
    ("change", "words", "n_differences"),
    [
        (drop_a_row, ["is kept by offline, and not in the table"], 1),
        (repeat_a_row, ["stands in the table twice"], 1),
        (swap_entry_ids, ["has entry_ids [", "offline ["], 2),
        (change_a_text, ["is not the pair_id of its url and text"], 1),
        (change_a_url, ["is not the pair_id of its url and text"], 1),
        (add_a_row, [f"{bytes(16).hex()} is in the table, and offline does not keep it"], 1),
    ],
)
def test_whatever_is_changed_in_the_table_is_found(
    out: Path, change: Callable[[Rows], None], words: list[str], n_differences: int
) -> None:
    tamper(out, change)
    result = verified(out)
    assert not result.is_equal
    assert result.n_differences == len(result.differences) == n_differences
    assert all(word in difference for word in words for difference in result.differences)


def test_a_lost_table_is_told_by_its_first_differences_and_their_number(out: Path) -> None:
    n_curated = TableView(out).settled.n_curated
    tamper(out, no_rows)
    result = verified(out)
    assert result.n_differences == n_curated > N_DIFFERENCES
    assert len(result.differences) == N_DIFFERENCES
    assert result.n_table == 0


def test_only_what_lies_below_the_cut_counts(out: Path) -> None:
    one, two = SETUP.sources
    more = MemorySource("memory:three", two.rows)
    assert verified(out, [one, replace(two, rows=two.rows + one.rows), more]).is_equal


def test_the_sources_may_come_in_any_order(out: Path) -> None:
    assert verified(out, SETUP.sources[::-1]).is_equal


def test_a_table_with_rows_that_are_pending_is_verified_at_its_settled_cut(tmp_path: Path) -> None:
    out = tmp_path / "t"
    Setup(SETUP.sources[:1]).run(out)
    curation = replace(SETUP, pace=replace(SETUP.pace, settle_growth=10)).open(out)
    stop = StopRequest()
    curation.run(SETUP.sources, stop=stop, on_batch=lambda source, numbers: numbers.n_read > 150 and stop.request())
    curation.table.close()
    assert TableView(out).n_pending > 0
    assert verified(out).is_equal


def test_a_source_that_is_missing_is_asked_for(out: Path) -> None:
    with pytest.raises(UsageError, match="memory:two is needed too, with its first 100 rows"):
        verified(out, SETUP.sources[:1])


def test_a_source_that_was_cut_is_refused_in_words(out: Path) -> None:
    one, two = SETUP.sources
    with pytest.raises(InputError, match="memory:two has 60 rows where 100 were read before: it was cut or replaced"):
        verified(out, [one, replace(two, rows=two.rows[:60])])


def test_a_source_that_was_replaced_gives_differences(out: Path) -> None:
    """As many rows as before, but one pair is another, with an entry that is kept whole."""
    one, two = SETUP.sources
    result = verified(out, [one, replace(two, rows=[(b"http://new.org/", b"a blue cat"), *two.rows[1:]])])
    assert any("is kept by offline, and not in the table" in difference for difference in result.differences)


def test_the_numbers_are_compared_too(tmp_path: Path) -> None:
    """A pair that no entry matches is never kept: only the number of unique pairs can tell that it has gone."""
    rows = [(b"http://x.org/1", b"a dog"), (b"http://x.org/2", b"nothing"), (b"http://x.org/3", b"a cat")]
    setup = Setup([MemorySource("memory:one", rows)])  # type: ignore[list-item]
    setup.run(tmp_path / "t")
    assert verified(tmp_path / "t", setup.sources).is_equal
    replaced = MemorySource("memory:one", [rows[0], rows[0], rows[2]])  # type: ignore[list-item]
    result = verified(tmp_path / "t", [replaced])
    assert result.differences == ["the table counted 3 unique pairs, offline 2"]
    assert result.digest_table == result.digest_offline


def test_another_seed_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError, match="fingerprint"):
        verify(TableView(out), SETUP.sources, SEED + 1)


def test_a_table_that_was_never_settled_is_refused(tmp_path: Path) -> None:
    curation = SETUP.open(tmp_path / "t")
    stop = StopRequest()
    stop.request()
    curation.run(SETUP.sources, stop=stop)
    curation.table.close()
    with pytest.raises(ConfigError, match="not been settled yet"):
        verified(tmp_path / "t")
