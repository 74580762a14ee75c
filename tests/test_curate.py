"""Whole runs of a curation: whatever way the stream is cut, stopped or repeated, the table equals offline."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from command_line import GOLDEN_METADATA, N_SHARD_ROWS, SHARDS
from rig import MemorySource, Setup, small_stream, table_digest

from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.curate import Curation, Ending, Pace
from stream_curate.curator import Curator
from stream_curate.errors import ConfigError, InputError
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, records_of
from stream_curate.pairs import Records
from stream_curate.rule import Dedup
from stream_curate.sources import ColumnChoice, Source, open_sources
from stream_curate.stop import StopRequest
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import Identity
from stream_curate.table.state import Numbers
from stream_curate.table.view import TableView
from stream_curate.verify import verify

THRESHOLD = 20
SEED = 7
EXACT = Counter("exact")
SKETCH = Counter("count-min")
THREADS = pytest.mark.parametrize("threads", [1, 3], ids=["one-thread", "threads"])
COUNTERS = pytest.mark.parametrize("counter", [EXACT, SKETCH], ids=["exact", "count-min"])


@pytest.fixture(scope="module")
def metadata() -> Metadata:
    return Metadata.load(GOLDEN_METADATA)


@pytest.fixture(scope="module")
def pool(metadata: Metadata) -> OfflinePool:
    return OfflinePool.read(records_of(opened(SHARDS)), metadata)


@pytest.fixture(scope="module")
def expected(pool: OfflinePool) -> dict[str, str]:
    """The digests of the shards by the plain reference, by kind of counter."""
    return {counter.kind: offline_digest(pool, counter) for counter in (EXACT, SKETCH)}


def opened(*paths: Path) -> list[Source]:
    return open_sources([str(path) for path in paths], ColumnChoice(headerless=("caption", "url")))


def offline_digest(pool: OfflinePool, counter: Counter = EXACT, threshold: int = THRESHOLD) -> str:
    kept = pool.kept(pool.entry_counts(counter), threshold, SEED)
    return digest(pool.pair_ids[index] for index in kept)


@dataclass(frozen=True)
class Runs:
    """Runs into one folder."""

    out: Path
    metadata: Metadata
    counter: Counter = EXACT
    threshold: int = THRESHOLD
    dedup: Dedup = "exact"
    pace: Pace = field(default_factory=Pace)

    def open(self) -> Curation:
        curator = Curator(self.metadata, threshold=self.threshold, seed=SEED, counter=self.counter, dedup=self.dedup)
        table = CuratedTable.open(self.out, Identity(curator.rule, ()), self.metadata)
        return Curation(curator, table, self.pace)

    def run(self, sources: Sequence[Source], stop_after: int | None = None) -> Curation:
        """Curate, to the end or up to a stop after so many batches; the curation that comes back is closed."""
        curation = self.open()
        stop = StopRequest()
        n_batches = 0

        def count(source: Source, numbers: Numbers) -> None:
            nonlocal n_batches
            n_batches += 1
            assert numbers.n_read == numbers.n_unique + numbers.n_duplicate + numbers.n_rejected
            if n_batches == stop_after:
                stop.request()

        try:
            ending = curation.run(sources, stop=stop, on_batch=count)
        finally:
            curation.table.close()
        was_stopped = stop_after is not None and n_batches >= stop_after
        assert ending is (Ending.INTERRUPTED if was_stopped else Ending.DONE)
        return curation

    @property
    def digest(self) -> str:
        return table_digest(self.out)


# the shards: 25,833 rows in three formats, one of them invalid


@THREADS
@COUNTERS
@pytest.mark.parametrize("batch_size", [pytest.param(7, marks=pytest.mark.slow), 1_000, 65_536])
def test_the_shards_give_what_offline_gives_at_any_batch_size(
    tmp_path: Path, metadata: Metadata, expected: dict[str, str], counter: Counter, batch_size: int, threads: int
) -> None:
    runs = Runs(tmp_path / "t", metadata, counter, pace=Pace(batch_size, threads=threads))
    numbers = runs.run(opened(SHARDS)).numbers
    assert runs.digest == expected[counter.kind]
    assert (numbers.n_read, numbers.n_unique, numbers.n_duplicate) == (N_SHARD_ROWS, N_SHARD_ROWS - 1, 0)
    assert numbers.rejected == {"url_scheme": 1}


@pytest.mark.parametrize("counter", [EXACT, Counter("count-min", 2, 256)], ids=["exact", "count-min"])
def test_pairs_that_come_one_by_one_give_what_offline_gives(
    tmp_path: Path, metadata: Metadata, counter: Counter
) -> None:
    with open(SHARDS / "gcc-validation.tsv", "rb") as file:
        (tmp_path / "slice.tsv").write_bytes(b"".join(next(file) for _ in range(1_500)))
    sources = opened(tmp_path / "slice.tsv")
    runs = Runs(tmp_path / "t", metadata, counter, threshold=5, pace=Pace(1, first_settle=500))
    runs.run(sources)
    pool = OfflinePool.read(records_of(sources), metadata)
    assert runs.digest == offline_digest(pool, counter, 5)
    assert TableView(runs.out).settled.n_curated < pool.n_matched


@COUNTERS
def test_the_order_of_the_files_changes_nothing(
    tmp_path: Path, metadata: Metadata, expected: dict[str, str], counter: Counter
) -> None:
    runs = Runs(tmp_path / "t", metadata, counter, pace=Pace(5_000))
    runs.run(opened(SHARDS)[::-1])
    assert runs.digest == expected[counter.kind]


@COUNTERS
def test_a_copy_under_another_name_is_all_duplicates(
    tmp_path: Path, metadata: Metadata, expected: dict[str, str], counter: Counter
) -> None:
    shutil.copytree(SHARDS, tmp_path / "copy")
    runs = Runs(tmp_path / "t", metadata, counter)
    numbers = runs.run(opened(SHARDS, tmp_path / "copy")).numbers
    assert runs.digest == expected[counter.kind]
    assert (numbers.n_unique, numbers.n_duplicate) == (N_SHARD_ROWS - 1, N_SHARD_ROWS - 1)
    assert numbers.rejected == {"url_scheme": 2}


def test_a_sketch_of_the_default_size_is_near_exact_counts(tmp_path: Path, metadata: Metadata) -> None:
    runs = Runs(tmp_path / "t", metadata, SKETCH)
    runs.run(opened(SHARDS))
    result = verify(TableView(runs.out), opened(SHARDS), SEED)
    assert result.is_equal
    assert result.tv_from_exact < 0.001


def test_sources_that_come_later_continue_the_stream(tmp_path: Path, metadata: Metadata) -> None:
    runs = Runs(tmp_path / "t", metadata)
    read: list[Source] = []
    for source in opened(SHARDS):
        read.append(source)
        curation = runs.run(read)
        assert curation.finished_before == [earlier.name for earlier in read[:-1]]
        assert runs.digest == offline_digest(OfflinePool.read(records_of(read), metadata))
    assert curation.numbers.n_read == N_SHARD_ROWS


@THREADS
@COUNTERS
def test_a_run_stopped_again_and_again_goes_on_inside_the_files(
    tmp_path: Path, metadata: Metadata, expected: dict[str, str], counter: Counter, threads: int
) -> None:
    runs = Runs(tmp_path / "t", metadata, counter, pace=Pace(300, threads=threads))
    n_read = [runs.run(opened(SHARDS), stop_after=4).numbers.n_read for _ in range(5)]
    assert n_read == sorted(set(n_read)), "each run begins where the one before it was stopped"
    assert n_read[-1] < N_SHARD_ROWS
    assert runs.run(opened(SHARDS)).numbers.n_read == N_SHARD_ROWS
    assert runs.digest == expected[counter.kind]


def test_without_dedup_the_table_is_what_offline_gives_for_all_records(tmp_path: Path, metadata: Metadata) -> None:
    tsv = SHARDS / "gcc-validation.tsv"
    shutil.copy(tsv, tmp_path / "copy.tsv")
    sources = opened(tsv, tmp_path / "copy.tsv")
    runs = Runs(tmp_path / "t", metadata, dedup="none")
    numbers = runs.run(sources).numbers
    pool = OfflinePool.read(records_of(sources), metadata, "none")
    assert numbers.n_duplicate == 0
    assert numbers.n_unique == len(pool) == 20_000
    assert runs.digest == offline_digest(pool)
    view = TableView(runs.out)
    assert view.settled.n_curated == len({*_pair_ids(view)})


def test_a_threshold_lowered_midway_gives_what_offline_gives_at_the_lower_one(
    tmp_path: Path, metadata: Metadata, pool: OfflinePool
) -> None:
    runs = Runs(tmp_path / "t", metadata, pace=Pace(2_000))
    runs.run(opened(SHARDS), stop_after=5)
    lower = replace(runs, threshold=6).open()
    lower.curator.lower_threshold(6)
    assert lower.run(opened(SHARDS)) is Ending.DONE
    lower.table.close()
    assert runs.digest == offline_digest(pool, threshold=6)
    assert TableView(runs.out).settled.threshold == 6


def _pair_ids(view: TableView) -> Iterator[bytes]:
    for batch in view.read_settled(["pair_id"]):
        yield from batch.column("pair_id").to_pylist()


# sources


@dataclass(frozen=True)
class BrokenSource(MemorySource):
    """Cannot be read beyond `n_good` rows."""

    n_good: int = 0

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        good = replace(self, rows=self.rows[: self.n_good])
        yield from MemorySource.read(good, first_row, batch_size)
        raise InputError(f"{self.name}: cut short")

    @property
    def size(self) -> int:
        return 100


def run_small(
    out: Path, sources: Sequence[Source], *, skip_bad_files: bool = False, dedup: Dedup = "exact", threads: int = 1
) -> Curation:
    setup = Setup([], dedup=dedup)
    curation = replace(setup, pace=replace(setup.pace, threads=threads)).open(out)
    try:
        assert curation.run(sources, skip_bad_files=skip_bad_files) is Ending.DONE
    finally:
        curation.table.close()
    return curation


def positions_in(out: Path) -> list[tuple[str, int, bool]]:
    """Of each source of a table: its URI, the rows read, and whether that is all."""
    return [(source.uri, source.n_rows, source.finished) for source in TableView(out).state.sources]


def test_a_source_whose_size_changed_is_refused_naming_both(tmp_path: Path) -> None:
    one, two = small_stream()
    run_small(tmp_path / "t", [one])
    with pytest.raises(ConfigError, match=r"memory:one was 50 bytes long .* and is 49 now"):
        run_small(tmp_path / "t", [replace(one, rows=one.rows[1:]), two])
    run_small(tmp_path / "t", [one, two])
    assert table_digest(tmp_path / "t") == Setup([one, two]).offline_digest()


def test_a_changed_size_of_any_source_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    one, two = small_stream()
    run_small(tmp_path / "t", [two])
    before = TableView(tmp_path / "t").state
    with pytest.raises(ConfigError, match=r"memory:two was 50 bytes long .* and is 49 now"):
        run_small(tmp_path / "t", [one, replace(two, rows=two.rows[1:])])
    assert TableView(tmp_path / "t").state == before
    run_small(tmp_path / "t", [one, two])
    assert table_digest(tmp_path / "t") == Setup([one, two]).offline_digest()


@pytest.mark.parametrize(
    ("name", "empty", "filled"),
    [
        ("in.jsonl", "", '{"url": "http://x.org/1", "caption": "a dog"}\n'),
        ("in.tsv", "url\tcaption\n", "url\tcaption\nhttp://x.org/1\ta dog\n"),
        ("in.csv", "url,caption\n", "url,caption\nhttp://x.org/1,a dog\n"),
    ],
)
def test_an_empty_file_that_has_rows_later_is_read(tmp_path: Path, name: str, empty: str, filled: str) -> None:
    path = tmp_path / name
    for content, n_rows in ((empty, 0), (empty, 0), (filled, 1), (filled, 1)):
        path.write_text(content)
        sources = open_sources([str(path)], ColumnChoice())
        assert run_small(tmp_path / "t", sources).numbers.n_read == n_rows
    assert TableView(tmp_path / "t").settled.n_curated == 1


@THREADS
def test_what_was_read_of_a_bad_source_is_saved_and_never_read_again(tmp_path: Path, threads: int) -> None:
    one, two = small_stream()
    broken = BrokenSource("memory:two", two.rows, n_good=30)
    with pytest.raises(InputError, match="cut short"):
        run_small(tmp_path / "t", [one, broken], threads=threads)
    assert positions_in(tmp_path / "t") == [
        ("memory:one", 50, True),
        ("memory:two", 30, False),
    ]
    state = TableView(tmp_path / "t").state
    assert state.settled is None or state.settled.n_read <= 80
    mended = replace(broken, n_good=50)
    with pytest.raises(InputError):
        run_small(tmp_path / "t", [one, mended], threads=threads)  # all rows, and then the error once more
    assert TableView(tmp_path / "t").state.numbers.n_read == 100
    run_small(tmp_path / "t", [one, mended], skip_bad_files=True, threads=threads)
    assert table_digest(tmp_path / "t") == Setup([one, two]).offline_digest()


@THREADS
def test_a_source_given_twice_is_read_once(tmp_path: Path, threads: int) -> None:
    one, two = small_stream()
    curation = run_small(tmp_path / "t", [one, two, one], dedup="none", threads=threads)
    assert curation.numbers.n_read == 100
    assert positions_in(tmp_path / "t") == [
        ("memory:one", 50, True),
        ("memory:two", 50, True),
    ]


@THREADS
def test_nothing_behind_a_bad_source_is_read(tmp_path: Path, threads: int) -> None:
    one, two = small_stream()
    broken = BrokenSource("memory:broken", two.rows, n_good=20)
    with pytest.raises(InputError, match="cut short"):
        run_small(tmp_path / "t", [broken, one], threads=threads)
    assert positions_in(tmp_path / "t") == [
        ("memory:broken", 20, False),
        ("memory:one", 0, False),
    ]
    run_small(tmp_path / "t", [replace(broken, n_good=50), one], skip_bad_files=True, threads=threads)
    assert table_digest(tmp_path / "t") == Setup([MemorySource("memory:broken", two.rows), one]).offline_digest()


@THREADS
def test_a_bad_source_can_be_skipped_and_the_rest_is_curated(tmp_path: Path, threads: int) -> None:
    one, two = small_stream()
    broken = BrokenSource("memory:broken", two.rows, n_good=20)
    curation = run_small(tmp_path / "t", [broken, one], skip_bad_files=True, threads=threads)
    assert curation.skipped == [("memory:broken", "memory:broken: cut short")]
    setup = Setup([MemorySource("memory:broken", two.rows), one])
    assert table_digest(tmp_path / "t") == setup.offline_digest({"memory:broken": 20, "memory:one": 50})


def test_a_bad_source_of_which_nothing_was_read_can_be_mended(tmp_path: Path) -> None:
    """Its size may change then: none of its rows belongs to the table yet."""
    one, two = small_stream()
    with pytest.raises(InputError):
        run_small(tmp_path / "t", [one, BrokenSource("memory:two", two.rows)])
    run_small(tmp_path / "t", [one, two])
    assert table_digest(tmp_path / "t") == Setup([one, two]).offline_digest()


@dataclass(frozen=True)
class Announced(MemorySource):
    """Tells when reading it begins."""

    begun: threading.Event = field(default_factory=threading.Event)

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        self.begun.set()
        yield from MemorySource.read(self, first_row, batch_size)


def test_the_next_source_is_read_while_the_end_of_one_is_decided_on(tmp_path: Path) -> None:
    one, two = small_stream()
    two = Announced(two.uri, two.rows)
    was_begun = []

    def on_batch(source: Source, numbers: Numbers) -> None:
        if source is one and numbers.n_read == len(one.rows):
            was_begun.append(two.begun.wait(10))

    curation = Setup([], pace=Pace(10, threads=2)).open(tmp_path / "t")
    assert curation.run([one, two], on_batch=on_batch) is Ending.DONE
    curation.table.close()
    assert was_begun == [True]
    assert table_digest(tmp_path / "t") == Setup([one, two]).offline_digest()


@dataclass(frozen=True)
class Piped(MemorySource):
    """Behaves as standard input does: of unknown size, read from its first row."""

    @property
    def size(self) -> None:  # type: ignore[override]
        return None

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        assert first_row == 0
        yield from MemorySource.read(self, first_row, batch_size)


def piped(n_rows: int) -> list[MemorySource]:
    return [Piped("stdin:", small_stream(2 * n_rows)[0].rows)]


@dataclass(frozen=True)
class Waiting(Piped):
    """Says after each batch that nothing more comes at the moment, and looks what has become of all before."""

    n_read: Callable[[], int] = lambda: 0
    n_before: int = 0

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        assert self.n_read() == self.n_before
        for records in Piped.read(self, first_row, batch_size):
            yield records
            yield replace(records, urls=records.urls[:0], texts=records.texts[:0])
            assert self.n_read() == self.n_before + records.first_row + len(records)


@THREADS
def test_what_has_come_is_decided_on_before_more_is_waited_for(tmp_path: Path, threads: int) -> None:
    curation = Setup([], pace=Pace(10, threads=threads)).open(tmp_path / "t")
    one, two = small_stream()
    source = Waiting("stdin:", two.rows, n_read=lambda: curation.numbers.n_read, n_before=len(one.rows))
    assert curation.run([one, source]) is Ending.DONE
    curation.table.close()
    assert curation.numbers.n_read == 100


def test_standard_input_fed_again_is_all_duplicates(tmp_path: Path) -> None:
    run_small(tmp_path / "t", piped(40))
    before = table_digest(tmp_path / "t")
    curation = run_small(tmp_path / "t", piped(40))
    assert curation.numbers.n_duplicate >= 37
    assert curation.numbers.n_read == 80
    assert table_digest(tmp_path / "t") == before


def test_the_cut_names_all_rows_that_standard_input_ever_brought(tmp_path: Path) -> None:
    for _ in range(3):
        run_small(tmp_path / "t", piped(40))
    settled = TableView(tmp_path / "t").settled
    assert sum(settled.cut.values()) == settled.n_read == 120


def test_standard_input_fed_again_is_refused_without_dedup(tmp_path: Path) -> None:
    run_small(tmp_path / "t", piped(40), dedup="none")
    with pytest.raises(ConfigError, match="standard input was read into this table before"):
        run_small(tmp_path / "t", piped(40), dedup="none")
    assert TableView(tmp_path / "t").state.numbers.n_read == 40


# the pace


def steps_of(pace: Pace, out: Path) -> list[str]:
    steps: list[str] = []
    with failpoints.listening(steps.append):
        Setup(small_stream(200), pace=pace).run(out)
    return steps


def test_batches_are_not_commits(tmp_path: Path) -> None:
    steps = steps_of(Pace(10, checkpoint_interval_s=3_600, settle_growth=1.1, first_settle=10), tmp_path / "t")
    assert steps.count("checkpoint.committed") == 0
    assert steps.count("settle.committed") == 1  # which is a checkpoint, too


def test_with_an_interval_of_0_every_batch_is_committed(tmp_path: Path) -> None:
    steps = steps_of(Pace(10, checkpoint_interval_s=0), tmp_path / "t")
    assert steps.count("checkpoint.committed") == 20
    assert steps.count("settle.committed") == 1  # and with it that the last source has ended


@THREADS
def test_settles_follow_the_growth_of_the_stream(tmp_path: Path, threads: int) -> None:
    out = tmp_path / "t"
    sizes: list[int] = []

    def look(step: str) -> None:
        if step == "settle.committed":
            sizes.append(TableView(out).settled.n_read)

    with failpoints.listening(look):
        Setup(small_stream(400), pace=Pace(10, 0.0, settle_growth=2.0, first_settle=50, threads=threads)).run(out)
    assert sizes == [50, 100, 200, 400]


@pytest.mark.parametrize(("share", "expected"), [(1.0, [50, 100, 200, 400]), (0.3, [50, 240, 400]), (0.0, [50, 400])])
def test_settles_are_put_off_that_would_take_too_much_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, expected: list[int]
) -> None:
    """Here a settle takes 3 seconds, and so does each hundred records."""
    out = tmp_path / "t"
    now = SimpleNamespace(s=0.0)
    sizes: list[int] = []

    def look(step: str) -> None:
        if step == "settle.begin":
            now.s += 3
        if step == "settle.committed":
            sizes.append(TableView(out).settled.n_read)

    def on_batch(source: Source, numbers: Numbers) -> None:
        now.s += 0.3

    monkeypatch.setattr("stream_curate.curate.time", SimpleNamespace(monotonic=lambda: now.s))
    monkeypatch.setattr("stream_curate.stages.time", SimpleNamespace(perf_counter=lambda: now.s))
    pace = Pace(10, 0.0, settle_growth=2.0, first_settle=50, settle_share=share)
    setup = Setup(small_stream(400), pace=pace)
    curation = setup.open(out)
    with failpoints.listening(look):
        curation.run(setup.sources, on_batch=on_batch)
    curation.table.close()
    assert sizes == expected
    assert table_digest(out) == setup.offline_digest()


def test_a_stop_before_anything_was_read_loses_nothing(tmp_path: Path) -> None:
    setup = Setup(small_stream())
    curation = setup.open(tmp_path / "t")
    stop = StopRequest()
    stop.request()
    assert curation.run(setup.sources, stop=stop) is Ending.INTERRUPTED
    curation.table.close()
    assert curation.numbers.n_read == 0
    setup.run(tmp_path / "t")
    assert table_digest(tmp_path / "t") == setup.offline_digest()


def test_an_empty_source_is_finished_and_the_table_settled(tmp_path: Path) -> None:
    run_small(tmp_path / "t", [MemorySource("memory:nothing", [])])
    view = TableView(tmp_path / "t")
    assert (view.settled.n_read, view.settled.n_curated, view.n_pending) == (0, 0, 0)
    assert view.digest() == digest([])


def test_what_was_counted_in_a_run_that_failed_is_counted_once(tmp_path: Path) -> None:
    """Rejected records and duplicates after the last checkpoint are read, and listed, again and not twice."""
    rows: list[tuple[bytes | None, bytes | None]] = [(b"ftp://x.org/%d" % (i % 5), b"dog") for i in range(40)]
    rows += [(b"http://x.org/%d" % (i % 7), b"dog") for i in range(40)]
    setup = Setup([MemorySource("memory:one", rows)], pace=Pace(8, 0.0, 1.5, first_settle=30))
    for n_batches in (1, 2, 3):
        curation = setup.open(tmp_path / "t")
        n_left = n_batches

        def fail(source: Source, numbers: Numbers) -> None:
            nonlocal n_left
            n_left -= 1
            if not n_left:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            curation.run(setup.sources, on_batch=fail)
        curation.table.close()
    numbers = setup.run(tmp_path / "t")
    assert (numbers.n_unique, numbers.n_duplicate, numbers.n_rejected) == (7, 33, 40)
    rejects = TableView(tmp_path / "t").folder.rejects_file.read_bytes().splitlines()
    assert len(rejects) == 40


def test_columns_that_are_kept_stand_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("url,caption,lang\nhttp://x.org/1,a dog,en\nhttp://x.org/2,a cat,\n")
    sources = open_sources([str(tmp_path / "in.csv")], ColumnChoice(keep=("lang",)))
    curator = Curator(Metadata.from_entries(["dog", "cat"]), threshold=9, counter="exact")
    table = CuratedTable.open(tmp_path / "t", Identity(curator.rule, ("lang",)), curator.metadata)
    curation = Curation(curator, table)
    curation.run(sources)
    table.close()
    rows = pa.Table.from_batches(TableView(tmp_path / "t").read_settled(["text", "lang", "uid"])).to_pylist()
    assert sorted(rows, key=lambda row: -len(row["lang"])) == [
        {"text": "a dog", "lang": "en", "uid": None},
        {"text": "a cat", "lang": "", "uid": None},
    ]
