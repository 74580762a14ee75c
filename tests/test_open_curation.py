"""Settings against the table that is there: what was given must agree with it, what was not is taken from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import ENTRIES, crawl, write_csv, write_metadata
from structlog.testing import capture_logs

from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.curate import Ending
from stream_curate.draws import seed_fingerprint
from stream_curate.errors import ConfigError, OutputError
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.open_curation import open_curation
from stream_curate.settings import load_settings
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.table.view import TableView

SEED = 123_456_789


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("THRESHOLD", "SEED", "SEED_FILE", "METADATA", "COUNTER", "DEDUP"):
        monkeypatch.delenv(f"STREAM_CURATE_{key}", raising=False)


@pytest.fixture
def metadata_file(tmp_path: Path) -> Path:
    return write_metadata(tmp_path / "entries.txt")


@pytest.fixture
def table(tmp_path: Path, metadata_file: Path) -> Path:
    """A table at t=10 with a sketch of 2 x 64 cells, and nothing kept."""
    out = tmp_path / "t"
    curate(out, tmp_path, metadata=metadata_file, threshold=10, seed=str(SEED), count_min=SIZES)
    return out


SIZES = {"num_hashes": 2, "num_buckets": 64}


def curate(out: Path, folder: Path, n_pairs: int = 100, **flags: Any) -> Ending:
    """Curate the first pairs of the crawl, with these settings and no others."""
    source = write_csv(folder / f"crawl-{n_pairs}.csv", crawl(n_pairs))
    curation = open_curation(out, load_settings(None, flags))
    try:
        return curation.run(open_sources([str(source)], ColumnChoice()))
    finally:
        curation.table.close()


@pytest.fixture
def conflicts(tmp_path: Path) -> Callable[[str], tuple[dict[str, Any], list[str]]]:
    """Settings that contradict the table, and what the refusal must name: the table's and what was given."""
    other = write_metadata(tmp_path / "other.txt", [*ENTRIES, "one more"])
    ours, theirs = (Metadata.from_entries(entries).fingerprint for entries in (ENTRIES, [*ENTRIES, "one more"]))
    fingerprint = seed_fingerprint(SEED)
    known: dict[str, tuple[dict[str, Any], list[str]]] = {
        "metadata": ({"metadata": other}, [f"metadata: the table has {ours}, given was {theirs}"]),
        "counter": ({"counter": "exact"}, ["counter: the table has count-min, given was exact"]),
        "sketch_size": (
            {"count_min": {"num_buckets": 128}},
            ["count_min.num_buckets: the table has 64, given was 128"],
        ),
        "sketch_rows": ({"count_min": {"num_hashes": 3}}, ["count_min.num_hashes: the table has 2, given was 3"]),
        "dedup": ({"dedup": "none"}, ["dedup: the table has exact, given was none"]),
        "keep_columns": ({"keep_columns": "lang,size"}, ["keep_columns: the table has none, given was lang,size"]),
        "seed": (
            {"seed": "987654321"},
            [
                f"seed: the table has one with fingerprint {fingerprint}, given was one with fingerprint ",
                seed_fingerprint(987_654_321),
            ],
        ),
        "no_seed": ({"seed": None}, [f"the table has one with fingerprint {fingerprint}, no seed was given"]),
        "threshold": ({"threshold": 11}, ["curated with threshold 10, which cannot be raised to 11"]),
    }
    return known.__getitem__


@pytest.mark.parametrize(
    "name",
    ["metadata", "counter", "sketch_size", "sketch_rows", "dedup", "keep_columns", "seed", "no_seed", "threshold"],
)
def test_a_setting_that_contradicts_the_table_is_refused_naming_both(
    table: Path, tmp_path: Path, conflicts: Callable[[str], tuple[dict[str, Any], list[str]]], name: str
) -> None:
    flags, words = conflicts(name)
    before = TableView(table).digest()
    with pytest.raises(ConfigError) as refusal:
        curate(table, tmp_path, **({"seed": str(SEED)} | flags))
    for piece in words:
        assert piece in str(refusal.value)
    assert str(SEED) not in str(refusal.value)
    assert "987654321" not in str(refusal.value)
    assert TableView(table).digest() == before
    assert curate(table, tmp_path, seed=str(SEED)) is Ending.DONE, "the refusal has not let go of the lock"


