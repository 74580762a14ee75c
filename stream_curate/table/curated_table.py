"""The curated table: a Delta table whose every checkpoint is atomic.

One checkpoint is one Delta commit. In this order:

    1. the data files are closed and forced to disk, in a folder aside
    2. seen pairs and rejected records are appended, the counter is saved; all forced to disk
    3. the state is written under the checkpoint's number
    4. the data files are moved into the table's folder
    5. the Delta commit names them and carries the checkpoint's number
    6. what only older checkpoints needed is deleted

Before step 5 nothing has happened: opened again, the table goes on from the checkpoint before. After it all has. The
two newest states are kept; if the newest is damaged, the table first goes back to the version of the one before.
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

from stream_curate.checked_file import DamagedFile
from stream_curate.errors import OutputError
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
from stream_curate.table.delta import DeltaLog
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

StillKept = Callable[[pa.RecordBatch], np.ndarray]


class CuratedTable:
    """The one writer of a curated table.

    Attributes:
        state: that of the newest checkpoint; of checkpoint 0 in a new table.
    """

    def __init__(self, folder: TableFolder, identity: Identity, lock: Lock, max_small_files: int) -> None:
        self.folder = folder
        self.kept_columns = identity.kept_columns
        self._max_small_files = max_small_files
        self._schema = table_schema(identity.kept_columns)
        self._held = ExitStack()
        self._held.callback(lock.release)
        try:
            self._delta = (
                DeltaLog(folder.root) if DeltaLog.exists(folder.root) else DeltaLog.create(folder.root, self._schema)
            )
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
            if not folder.exists():
                reach("create.begin")
                with disk_errors(root):
                    folder.create(identity, metadata)
                reach("create.made")
            made_with = folder.identity()
        except BaseException:
            lock.release()
            raise
        with disk_errors(root):
            return cls(folder, made_with, lock, max_small_files)

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
    def checkpoint(self, after: State, counts: bytes, new_seen: Iterable[np.ndarray]) -> None:
        """Commit all that was appended.

        Args:
            after: rule, numbers and sources as they are now; the other fields are filled in here.
            counts: the counter's bytes.
            new_seen: uint64 arrays, the hashes of pairs first seen since the last checkpoint.
        """
        reach("checkpoint.begin")
        added = self._staged.finish()
        reach("checkpoint.files_closed")
        for base in new_seen:
            self._seen.append(base.astype("<u8").tobytes())
        state = replace(
            after,
            checkpoint=self.state.checkpoint + 1,
            version=self._delta.version + 1,
            counted_at=self.state.checkpoint + 1,
            seen=self._seen.mark(),
            rejects=self._rejects.mark(),
            settled=self.state.settled,
        )
        reach("checkpoint.appended")
        write_counts(self.folder.own, state.checkpoint, counts)
        reach("checkpoint.counts_written")
        self._commit("checkpoint", state, added, [])
        self._compact()
        self._vacuum()

    @told_as_output_errors
    def settle(self, still_kept: StillKept | None, entry_counts: np.ndarray) -> None:
        """Take the table down to exactly the offline subset at the checkpoint just made.

        Args:
            still_kept: which rows of a batch with `pair_id` and `entry_ids` stay, bool[n]; None when all do.
            entry_counts: int64[n_entries], the counts at this cut.
        """
        reach("settle.begin")
        removed: list[DataFile] = []
        files = self._delta.files()
        n_kept_rows = sum(file.n_rows for file in files)
        if still_kept is not None:
            for file in files:
                masks = [still_kept(batch) for batch in self._read(file, ["pair_id", "entry_ids"])]
                n_evicted = file.n_rows - sum(int(np.count_nonzero(mask)) for mask in masks)
                if n_evicted:
                    n_kept_rows -= n_evicted
                    removed.append(file)
                    self._rewrite(file, masks)
        added = self._staged.finish()
        reach("settle.files_closed")
        checkpoint = self.state.checkpoint + 1
        version = self._delta.version + 1
        write_settled_counts(self.folder.own, checkpoint, entry_counts)
        reach("settle.counts_written")
        gone = {file.name for file in removed}
        numbers = replace(self.state.numbers, n_evicted=self.state.numbers.n_admitted - n_kept_rows)
        settled = Settled(
            checkpoint=checkpoint,
            version=version,
            threshold=self.state.rule.threshold,
            n_read=numbers.n_read,
            n_unique=numbers.n_unique,
            n_curated=n_kept_rows,
            cut={source.uri: source.n_rows for source in self.state.sources},
            files=sorted({file.name for file in files} - gone | {file.name for file in added}),
        )
        state = replace(self.state, checkpoint=checkpoint, version=version, numbers=numbers, settled=settled)
        self._commit("settle", state, added, removed)
        self._compact()
        self._vacuum()

    def _commit(self, kind: str, state: State, added: list[DataFile], removed: list[DataFile]) -> None:
        """Steps 3 to 6 of a checkpoint."""
        write_state(self.folder.own, state)
        reach(f"{kind}.state_written")
        self._staged.move_into(self.folder.root)
        reach(f"{kind}.files_moved")
        self._delta.commit(state.checkpoint, added, removed, info=_commit_info(kind, state))
        reach(f"{kind}.committed")
        self._previous, self.state = self.state, state
        self._staged = self._stage()
        self._forget()
        reach(f"{kind}.cleaned")

    def _compact(self) -> None:
        """Merge small files once there are many. The rows stay the same, and so does the checkpoint."""
        small = [file for file in self._delta.files() if file.n_bytes < SMALL_FILE_BYTES]
        if len(small) <= self._max_small_files:
            return
        reach("compact.begin")
        for file in small:
            for batch in self._read(file):
                self._staged.write(batch)
        added = self._staged.finish()
        reach("compact.files_closed")
        self._staged.move_into(self.folder.root)
        reach("compact.files_moved")
        self._delta.commit(None, added, small, info={"kind": "compact"})
        reach("compact.committed")
        self._staged = self._stage()

    def _vacuum(self) -> None:
        """Delete data files that neither of the two checkpoints, nor the settled version, nor this one names."""
        present = {path.name for path in self.folder.root.glob(FILE_PATTERN)}
        wanted = {file.name for file in self._delta.files()}
        if present <= wanted:
            return
        for state in (self.state, self._previous):
            if state is not None and state.checkpoint > 0:
                wanted |= {file.name for file in self._delta.files_at(state.version)}
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
        self._delta.restore(opened[0].version, newest - 1)
        reach("restore.committed")
        return opened

    def _open_at(self, checkpoint: int, identity: Identity) -> tuple[State, bytes | None, AppendFile, AppendFile]:
        """The state of a checkpoint and the files that go with it, all matching their checksums, else DamagedFile."""
        if checkpoint == 0:
            state, counts = State(0, 0, 0, identity.rule, Numbers(), [], Mark(), Mark(), None), None
        else:
            state = read_state(self.folder.own, checkpoint)
            counts = read_counts(self.folder.own, state.counted_at)
        seen = self._held.enter_context(closing(AppendFile(self.folder.seen_file, state.seen)))
        rejects = self._held.enter_context(closing(AppendFile(self.folder.rejects_file, state.rejects)))
        return state, counts, seen, rejects

    def _state_before(self) -> State | None:
        """The checkpoint that could be gone back to, if it is still there."""
        try:
            return read_state(self.folder.own, self.state.checkpoint - 1)
        except DamagedFile:
            return None

    def _rewrite(self, file: DataFile, masks: list[np.ndarray]) -> None:
        for batch, mask in zip(self._read(file), masks, strict=True):
            self._staged.write(batch.filter(pa.array(mask)))

    def _read(self, file: DataFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        return read_batches(self.folder.root / file.name, columns)

    def _stage(self) -> StagedFiles:
        return StagedFiles(self.folder.staging, self._schema, f"{self.state.checkpoint + 1:012d}")


def _commit_info(kind: str, state: State) -> dict[str, object]:
    """What the commit says of itself, for people who read the log with other tools."""
    info: dict[str, object] = {"kind": kind, "checkpoint": state.checkpoint, "rule": state.rule.as_dict()}
    if kind == "settle" and state.settled is not None:
        info["settled"] = {key: value for key, value in state.settled.__dict__.items() if key != "files"}
    return info
