"""The Delta log of the curated table: one commit for one checkpoint.

A commit carries the checkpoint's number as the `txn` version of this application. Commit infos get lost when the log
is cleaned, that number does not. deltalake records it without enforcing it, so every commit is made from the version
that was read and never tried again: of two writers, the later one fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import structlog
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import RemoveAction

from stream_curate.checked_file import sync_folder
from stream_curate.errors import OutputError
from stream_curate.table.data_files import DataFile

APPLICATION = "stream-curate"
LOG = "_delta_log"
FIRST_COMMIT = f"{0:020d}.json"
CONFIGURATION = {"delta.logRetentionDuration": "interval 7 days"}

log = structlog.get_logger()


class DeltaLog:
    """The table's versions, read and written by this process alone."""

    def __init__(self, folder: Path) -> None:
        """Open the newest version.

        Raises:
            OutputError: when there is no Delta table, or it cannot be read.
        """
        self.folder = folder
        self._table = _open(folder)

    @classmethod
    def create(cls, folder: Path, schema: pa.Schema) -> DeltaLog:
        """Make version 0, empty."""
        DeltaTable.create(
            str(folder), schema, name="curated", description="curated by stream-curate", configuration=CONFIGURATION
        )
        delta = cls(folder)
        delta._force_to_disk()
        return delta

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a Delta table in `folder`."""
        return DeltaTable.is_deltatable(str(folder))

    @property
    def version(self) -> int:
        """The newest version known here."""
        return int(self._table.version())

    @property
    def checkpoint(self) -> int:
        """The number of the newest committed checkpoint, 0 before the first."""
        return int(self._table.transaction_version(APPLICATION) or 0)

    def files(self) -> list[DataFile]:
        """The data files of this version, sorted by name."""
        return _files_of(self._table)

    def commit(
        self,
        checkpoint: int | None,
        added: Sequence[DataFile] = (),
        removed: Sequence[DataFile] = (),
        *,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the next version: `added` in, `removed` out, all or nothing.

        Without a checkpoint number the rows stay the same and only their files change.

        Raises:
            OutputError: when it did not land, another writer's commit being one reason.
        """
        data_change = checkpoint is not None
        now_ms = int(time.time() * 1000)
        removals = [
            RemoveAction(path=file.name, data_change=data_change, deletion_timestamp=now_ms, size=file.n_bytes)
            for file in removed
        ]
        properties = CommitProperties(
            custom_metadata={"stream_curate": orjson.dumps(info or {}).decode()},
            max_commit_retries=0,
            app_transactions=[Transaction(APPLICATION, checkpoint)] if checkpoint is not None else None,
        )
        expected = self.version + 1
        try:
            self._table.create_write_transaction(
                [*(file.add_action(data_change=data_change) for file in added), *removals],
                "append",
                self._table.schema(),
                commit_properties=properties,
            )
        except (DeltaError, OSError) as error:
            # it may have landed all the same: only the log can tell
            self._table = _open(self.folder)
            if self.version != expected or (checkpoint is not None and self.checkpoint != checkpoint):
                raise OutputError(
                    f"{self.folder}: version {expected} of the table could not be committed ({first_line(error)}). "
                    "The table is as it was; run the same command again once the disk has room and no other "
                    "program writes to this table"
                ) from error
        self._table.update_incremental()
        self._force_to_disk()
        if self.version != expected:
            raise OutputError(
                f"{self.folder}: another program wrote version {self.version} of this table. "
                "Only one may write to it: stop the other one, then run the same command again"
            )

    def _force_to_disk(self) -> None:
        """The newest commit, first its content and then its name: deltalake leaves that to the system."""
        with open(self.folder / LOG / f"{self.version:020d}.json", "rb") as file:
            os.fsync(file.fileno())
        sync_folder(self.folder / LOG)
        sync_folder(self.folder)


def _open(folder: Path) -> DeltaTable:
    try:
        return DeltaTable(str(folder))
    except TableNotFoundError:
        raise OutputError(f"{folder} holds no Delta table") from None
    except (DeltaError, OSError) as error:
        raise OutputError(f"{folder}: the Delta table cannot be read: {first_line(error)}") from error


def set_torn_commit_aside(folder: Path) -> None:
    """After a power cut the newest commit may be a name without its content: then it never happened."""
    commits = sorted((folder / LOG).glob("[0-9]*.json"))
    if len(commits) > 1 and not _is_whole(commits[-1]):
        log.warning("the newest commit was torn by a crash and is set aside", file=commits[-1].name)
        commits[-1].rename(commits[-1].with_suffix(".torn"))


def _is_whole(commit: Path) -> bool:
    lines = commit.read_bytes().splitlines()
    try:
        return bool(lines) and all(isinstance(orjson.loads(line), dict) for line in lines)
    except orjson.JSONDecodeError:
        return False


def first_line(error: Exception) -> str:
    """What deltalake says, without the frames of its own that follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _files_of(table: DeltaTable) -> list[DataFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
    rows = zip(
        actions["path"].to_pylist(), actions["num_records"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True
    )
    return sorted((DataFile(*row) for row in rows), key=lambda file: file.name)