def test_all_contradictions_are_named_at_once(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        curate(table, tmp_path, seed="1", dedup="none", counter="exact")
    lines = str(refusal.value).split("\n")
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == ["counter", "dedup", "seed"]


def test_what_is_not_given_is_the_tables_own(table: Path, tmp_path: Path) -> None:
    curate(table, tmp_path, n_pairs=300, seed=str(SEED))
    rule = TableView(table).rule
    assert (rule.threshold, rule.dedup, rule.counter) == (10, "exact", Counter("count-min", 2, 64))
    assert rule.metadata_sha256 == Metadata.from_entries(ENTRIES).fingerprint


def test_what_is_given_as_the_table_has_it_is_no_contradiction(
    table: Path, tmp_path: Path, metadata_file: Path
) -> None:
    flags = {"threshold": 10, "counter": "count-min", "count_min": SIZES, "dedup": "exact", "keep_columns": ()}
    assert curate(table, tmp_path, seed=hex(SEED), metadata=metadata_file, **flags) is Ending.DONE


def test_the_list_of_entries_is_needed_only_once(table: Path, tmp_path: Path, metadata_file: Path) -> None:
    metadata_file.unlink()
    assert curate(table, tmp_path, n_pairs=200, seed=str(SEED)) is Ending.DONE


def test_sizes_of_a_sketch_mean_nothing_to_exact_counts(tmp_path: Path, metadata_file: Path) -> None:
    out = tmp_path / "t"
    curate(out, tmp_path, metadata=metadata_file, counter="exact")
    assert curate(out, tmp_path, n_pairs=200, count_min={"num_buckets": 99}) is Ending.DONE


def test_a_lower_threshold_is_taken_and_stays(table: Path, tmp_path: Path) -> None:
    curate(table, tmp_path, seed=str(SEED), threshold=4)
    assert TableView(table).settled.threshold == 4
    curate(table, tmp_path, n_pairs=200, seed=str(SEED))
    assert TableView(table).rule.threshold == 4
    with pytest.raises(ConfigError, match="threshold 4, which cannot be raised to 5"):
        curate(table, tmp_path, seed=str(SEED), threshold=5)


def test_a_threshold_below_1_is_refused(tmp_path: Path, metadata_file: Path) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        curate(tmp_path / "t", tmp_path, metadata=metadata_file, threshold=0)
    assert not (tmp_path / "t").exists()


def test_the_public_seed_is_warned_of_and_a_given_one_is_not(tmp_path: Path, metadata_file: Path) -> None:
    with capture_logs() as logs:
        curate(tmp_path / "public", tmp_path, metadata=metadata_file)
    assert [line["log_level"] for line in logs if "seed is the public default" in line["event"]] == ["warning"]
    with capture_logs() as logs:
        curate(tmp_path / "secret", tmp_path, metadata=metadata_file, seed=str(SEED))
    assert not [line for line in logs if "seed" in line["event"]]
    assert TableView(tmp_path / "public").rule.seed_fingerprint == seed_fingerprint(0)


def test_a_seed_comes_from_a_file_too(table: Path, tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(f"{SEED}\n")
    assert curate(table, tmp_path, seed_file=tmp_path / "seed") is Ending.DONE


@pytest.mark.parametrize(
    ("content", "words"), [("dog", "not a number"), ("-1", "out of range"), (str(2**128), "out of range")]
)
def test_a_bad_seed_is_refused_without_repeating_it(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "seed").write_text(content)
    for flags in ({"seed": content}, {"seed_file": tmp_path / "seed"}):
        with pytest.raises(ConfigError, match=words) as refusal:
            curate(tmp_path / "t", tmp_path, **flags)
        assert content not in str(refusal.value).replace("2^128", "").replace("0x", "").replace("dogs", "") or (
            content == "-1"
        )
    assert not (tmp_path / "t").exists()


def test_a_seed_given_twice_or_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both seed and seed_file"):
        curate(tmp_path / "t", tmp_path, seed="1", seed_file=tmp_path / "seed")
    with pytest.raises(ConfigError, match=r"seed file .* cannot be read: No such file"):
        curate(tmp_path / "t", tmp_path, seed_file=tmp_path / "seed")


def test_the_seed_itself_lies_nowhere_in_the_table(table: Path, tmp_path: Path) -> None:
    little, big = SEED.to_bytes(16, "little"), SEED.to_bytes(16, "big")
    needles = [str(SEED).encode(), f"{SEED:x}".encode(), little[:8], big[-8:]]
    for path in table.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [needle for needle in needles if needle in content], path


def test_bad_metadata_makes_no_folder(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("dog\n\ndog\n")
    with pytest.raises(ConfigError, match=r"bad\.txt: 2 lines cannot be used as metadata"):
        curate(tmp_path / "t", tmp_path, metadata=tmp_path / "bad.txt")
    assert not (tmp_path / "t").exists()


def test_a_table_in_use_is_refused(table: Path, tmp_path: Path) -> None:
    first = open_curation(table, load_settings(None, {"seed": str(SEED)}))
    try:
        with pytest.raises(OutputError, match="in use"):
            curate(table, tmp_path, seed=str(SEED))
    finally:
        first.table.close()


class Crash(BaseException):
    """Stops a run as a power cut would."""


@pytest.fixture
def created_only(tmp_path: Path, metadata_file: Path) -> Path:
    """A table at t=10 whose first run was killed before anything was committed."""
    out = tmp_path / "t"

    def crash(step: str) -> None:
        if step == "create.made":
            raise Crash

    with pytest.raises(Crash), failpoints.listening(crash):
        curate(out, tmp_path, metadata=metadata_file, threshold=10, seed=str(SEED), counter="exact")
    return out


def test_a_table_without_a_commit_may_be_made_anew_with_another_rule(created_only: Path, tmp_path: Path) -> None:
    other = write_metadata(tmp_path / "other.txt", [*ENTRIES, "one more"])
    curate(created_only, tmp_path, metadata=other, threshold=20, seed="1", dedup="none", count_min=SIZES)
    rule = TableView(created_only).rule
    assert (rule.threshold, rule.dedup, rule.counter) == (20, "none", Counter("count-min", 2, 64))
    assert rule.seed_fingerprint == seed_fingerprint(1)
    assert rule.metadata_sha256 == Metadata.load(other).fingerprint


def test_the_threshold_of_the_first_commit_is_the_one_that_stays(created_only: Path, tmp_path: Path) -> None:
    """Nothing was dropped before the first commit, so a higher one may be refused or taken; but taken, it holds."""
    is_taken = False
    with suppress(ConfigError):
        curate(created_only, tmp_path, seed=str(SEED), threshold=20)
        is_taken = True
    curate(created_only, tmp_path, n_pairs=200, seed=str(SEED))
    assert TableView(created_only).rule.threshold == (20 if is_taken else 10)


# final decisions

FINAL = {"decisions": "final", "pool_size": "200", "horizon": "known", "threshold": 5, "seed": str(SEED)}


@pytest.fixture
def final_table(tmp_path: Path, metadata_file: Path) -> Path:
    """A table with final decisions at t=5 for 200 pairs."""
    out = tmp_path / "final"
    curate(out, tmp_path, metadata=metadata_file, **FINAL)
    return out


def test_a_table_with_final_decisions_goes_on_with_its_own(final_table: Path, tmp_path: Path) -> None:
    before = TableView(final_table).rule
    assert (before.final, before.counter) == (FinalDecisions(200, "known"), Counter("exact"))
    for n_pairs, flags in ((110, {}), (120, FINAL), (130, {"decisions": "final"}), (140, {"counter": "exact"})):
        curate(final_table, tmp_path, n_pairs, **({"seed": str(SEED)} | flags))
        assert TableView(final_table).rule == before
        assert TableView(final_table).state.numbers.n_unique == n_pairs


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"decisions": "provisional"}, "decisions: the table's are final, given was provisional"),
        ({"pool_size": "201"}, "pool_size: the table has 200, given was 201"),
        ({"horizon": "endless"}, "horizon: the table has known, given was endless"),
        ({"threshold": 4}, "threshold: the table has 5 for good, as its decisions are final; given was 4"),
        ({"threshold": 6}, "threshold: the table has 5 for good, as its decisions are final; given was 6"),
        ({"counter": "count-min"}, "counter: the table has exact, given was count-min"),
    ],
)
def test_what_contradicts_final_decisions_is_refused(
    final_table: Path, tmp_path: Path, flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match="was made with other settings") as error:
        curate(final_table, tmp_path, 110, **({"seed": str(SEED)} | flags))
    assert f"  {words}\n" in str(error.value)
    assert TableView(final_table).state.numbers.n_unique == 100


def test_another_version_of_the_rule_is_refused(
    final_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_curate.open_curation.FINAL_RULE_VERSION", 2)
    with pytest.raises(ConfigError, match="decisions: the table has version 1 of the rule, this program 2"):
        curate(final_table, tmp_path, 110, seed=str(SEED))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"decisions": "final"}, "decisions: the table's are provisional, given was final"),
        ({"pool_size": "200"}, "pool_size: the table's decisions are provisional, and take none"),
    ],
)
def test_a_provisional_table_never_becomes_final(
    table: Path, tmp_path: Path, flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        curate(table, tmp_path, 110, **({"seed": str(SEED)} | flags))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"decisions": "final"}, "final decisions need pool_size"),
        ({"pool_size": "200"}, "final decisions alone"),
        ({"decisions": "final", "pool_size": "200", "counter": "count-min"}, "final decisions need exact counts"),
    ],
)
def test_a_new_table_is_refused_what_does_not_fit(
    tmp_path: Path, metadata_file: Path, flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        curate(tmp_path / "new", tmp_path, metadata=metadata_file, seed=str(SEED), **flags)
    assert not (tmp_path / "new").exists()
