"""The curated table: a Delta table whose every checkpoint is atomic.

One checkpoint is one Delta commit. In this order:

    1. the data files are closed, in a folder aside
    2. seen pairs and rejected records are appended and forced to disk, the counter is saved
    3. the state is written under the checkpoint's number; data files, counter and state are forced to disk
    4. the data files are moved into the table's folder
    5. the Delta commit names them and carries the checkpoint's number
    6. what only older checkpoints needed is deleted

A settle is a checkpoint whose files hold exactly the offline subset. What was admitted since the checkpoint before
waits aside for it, up to 512 MiB (`spill.py`), so that what goes at once is never written.

Before step 5 nothing has happened: opened again, the table goes on from the checkpoint before. After it all has. The
two newest states are kept, each with its own copy of the counter; if a part of the newest is damaged, the table first
goes back to what the one before showed. That cannot help where both share what is damaged: the older part of the seen
pairs, and data files.

A table has one writer. `curate` holds a lock. A settler takes the table over instead, from a writer that may be stalled
or on another machine, and go on at any moment. What then keeps the table whole:

- Every commit is made from the version that its writer knew, and the new writer first commits nothing at all: whatever
  an older one is about to commit is refused from then on.
- No writer writes over a file, or deletes one, that another may need. Names hold the writer's number, or are drawn at
  random. A writer at work deletes what it knew and no longer needs. What it never knew, such as the leftovers of a
  crash, is deleted on opening alone, and only what lay there before the commit that took the table over.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import structlog

from stream_curate.ahead import InTurn, read_ahead, run_ahead
from stream_curate.balance import EVICTED, Guard, Prospects
from stream_curate.checked_file import DamagedFile, DiskQueue, sync_folder
from stream_curate.errors import ConfigError, OutputError
from stream_curate.failpoints import reach
from stream_curate.metadata import Metadata
from stream_curate.pairs import PAIR_ID, Rejection
from stream_curate.rule import Rule
from stream_curate.table.append_file import AppendFile, Mark, read_marked
from stream_curate.table.data_files import (
    FILE_PATTERN,
    TARGET_BYTES,
    DataFile,
    GuardOfMany,
    SortedFiles,
    class_of,
    in_schema,
    read_batches,
    table_schema,
)
from stream_curate.table.delta import DeltaLog, mend_torn_commit, new_writer
from stream_curate.table.disk_errors import disk_errors, told_as_output_errors
from stream_curate.table.folder import Identity, Lock, TableFolder
from stream_curate.table.spill import Spill
from stream_curate.table.state import (
    Numbers,
    Settled,
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

SMALL_FILE_BYTES = TARGET_BYTES // 4
MAX_SMALL_FILES = 64
MAX_WAITING_BYTES = 512 * 2**20
MAX_GUARD_BYTES = 64 * 2**20
_TAKEOVER_ATTEMPTS = 100
_N_JUDGES = 2
_Judged = TypeVar("_Judged", Prospects, Prospects | None)

log = structlog.get_logger()


class Outlook(Protocol):
    """Which rows stay when the table is settled; see `settling.SettlingOutlook`."""

    @property
    def is_ordered(self) -> bool:
        """Whether what `of` says depends on what it was shown before; otherwise threads may call it."""
        ...

    def keeps_all(self, guard: Guard | None) -> bool:
        """Whether all rows with this guard stay. Of None nothing is known."""
        ...

    def of(self, batch: pa.RecordBatch) -> Prospects:
        """Of a batch with `pair_id` and `entry_ids`, which rows stay."""
        ...

    def as_it_looks(self, batch: pa.RecordBatch) -> Prospects:
        """A guess for rows that come after the cut, which are not to be remembered."""
        ...


class CuratedTable:
    """The one writer of a curated table.

    Attributes:
        state: that of the newest checkpoint; of checkpoint 0 in a new table.
        write_s: seconds of all settles so far that went into writing what was appended.
        expect: gives the outlook at the counts of now. By it rows are sorted that are written before they are settled;
            without it they are not.
    """

    def __init__(
        self,
        folder: TableFolder,
        identity: Identity,
        lock: Lock | None,
        owner: str,
        *,
        max_small_files: int,
        keep_versions: bool,
    ) -> None:
        self.folder = folder
        self.is_broken = False
        self.write_s = 0.0
        self.kept_columns = identity.kept_columns
        self._identity = identity
        self._owner = owner
        self._max_small_files = max_small_files
        self._keep_versions = keep_versions
        self._schema = table_schema(identity.kept_columns)
        self._writer = new_writer()
        self._staging = folder.staging / f"{self._writer:016x}"
        self._guards: dict[str, Guard] = {}
        self.expect: Callable[[], Outlook] | None = None
        self._held = ExitStack()
        self._disk = self._held.enter_context(closing(DiskQueue()))
        self._encoder = self._held.enter_context(closing(InTurn("encode")))
        self._reader = self._held.enter_context(ThreadPoolExecutor(1, "settle"))
        self._judges = self._held.enter_context(ThreadPoolExecutor(_N_JUDGES, "judge"))
        if lock is not None:
            self._held.callback(lock.release)
        try:
            self._delta = self._open_log()
            leftovers = self._present() if lock is not None else self._take_over()
            self.state, self._counts, self._seen, self._rejects = self._restore()
            self._previous = self._state_before()
            self._known = self._wanted()
            self._delete_leftovers(leftovers)
            self._staging.mkdir(parents=True)
            self._waiting = self._held.enter_context(closing(Spill(self._staging / "waiting.arrow", self._schema)))
            self._staged = self._stage()
        except BaseException:
            self._held.close()
            raise

    @classmethod
    def open(
        cls,
        root: Path,
        identity: Identity,
        metadata: Metadata,
        *,
        max_small_files: int = MAX_SMALL_FILES,
        keep_versions: bool = False,
        takeover: str | None = None,
    ) -> CuratedTable:
        """Lock the folder, or take it over, and open its table, making it if there is none.

        An existing table is opened as it is: whoever calls has compared `identity` with what it was made with.

        Args:
            root: the folder.
            identity: what the table is made with.
            metadata: the entries, kept in a new table's folder.
            max_small_files: with more than this many data files under 32 MiB these are merged.
            keep_versions: delete no data files, so that every version that the Delta log knows can be read.
            takeover: a name for the process, which no other one has. With it nobody asks whether another writer is
                there: it can commit nothing more from now on.

        Raises:
            ConfigError: when something that is not ours is there, or a table that is fed from elsewhere.
            OutputError: when it is in use, damaged beyond the checkpoint before the last, or cannot be written.
        """
        folder = TableFolder(root)
        folder.exists()
        lock = Lock(folder) if takeover is None else None
        try:
            if folder.exists():
                folder.identity().check_origin(root, identity.origin)
            with disk_errors(root):
                mend_torn_commit(root)
            # not when taking over: meanwhile another settler may have committed to it
            if takeover is None and folder.exists() and not folder.was_committed_to():
                folder.forget_unused()
            if not folder.exists():
                reach("create.begin")
                with disk_errors(root):
                    folder.own.mkdir(parents=True, exist_ok=True)
                    folder.create(identity, metadata)
                reach("create.made")
            made_with = folder.identity()
            if not made_with.is_same_table(identity):
                raise ConfigError(
                    f"{root} was made by another program, with other settings: run the same command again; if that "
                    "does not help, give a new folder"
                )
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        with disk_errors(root):
            return cls(
                folder, made_with, lock, takeover or "", max_small_files=max_small_files, keep_versions=keep_versions
            )

    def _open_log(self) -> DeltaLog:
        """The Delta log, made if this table is new. What is left of a table without its log is never taken for new."""
        root = self.folder.root
        if not DeltaLog.exists(root):
            if any(root.glob(FILE_PATTERN)) or any(self.folder.own.glob("state-*")):
                raise OutputError(f"{root} has lost its _delta_log: put it back, or {self._begin_anew}")
            return DeltaLog.create(root, self._schema, self._owner, _properties(self._identity.rule))
        delta = DeltaLog(root, self._owner)
        if delta.checkpoint == 0 and delta.files():
            raise OutputError(
                f"{root}: another program has taken the numbers of the checkpoints out of the Delta log. "
                f"The rows can still be read; to go on, {self._begin_anew}"
            )
        return delta

    def _take_over(self) -> list[Path]:
        """Commit nothing, so that older writers are refused; returns what lay in the folder just before."""
        for _ in range(_TAKEOVER_ATTEMPTS):
            present = self._present()
            reach("takeover.begin")
            try:
                self._delta.commit(None, info={"kind": "takeover"})
            except OutputError:
                if not self._delta.is_superseded():
                    raise
                self._delta = DeltaLog(self.folder.root, self._owner)  # another was faster
            else:
                reach("takeover.committed")
                return present
        raise OutputError(f"{self.folder.root}: another program commits to this table without a pause: stop it")

    @property
    def _begin_anew(self) -> str:
        """What to do when nothing else helps."""
        if self._identity.is_from_kafka:
            return "remove the folder: the settler then makes it anew from the ledger"
        return "curate again into a new folder"

    def is_superseded(self) -> bool:
        """Whether another process has committed since this one last did: this one can commit nothing more then."""
        return self._delta.is_superseded()

    def entry_counts_at(self, settled: Settled) -> np.ndarray:
        """int64[n_entries]: the counts at the cut of a settled version that the state names.

        Raises:
            DamagedFile: when they cannot be read.
        """
        return read_settled_counts(self.folder.own, settled.checkpoint, settled.writer)

    def close(self) -> None:
        """Let go of the table. What came after the last checkpoint is forgotten, to be read again."""
        self._held.close()

    def take_counts(self) -> bytes | None:
        """The counter's bytes at the checkpoint that was opened, None in a new table. Given once, as they are large."""
        counts, self._counts = self._counts, None
        return counts

    def seen(self) -> Iterator[np.ndarray]:
        """The keyed hashes of all pairs seen up to the checkpoint, in arrays of uint64."""
        for chunk in read_marked(self.folder.seen_file, self.state.seen):
            yield np.frombuffer(chunk, "<u8")

    def pair_ids(self) -> Iterator[pa.FixedSizeBinaryArray]:
        """Those of all rows, up to the checkpoint."""
        for file in self._delta.files():
            for batch in read_batches(self.folder.root / file.name, ["pair_id"]):
                yield batch.column("pair_id").cast(PAIR_ID)

    @told_as_output_errors
    def append(self, admitted: pa.RecordBatch) -> None:
        """Add admitted pairs, to be committed by the next checkpoint or settle."""
        if len(admitted):
            self._waiting.add(in_schema(admitted, self._schema))
            if self._waiting.n_bytes >= MAX_WAITING_BYTES:
                self._write_waiting()

    @told_as_output_errors
    def remember(self, base: np.ndarray) -> None:
        """Add uint64[n], the keyed hashes of pairs seen for the first time, to count by the next checkpoint."""
        self._seen.append(base.astype("<u8").tobytes())

    @told_as_output_errors
    def reject(self, rejections: Iterable[Rejection]) -> None:
        """List records that are no valid pairs, to count by the next checkpoint."""
        for rejection in rejections:
            self._rejects.append(
                orjson.dumps(
                    {
                        "reason": rejection.reason,
                        "source": rejection.source,
                        "row": rejection.source_row,
                        "sha256": rejection.sha256,
                        "preview": rejection.preview,
                    },
                    option=orjson.OPT_APPEND_NEWLINE,
                )
            )

    @told_as_output_errors
    def checkpoint(self, after: State, counts: Callable[[], bytes]) -> None:
        """Commit all that was appended.

        Args:
            after: rule, numbers and sources as they are now; the other fields are filled in here.
            counts: gives the counter's bytes, which are many: when all else is written.
        """
        reach("checkpoint.begin")
        self._write_waiting()
        added = self._finish(self._staged)
        reach("checkpoint.files_closed")
        state = replace(
            after,
            checkpoint=self.state.checkpoint + 1,
            version=self._delta.version + 1,
            seen=self._seen.mark(),
            rejects=self._rejects.mark(),
            settled=self.state.settled,
            files=[*self._delta.files(), *added],
            writer=self._writer,
        )
        if state.rule.final is not None:  # nothing is ever taken back: this is all that a settle would leave
            state = replace(state, settled=state.in_full())
        reach("checkpoint.appended")
        self._commit("checkpoint", state, counts, added, [])

    @told_as_output_errors
    def settle(
        self,
        outlook: Outlook,
        entry_counts: np.ndarray,
        counts: Callable[[], bytes],
        after: State | None = None,
    ) -> None:
        """Take the table down to exactly the offline subset.

        A file is written anew only if some of its rows go. What stays of it is sorted into files by how long it may
        stay, so that the next settles find most files as they should be.

        Args:
            outlook: which rows stay.
            entry_counts: int64[n_entries], the counts at this cut.
            counts: gives the counter's bytes, as for `checkpoint`.
            after: rule, numbers and sources as they are now, to commit what was appended as well; without, it is the
                state of the checkpoint just made.
        """
        reach("settle.begin")
        staying = self._stage()
        files, appended = self._delta.files(), self._finish(self._staged)
        removed = self._take_rows_out(files, self.folder.root, outlook, staying)
        left = [file for file in files if file not in removed]
        for file in self._take_rows_out(appended, self._staging, outlook, staying):
            self._staged.take_out(file)
            appended.remove(file)
        n_rewritten = staying.n_rows
        with closing(self._judged_waiting(outlook.of, in_order=outlook.is_ordered)) as rows:
            for batch, prospects in rows:
                start_s = time.perf_counter()
                staying.write(batch, prospects)
                self.write_s += time.perf_counter() - start_s
        start_s = time.perf_counter()
        added = appended + self._finish(staying)
        # many rows are written as the files are closed, those from older files among them
        share = 1 - n_rewritten / max(staying.n_rows, 1)
        self.write_s += share * (time.perf_counter() - start_s)
        reach("settle.files_closed")
        left += added
        before = self.state if after is None else after
        n_rows = sum(file.n_rows for file in left)
        numbers = replace(before.numbers, n_evicted=before.numbers.n_admitted - n_rows)
        checkpoint = self.state.checkpoint + 1
        version = self._delta.version + 1
        settled = Settled(
            checkpoint=checkpoint,
            version=version,
            threshold=before.rule.threshold,
            n_read=numbers.n_read,
            n_unique=numbers.n_unique,
            n_curated=n_rows,
            cut={source.uri: source.n_rows for source in before.sources},
            files=sorted(file.name for file in left),
            writer=self._writer,
        )
        state = replace(
            before,
            checkpoint=checkpoint,
            version=version,
            numbers=numbers,
            seen=self._seen.mark(),
            rejects=self._rejects.mark(),
            settled=settled,
            files=left,
            writer=self._writer,
        )
        reach("settle.appended")
        write_settled_counts(self.folder.own, checkpoint, entry_counts, self._writer)
        self._disk.add(settled_counts_path(self.folder.own, checkpoint, self._writer))
        reach("settle.counts_written")
        self._commit("settle", state, counts, added, removed, staying)

    def _take_rows_out(
        self, files: Sequence[DataFile], folder: Path, outlook: Outlook, staying: SortedFiles
    ) -> list[DataFile]:
        """Those of the files in `folder` of which rows go; what stays of them is written to `staying`.

        While one is written anew, it is found out what becomes of the rows of the next ones.
        """
        found: list[DataFile] = []
        unknown = (file for file in files if not outlook.keeps_all(self._guards.get(file.name)))
        threads = None if outlook.is_ordered else self._judges
        judged = run_ahead(
            threads, lambda file: (file, *_judge(folder / file.name, outlook)), unknown, n_ahead=_N_JUDGES - 1
        )
        with closing(judged):
            for file, prospects, guard in filter(None, judged):
                if guard is not None:
                    self._remember_guard(file, guard)
                    continue
                found.append(file)
                if all((each.classes == EVICTED).all() for each in prospects):
                    continue
                rows = zip(read_batches(folder / file.name), prospects, strict=True)
                with closing(read_ahead(self._reader, rows)) as read:
                    for batch, its_prospects in read:
                        staying.write(batch, its_prospects)
        return found

    def _write_waiting(self) -> None:
        """Write what waits, sorted as it looks now."""
        if not self._waiting:
            return
        outlook = self.expect() if self.expect is not None else None
        with closing(self._judged_waiting(lambda batch: self._as_it_looks(batch, outlook))) as rows:
            for batch, prospects in rows:
                self._staged.write(batch, prospects)

    def _judged_waiting(
        self, judge: Callable[[pa.RecordBatch], _Judged], *, in_order: bool = False
    ) -> Generator[tuple[pa.RecordBatch, _Judged]]:
        """What waits, with what `judge` says of each batch, which threads find out ahead of where it is written."""
        with closing(read_ahead(self._reader, self._waiting.take())) as batches:
            threads = self._reader if in_order else self._judges  # the reader is one thread
            judged = run_ahead(threads, lambda batch: (batch, judge(batch)), batches, n_ahead=_N_JUDGES - 1)
            with closing(judged):
                yield from filter(None, judged)

    @staticmethod
    def _as_it_looks(batch: pa.RecordBatch, outlook: Outlook | None) -> Prospects | None:
        if outlook is None:
            return None
        prospects = outlook.as_it_looks(batch)
        np.maximum(prospects.classes, 0, out=prospects.classes)  # only a settle evicts
        return prospects

    def _finish(self, staged: SortedFiles) -> list[DataFile]:
        """Close the files, and remember what guards them."""
        files = staged.finish()
        for file, guard in files.items():
            self._remember_guard(file, guard)
        return list(files)

    def _remember_guard(self, file: DataFile, guard: Guard | None) -> None:
        """Unless there is no room: a file without a guard is read by each settle."""
        if guard is not None and self._guard_bytes() + guard.nbytes <= MAX_GUARD_BYTES:
            self._guards[file.name] = guard

    def _guard_bytes(self) -> int:
        return sum(guard.nbytes for guard in self._guards.values())

    def _commit(
        self,
        kind: str,
        state: State,
        counts: Callable[[], bytes],
        added: list[DataFile],
        removed: list[DataFile],
        *staged: SortedFiles,
    ) -> None:
        """What is left of step 2, and steps 3 to 6 of a checkpoint; `staged` are files beside those appended to."""
        own = self.folder.own
        write_counts(own, state.checkpoint, counts(), state.writer)
        self._disk.add(counts_path(own, state.checkpoint, state.writer))
        reach(f"{kind}.counts_saved")
        write_state(own, state)
        self._disk.add(state_path(own, state.checkpoint, state.writer))
        self._disk.wait()
        sync_folder(own)
        reach(f"{kind}.state_written")
        for files in (self._staged, *staged):
            files.move_into(self.folder.root)
        if added:
            sync_folder(self.folder.root)
        reach(f"{kind}.files_moved")
        self._delta.commit(
            state.checkpoint,
            added,
            removed,
            writer=state.writer,
            writer_before=self.state.writer,
            info=_commit_info(kind, state),
        )
        reach(f"{kind}.committed")
        obsolete, self._previous, self.state = self._previous, self.state, state
        for path in paths_of(own, [obsolete]) - paths_of(own, [self._previous, state]):
            path.unlink(missing_ok=True)
        reach(f"{kind}.cleaned")
        self._staged = self._stage()
        self._compact()
        self._vacuum()

    def _compact(self) -> None:
        """Merge the smallest files once there are many small ones, each with those of its class.

        The rows stay the same, and so does the checkpoint.
        """
        small = [file for file in self._delta.files() if file.n_bytes < SMALL_FILE_BYTES]
        if len(small) <= self._max_small_files:
            return
        n_surplus = len(small) - self._max_small_files // 2
        by_class: dict[int | None, list[DataFile]] = {}
        for file in sorted(small, key=lambda file: file.n_bytes)[:n_surplus]:
            by_class.setdefault(class_of(file), []).append(file)
        groups = {which: files for which, files in by_class.items() if len(files) > 1}
        if not groups:
            return
        reach("compact.begin")
        merged = self._stage()
        for which, files in groups.items():
            for file in files:
                for batch in read_batches(self.folder.root / file.name):
                    merged.write_as(batch, which)
        added = list(merged.finish())
        reach("compact.files_closed")
        self._disk.wait()
        for file in added:
            self._remember_guard(file, _guard_of([self._guards.get(part.name) for part in groups[class_of(file)]]))
        merged.move_into(self.folder.root)
        sync_folder(self.folder.root)
        reach("compact.files_moved")
        self._delta.commit(None, added, [file for files in groups.values() for file in files], info={"kind": "compact"})
        reach("compact.committed")

    def _vacuum(self) -> None:
        """Delete the data files that this writer knew, and that nothing needs any more."""
        wanted = self._wanted()
        obsolete, self._known = self._known - wanted, wanted
        present = {file.name for file in self._delta.files()}
        self._guards = {name: guard for name, guard in self._guards.items() if name in present}
        if not self._keep_versions:
            self._delete_data_files(self.folder.root / name for name in obsolete)

    def _wanted(self) -> set[str]:
        """The names of the data files of this version, of the last two checkpoints, and of their settled versions."""
        wanted = {file.name for file in self._delta.files()}
        for state in (self.state, self._previous):
            if state is not None:
                wanted |= {file.name for file in state.files}
                wanted |= set(state.settled.files if state.settled is not None else ())
        return wanted

    def _present(self) -> list[Path]:
        """All that lies there and would have to be deleted if nothing needed it."""
        return [
            *self.folder.root.glob(FILE_PATTERN),
            *paths_present(self.folder.own),
            *self.folder.staging.glob("*"),
        ]

    def _delete_leftovers(self, paths: Iterable[Path]) -> None:
        """Of these delete what crashes and other writers have left."""
        root, own, staging = self.folder.root, self.folder.own, self.folder.staging
        needed = {root / name for name in self._known} | paths_of(own, [self.state, self._previous])
        unneeded = [path for path in paths if path not in needed]
        for path in unneeded:
            if path.parent == own:
                path.unlink(missing_ok=True)
            elif path.parent == staging:
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)  # earlier versions staged files here
        if not self._keep_versions:
            self._delete_data_files(path for path in unneeded if path.parent == root)

    def _delete_data_files(self, paths: Iterable[Path]) -> None:
        for path in sorted(paths):
            reach("vacuum.before_file")
            path.unlink(missing_ok=True)
            reach("vacuum.after_file")

    def _restore(self) -> tuple[State, bytes | None, AppendFile, AppendFile]:
        """Everything as at the last commit, or as at the one before it if a part of the last is damaged."""
        newest, before = self._delta.checkpoint, self._delta.writer_before
        try:
            return self._open_at(newest, self._delta.writer)
        except DamagedFile as error:
            if self._delta.is_superseded():
                raise OutputError(f"{self.folder.root} was taken over by another program at this moment") from error
            log.warning("state damaged, going back one checkpoint", checkpoint=newest, error=str(error))
            damage = error
        try:
            opened = self._open_at(newest - 1, before)
        except DamagedFile as error:
            raise OutputError(
                f"{self.folder.root}: the states of the last two checkpoints are damaged ({damage}; {error}). "
                f"The rows that are there can still be read; to go on, {self._begin_anew}"
            ) from error
        reach("restore.begin")
        self._go_back_to(opened[0], newest - 1)
        reach("restore.committed")
        return opened

    def _go_back_to(self, state: State, checkpoint: int) -> None:
        """Make a new version that shows what that checkpoint's showed. Its files are still there."""
        wanted = {file.name: file for file in state.files}
        present = {file.name: file for file in self._delta.files()}
        self._delta.commit(
            checkpoint,
            [file for name, file in wanted.items() if name not in present],
            [file for name, file in present.items() if name not in wanted],
            writer=state.writer,
            info={"kind": "restore", "checkpoint": checkpoint},
        )

    def _open_at(self, checkpoint: int, writer: int) -> tuple[State, bytes | None, AppendFile, AppendFile]:
        """The state of a checkpoint and the files that go with it, all matching their checksums, else DamagedFile."""
        if checkpoint == 0:
            state, counts = State(0, 0, self._identity.rule, Numbers(), [], Mark(), Mark(), None), None
        else:
            state = read_state(self.folder.own, checkpoint, writer)
            counts = read_counts(self.folder.own, checkpoint, writer)
        seen = self._held.enter_context(closing(AppendFile(self.folder.seen_file, state.seen)))
        return state, counts, seen, self._held.enter_context(closing(self._open_rejects(state)))

    def _open_rejects(self, state: State) -> AppendFile:
        """The list of rejected records. It decides nothing, so that one that was changed or removed is begun anew."""
        path = self.folder.rejects_file
        try:
            return AppendFile(path, state.rejects)
        except DamagedFile as error:
            log.warning("the list of rejected records was changed or removed, and is begun anew", error=str(error))
            if path.exists():
                path.replace(self.folder.damaged_rejects_file)
            return AppendFile(path, Mark())

    def _state_before(self) -> State | None:
        """The checkpoint that could be gone back to, if it is still there."""
        try:
            return read_state(self.folder.own, self.state.checkpoint - 1, self._delta.writer_before)
        except DamagedFile:
            return None

    def _stage(self) -> SortedFiles:
        label = f"{self.state.checkpoint + 1:012d}"
        return SortedFiles(self._staging, self._schema, label, self._encoder, self._disk)


