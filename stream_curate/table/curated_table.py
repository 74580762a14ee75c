"""The curated table: a Delta table whose every checkpoint is atomic.

One checkpoint is one Delta commit. In this order:

    1. the data files are closed and forced to disk, in a folder aside
    2. seen pairs and rejected records are appended, the counter is saved; all forced to disk
    3. the state is written under the checkpoint's number
    4. the data files are moved into the table's folder
    5. the Delta commit names them and carries the checkpoint's number
    6. what only older checkpoints needed is deleted

Before step 5 nothing has happened: opened again, the table goes on from the checkpoint before. After it all has. The
two newest states are kept, each with its own copy of the counter; if a part of the newest is damaged, the table first
goes back to what the one before showed. That cannot help where both share what is damaged: the older part of the seen
pairs, and data files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import structlog

from stream_curate.balance import EVICTED, N_OUTLOOKS
from stream_curate.checked_file import DamagedFile
from stream_curate.errors import ConfigError, OutputError
from stream_curate.failpoints import reach
from stream_curate.metadata import Metadata
from stream_curate.pairs import Rejection
from stream_curate.table.append_file import AppendFile, Mark, read_marked
from stream_curate.table.data_files import (
    FILE_PATTERN,
    TARGET_BYTES,
    DataFile,
    StagedFiles,
    read_batches,
    table_schema,
)
from stream_curate.table.delta import DeltaLog, set_torn_commit_aside
from stream_curate.table.disk_errors import disk_errors, told_as_output_errors
from stream_curate.table.folder import Identity, Lock, TableFolder
from stream_curate.table.state import (
    Numbers,
    Settled,
    State,
    forget_others,
    read_counts,
    read_state,
    write_counts,
    write_settled_counts,
    write_state,
)

SMALL_FILE_BYTES = TARGET_BYTES // 4
MAX_SMALL_FILES = 32

log = structlog.get_logger()

Outlook = Callable[[pa.RecordBatch], np.ndarray]
"""Of a batch with `pair_id` and `entry_ids`, for each row EVICTED, or a class of how long it may stay: int8[n]."""


class CuratedTable:
    """The one writer of a curated table.

    Attributes:
        state: that of the newest checkpoint; of checkpoint 0 in a new table.
    """

    def __init__(self, folder: TableFolder, identity: Identity, lock: Lock, max_small_files: int) -> None:
        self.folder = folder
        self.is_broken = False
        self.kept_columns = identity.kept_columns
        self._max_small_files = max_small_files
        self._schema = table_schema(identity.kept_columns)
        self._held = ExitStack()
        self._held.callback(lock.release)
        try:
            self._delta = self._open_log()
            self.state, self._counts, self._seen, self._rejects = self._restore(identity)
            self._previous = self._state_before()
            shutil.rmtree(folder.staging, ignore_errors=True)
            folder.staging.mkdir()
            self._staged = self._stage()
            self._vacuum()
        except BaseException:
            self._held.close()
            raise

    @classmethod
    def open(
        cls, root: Path, identity: Identity, metadata: Metadata, *, max_small_files: int = MAX_SMALL_FILES
    ) -> CuratedTable:
        """Lock the folder and open its table, making it if there is none.

        An existing table is opened as it is: whoever calls has compared `identity` with what it was made with. With
        more than `max_small_files` data files under 32 MiB these are merged.

        Raises:
            ConfigError: when something that is not ours is there.
            OutputError: when it is in use, damaged beyond the checkpoint before the last, or cannot be written.
        """
        folder = TableFolder(root)
        folder.exists()
        lock = Lock(folder)
        try:
            set_torn_commit_aside(root)
            if folder.exists() and not folder.was_committed_to():
                folder.forget_unused()
            if not folder.exists():
                reach("create.begin")
                with disk_errors(root):
                    folder.create(identity, metadata)
                reach("create.made")
            made_with = folder.identity()
            if not made_with.is_same_table(identity):
                raise ConfigError(f"{root} was made by another program at the same moment: run the same command again")
        except BaseException:
            lock.release()
            raise
        with disk_errors(root):
            return cls(folder, made_with, lock, max_small_files)

    def _open_log(self) -> DeltaLog:
        """The Delta log, made if this table is new. What is left of a table without its log is never taken for new."""
        root = self.folder.root
        if not DeltaLog.exists(root):
            if any(root.glob(FILE_PATTERN)) or any(self.folder.own.glob("state-*")):
                raise OutputError(f"{root} has lost its _delta_log: put it back, or curate again into a new folder")
            return DeltaLog.create(root, self._schema)
        delta = DeltaLog(root)
        if delta.checkpoint == 0 and delta.files():
            raise OutputError(
                f"{root}: another program has taken the numbers of the checkpoints out of the Delta log. "
                "The rows can still be read; to go on, curate again into a new folder"
            )
        return delta

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

    @told_as_output_errors
    def append(self, admitted: pa.RecordBatch) -> None:
        """Add admitted pairs, to be committed by the next checkpoint."""
        self._staged.write(admitted)

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
    def checkpoint(self, after: State, counts: bytes) -> None:
        """Commit all that was appended.

        Args:
            after: rule, numbers and sources as they are now; the other fields are filled in here.
            counts: the counter's bytes.
        """
        reach("checkpoint.begin")
        added = self._staged.finish()
        reach("checkpoint.files_closed")
        state = replace(
            after,
            checkpoint=self.state.checkpoint + 1,
            version=self._delta.version + 1,
            seen=self._seen.mark(),
            rejects=self._rejects.mark(),
            settled=self.state.settled,
            files=[*self._delta.files(), *added],
        )
        reach("checkpoint.appended")
        self._commit("checkpoint", state, counts, [self._staged], [])
        self._staged = self._stage()
        self._compact()
        self._vacuum()

    @told_as_output_errors
    def settle(self, outlook: Outlook | None, entry_counts: np.ndarray, counts: bytes) -> None:
        """Take the table down to exactly the offline subset at the checkpoint just made.

        A file is written anew only if some of its rows go. What stays of it is sorted into files by how long it may
        stay, so that the next settles find most files as they should be.

        Args:
            outlook: which rows stay; None when all do.
            entry_counts: int64[n_entries], the counts at this cut.
            counts: the counter's bytes, as at the checkpoint: saved once more, so that going back one checkpoint goes
                back to another copy.
        """
        reach("settle.begin")
        staged = [self._stage(f"-{outlook_class}") for outlook_class in range(N_OUTLOOKS)]
        removed: list[DataFile] = []
        files = self._delta.files()
        n_kept_rows = sum(file.n_rows for file in files)
        if outlook is not None:
            for file in files:
                outlooks = [outlook(batch) for batch in self._read(file, ["pair_id", "entry_ids"])]
                n_evicted = sum(int(np.count_nonzero(each == EVICTED)) for each in outlooks)
                if n_evicted:
                    n_kept_rows -= n_evicted
                    removed.append(file)
                    self._rewrite(file, outlooks, staged)
        added = [file for each in staged for file in each.finish()]
        reach("settle.files_closed")
        checkpoint = self.state.checkpoint + 1
        version = self._delta.version + 1
        write_settled_counts(self.folder.own, checkpoint, entry_counts)
        reach("settle.counts_written")
        gone = {file.name for file in removed}
        left = [*(file for file in files if file.name not in gone), *added]
        numbers = replace(self.state.numbers, n_evicted=self.state.numbers.n_admitted - n_kept_rows)
        settled = Settled(
            checkpoint=checkpoint,
            version=version,
            threshold=self.state.rule.threshold,
            n_read=numbers.n_read,
            n_unique=numbers.n_unique,
            n_curated=n_kept_rows,
            cut={source.uri: source.n_rows for source in self.state.sources},
            files=sorted(file.name for file in left),
        )
        state = replace(
            self.state, checkpoint=checkpoint, version=version, numbers=numbers, settled=settled, files=left
        )
        self._commit("settle", state, counts, staged, removed)
        self._compact()
        self._vacuum()

    def _commit(
        self, kind: str, state: State, counts: bytes, staged: list[StagedFiles], removed: list[DataFile]
    ) -> None:
        """What is left of step 2, and steps 3 to 6 of a checkpoint."""
        write_counts(self.folder.own, state.checkpoint, counts)
        reach(f"{kind}.counts_saved")
        write_state(self.folder.own, state)
        reach(f"{kind}.state_written")
        for files in staged:
            files.move_into(self.folder.root)
        reach(f"{kind}.files_moved")
        added = [file for files in staged for file in files.finish()]
        self._delta.commit(state.checkpoint, added, removed, info=_commit_info(kind, state))
        reach(f"{kind}.committed")
        self._previous, self.state = self.state, state
        self._forget()
        reach(f"{kind}.cleaned")

    def _compact(self) -> None:
        """Merge small files once there are many. The rows stay the same, and so does the checkpoint."""
        small = [file for file in self._delta.files() if file.n_bytes < SMALL_FILE_BYTES]
        if len(small) <= self._max_small_files:
            return
        reach("compact.begin")
        staged = self._stage()
        for file in small:
            for batch in self._read(file):
                staged.write(batch)
        added = staged.finish()
        reach("compact.files_closed")
        staged.move_into(self.folder.root)
        reach("compact.files_moved")
        self._delta.commit(None, added, small, info={"kind": "compact"})
        reach("compact.committed")

    def _vacuum(self) -> None:
        """Delete data files that neither of the two checkpoints, nor the settled version, nor this one names."""
        present = {path.name for path in self.folder.root.glob(FILE_PATTERN)}
        wanted = {file.name for file in self._delta.files()}
        if present <= wanted:
            return
        for state in (self.state, self._previous):
            if state is not None:
                wanted |= {file.name for file in state.files}
                wanted |= set(state.settled.files if state.settled is not None else ())
        for name in sorted(present - wanted):
            reach("vacuum.before_file")
            (self.folder.root / name).unlink(missing_ok=True)
            reach("vacuum.after_file")

    def _forget(self) -> None:
        forget_others(self.folder.own, [state for state in (self.state, self._previous) if state is not None])

    def _restore(self, identity: Identity) -> tuple[State, bytes | None, AppendFile, AppendFile]:
        """Everything as at the last commit, or as at the one before it if a part of the last is damaged."""
        newest = self._delta.checkpoint
        try:
            return self._open_at(newest, identity)
        except DamagedFile as error:
            log.warning("state damaged, going back one checkpoint", checkpoint=newest, error=str(error))
            damage = error
        try:
            opened = self._open_at(newest - 1, identity)
        except DamagedFile as error:
            raise OutputError(
                f"{self.folder.root}: the states of the last two checkpoints are damaged ({damage}; {error}). "
                "The rows that are there can still be read; to go on, curate again into a new folder"
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
            info={"kind": "restore", "checkpoint": checkpoint},
        )

    def _open_at(self, checkpoint: int, identity: Identity) -> tuple[State, bytes | None, AppendFile, AppendFile]:
        """The state of a checkpoint and the files that go with it, all matching their checksums, else DamagedFile."""
        if checkpoint == 0:
            state, counts = State(0, 0, identity.rule, Numbers(), [], Mark(), Mark(), None), None
        else:
            state = read_state(self.folder.own, checkpoint)
            counts = read_counts(self.folder.own, checkpoint)
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
            return read_state(self.folder.own, self.state.checkpoint - 1)
        except DamagedFile:
            return None

    def _rewrite(self, file: DataFile, outlooks: list[np.ndarray], staged: list[StagedFiles]) -> None:
        for batch, classes in zip(self._read(file), outlooks, strict=True):
            for outlook_class, files in enumerate(staged):
                files.write(batch.filter(pa.array(classes == outlook_class)))

    def _read(self, file: DataFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        return read_batches(self.folder.root / file.name, columns)

    def _stage(self, label: str = "") -> StagedFiles:
        return StagedFiles(self.folder.staging, self._schema, f"{self.state.checkpoint + 1:012d}{label}")


def _commit_info(kind: str, state: State) -> dict[str, object]:
    """What the commit says of itself, for people who read the log with other tools."""
    info: dict[str, object] = {"kind": kind, "checkpoint": state.checkpoint, "rule": state.rule.as_dict()}
    if kind == "settle" and state.settled is not None:
        info["settled"] = {key: value for key, value in state.settled.__dict__.items() if key != "files"}
    return info
