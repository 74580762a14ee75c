"""A writer takes a table over from one that stands still at any step, and goes on later: nothing of it shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable
from rig import MemorySource, Setup, table_digest

from stream_curate import failpoints
from stream_curate.curate import Curation, Ending, Pace
from stream_curate.curator import Curator
from stream_curate.errors import ConfigError, OutputError
from stream_curate.open_curation import open_curation
from stream_curate.settings import load_settings
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import Identity, TableFolder
from stream_curate.table.view import TableView

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
ORIGIN = "kafka:pairs,ledger/1"


def valid_rows(first: int, n_rows: int) -> list[tuple[bytes | None, bytes | None]]:
    """No duplicates and nothing invalid: a settler keeps neither in the table's folder."""
    texts = [b"a dog in the park", b"hot dog , red", b"nothing", b"a blue cat", b"a zebra", b"a a a"]
    return [(b"http://x.org/%d" % i, texts[i * i // 3 % len(texts)]) for i in range(first, first + n_rows)]


SETUP = Setup(
    [MemorySource("memory:one", valid_rows(0, 40)), MemorySource("memory:two", valid_rows(40, 40))],
    dedup="none",
    pace=Pace(10, 0.0, 1.5, first_settle=20),
)
MORE = replace(SETUP, sources=[*SETUP.sources, MemorySource("memory:three", valid_rows(80, 40))])


def take_over(setup: Setup, out: Path, owner: str, *, keep_versions: bool = False) -> Curation:
    curator = Curator(
        setup.metadata, threshold=setup.threshold, seed=setup.seed, counter=setup.counter, dedup=setup.dedup
    )
    table = CuratedTable.open(
        out,
        Identity(curator.rule, (), ORIGIN),
        setup.metadata,
        max_small_files=setup.max_small_files,
        keep_versions=keep_versions,
        takeover=owner,
    )
    return Curation(curator, table, setup.pace)


def run(setup: Setup, out: Path, owner: str, *, keep_versions: bool = False) -> None:
    """Take over, and curate to the end."""
    curation = take_over(setup, out, owner, keep_versions=keep_versions)
    try:
        assert curation.run(setup.sources) is Ending.DONE
    finally:
        curation.table.close()


class Stalled:
    """A writer in a thread, which stands still when it comes to a step for the n-th time, until it is let go."""

    def __init__(self, out: Path, step: str, nth: int) -> None:
        self.error: BaseException | None = None
        self._step, self._n_left = step, nth
        self._stands, self._goes_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(out,), daemon=True)

    def _run(self, out: Path) -> None:
        try:
            run(SETUP, out, "the stalled one")
        except BaseException as error:
            self.error = error
        finally:
            self._stands.set()

    def _listen(self, step: str) -> None:
        if threading.current_thread() is self._thread and step == self._step:
            self._n_left -= 1
            if self._n_left == 0:
                self._stands.set()
                assert self._goes_on.wait(LIMIT_S)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Meanwhile it does; afterwards it has come to its end."""
        with failpoints.listening(self._listen):
            self._thread.start()
            assert self._stands.wait(LIMIT_S)
            assert self._n_left == 0, f"it never came to {self._step}"
            try:
                yield
            finally:
                self._goes_on.set()
                self._thread.join(LIMIT_S)
                assert not self._thread.is_alive()


def assert_right(setup: Setup, out: Path) -> None:
    view = TableView(out)
    assert view.digest() == setup.offline_digest()
    assert view.n_pending == 0
    rows = DeltaTable(str(out)).to_pyarrow_table(columns=["pair_id"]).column("pair_id").to_pylist()
    assert len(rows) == len(set(rows)) == view.state.numbers.n_in_table
    _ = view.counts, view.settled_entry_counts


STEPS = [
    *(
        f"{kind}.{step}"
        for kind in ("checkpoint", "settle")
        for step in ("begin", "files_closed", "counts_saved", "state_written", "files_moved", "committed", "cleaned")
    ),
    "checkpoint.appended",
    "settle.counts_written",
    *(f"compact.{step}" for step in ("begin", "files_closed", "files_moved", "committed")),
    "vacuum.before_file",
    "vacuum.after_file",
]


@pytest.mark.parametrize("step", STEPS)
def test_the_late_writes_of_a_stalled_writer_are_refused_or_harmless(tmp_path: Path, step: str) -> None:
    out = tmp_path / "t"
    stalled = Stalled(out, step, 1 if step.startswith("compact") else 2)
    with stalled.standing_still():
        run(MORE, out, "the newer one")
        version = DeltaLog(out).version
        assert_right(MORE, out)

    assert isinstance(stalled.error, OutputError), stalled.error
    assert DeltaLog(out).version == version, "it has committed something"
    assert_right(MORE, out)
    run(MORE, out, "a third one")
    assert_right(MORE, out)
    left = {path.name for path in out.glob("part-*")}
    view = TableView(out)
    before = view.state.checkpoint - 1
    assert {path.name[:18] for path in view.folder.own.glob("state-*")} == {
        f"state-{before:012d}",
        f"state-{view.state.checkpoint:012d}",
    }
    assert set(view.settled.files) <= left


@pytest.mark.parametrize("step", ["settle.committed", "checkpoint.files_moved", "compact.files_moved"])
def test_a_stalled_writer_is_refused_also_if_the_newer_one_has_only_taken_over(tmp_path: Path, step: str) -> None:
    """The commit that takes over has the very number that the stalled one's would have."""
    out = tmp_path / "t"
    stalled = Stalled(out, step, 1)
    with stalled.standing_still():
        newer = take_over(MORE, out, "the newer one")
        assert not newer.table.is_superseded()

    assert isinstance(stalled.error, OutputError), stalled.error
    assert not newer.table.is_superseded()
    assert newer.run(MORE.sources) is Ending.DONE
    newer.table.close()
    assert_right(MORE, out)


@pytest.mark.parametrize("step", ["create.begin", "create.made", "takeover.begin"])
def test_one_that_stalls_before_it_has_taken_over_is_the_newest_when_it_goes_on(tmp_path: Path, step: str) -> None:
    out = tmp_path / "t"
    stalled = Stalled(out, step, 1)
    with stalled.standing_still():
        other = take_over(MORE, out, "the other one")
        assert other.run(MORE.sources) is Ending.DONE

    assert stalled.error is None
    assert other.table.is_superseded()
    other.table.close()
    assert_right(MORE, out)


@pytest.mark.parametrize("had_table", [False, True])
def test_one_that_stalls_right_after_it_has_taken_over_deletes_nothing_of_a_newer_one(
    tmp_path: Path, had_table: bool
) -> None:
    out = tmp_path / "t"
    if had_table:
        run(replace(SETUP, sources=SETUP.sources[:1]), out, "the first")
    stalled = Stalled(out, "takeover.committed", 1)
    with stalled.standing_still():
        run(MORE, out, "the newer one")
        kept = {path for path in out.rglob("*") if path.is_file() and "staging" not in path.parts}

    assert isinstance(stalled.error, OutputError), stalled.error
    assert kept <= set(out.rglob("*"))
    assert_right(MORE, out)


def test_whoever_was_taken_over_from_can_tell(tmp_path: Path) -> None:
    out = tmp_path / "t"
    older = take_over(SETUP, out, "older")
    assert not older.table.is_superseded()
    older.run(SETUP.sources[:1])
    assert not older.table.is_superseded()
    again = take_over(SETUP, out, "older")  # the same process, which opened its table once more
    assert not older.table.is_superseded()
    newer = take_over(SETUP, out, "newer")
    assert older.table.is_superseded()
    assert again.table.is_superseded()
    assert not newer.table.is_superseded()
    for each in (older, again, newer):
        each.table.close()


def test_two_that_start_at_the_same_moment_leave_one_that_can_write(tmp_path: Path) -> None:
    out = tmp_path / "t"
    opened: list[Curation] = []
    meeting = threading.Barrier(3, timeout=LIMIT_S)

    def start(owner: str) -> None:
        meeting.wait()
        opened.append(take_over(SETUP, out, owner))

    threads = [threading.Thread(target=start, args=(owner,), daemon=True) for owner in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    writers = [each for each in opened if not each.table.is_superseded()]
    assert len(opened) >= 1
    assert len(writers) == 1
    assert writers[0].run(SETUP.sources) is Ending.DONE
    for each in opened:
        each.table.close()
    assert_right(SETUP, out)


def test_a_torn_commit_is_mended_without_freeing_its_number(tmp_path: Path) -> None:
    out = tmp_path / "t"
    run(SETUP, out, "before the power cut")
    torn = max((out / "_delta_log").glob("*.json"))
    version = DeltaLog(out).version
    torn.write_bytes(b"")
    run(MORE, out, "after it")
    assert_right(MORE, out)
    assert torn.stat().st_size > 0
    assert torn.with_suffix(".torn").read_bytes() == b""
    assert DeltaLog(out).version > version


def test_every_version_can_be_read_when_all_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "t"
    settled: dict[int, tuple[str, int]] = {}

    def look(step: str) -> None:
        if step == "settle.committed":
            view = TableView(out)
            settled[view.settled.version] = (view.digest(), view.settled.n_curated)

    with failpoints.listening(look):
        run(SETUP, out, "first", keep_versions=True)
        run(MORE, out, "second", keep_versions=True)
    assert len(settled) >= 4
    for version, (_, n_curated) in settled.items():
        assert DeltaTable(str(out), version=version).to_pyarrow_table().num_rows == n_curated
    run(MORE, out, "third")
    with pytest.raises(Exception, match="part-"):
        DeltaTable(str(out), version=min(settled)).to_pyarrow_table()
    assert_right(MORE, out)


def test_files_and_kafka_do_not_feed_the_same_table(tmp_path: Path) -> None:
    run(SETUP, tmp_path / "kafka", "settler")
    with pytest.raises(ConfigError, match="is fed from Kafka, by `stream-curate settler`"):
        SETUP.open(tmp_path / "kafka")
    with pytest.raises(ConfigError, match="is fed from Kafka, by `stream-curate settler`"):
        open_curation(tmp_path / "kafka", load_settings(None, {}))
    replace(SETUP, dedup="exact").run(tmp_path / "files")
    with pytest.raises(ConfigError, match="was curated from files"):
        take_over(replace(SETUP, dedup="exact"), tmp_path / "files", "settler")
    assert table_digest(tmp_path / "files") == SETUP.offline_digest()
    folder = TableFolder(tmp_path / "kafka")
    with pytest.raises(ConfigError, match=r"kafka:pairs,ledger/1 .* and not from kafka:pairs,ledger/2"):
        folder.identity().check_origin(folder.root, "kafka:pairs,ledger/2")