def _judge(path: Path, outlook: Outlook) -> tuple[list[Prospects], Guard | None]:
    """What becomes of the rows of a data file, by its batches; what guards them if all of them stay, else None."""
    prospects = [outlook.of(batch) for batch in read_batches(path, ["pair_id", "entry_ids"])]
    if any((each.classes == EVICTED).any() for each in prospects):
        return prospects, None
    guard = GuardOfMany()
    for each in prospects:
        guard.add(each.witnesses, each.draws)
    return prospects, guard.joined


def _guard_of(parts: Sequence[Guard | None]) -> Guard | None:
    """The guard of all rows that these guard, None if that of some is not known."""
    joined: Guard | None = None
    for part in parts:
        if part is None:
            return None
        joined = part if joined is None else joined.joined(part)
    return joined


def _properties(rule: Rule) -> dict[str, str]:
    """What the Delta table says of itself, for people who look at it with other tools."""
    if rule.final is None:
        return {}
    values = {"decisions": "final", "pool_size": rule.final.pool_size, "horizon": rule.final.horizon}
    return {f"stream_curate.{key}": str(value) for key, value in values.items()}


def _commit_info(kind: str, state: State) -> dict[str, object]:
    """What the commit says of itself, for people who read the log with other tools."""
    info: dict[str, object] = {"kind": kind, "checkpoint": state.checkpoint, "rule": state.rule.as_dict()}
    n_curated = state.settled.n_curated if state.settled is not None else 0
    info["numbers"] = {**vars(state.numbers), "n_read": state.numbers.n_read, "n_curated": n_curated}
    if kind == "settle" and state.settled is not None:
        info["settled"] = {
            key: value for key, value in state.settled.__dict__.items() if key not in ("files", "writer")
        }
    return info
