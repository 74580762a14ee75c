"""The Delta log of the curated table: one commit for one checkpoint.

A commit carries the checkpoint's number as the `txn` version of this application. Commit infos get lost when the log
is cleaned, that number does not. Further such numbers say which writer wrote the checkpoint's state, and who the one
before, so that both are found by name; and one that no other commit has lets a writer know its own commit again.

deltalake records these numbers without enforcing them, so every commit is made from the version that was read and never
tried again: of two writers, the later one fails. It writes a commit aside and links it into place, so that its name
never stands for half of it while the machine runs.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import structlog
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import RemoveAction

from stream_curate.checked_file import sync_file, sync_folder
from stream_curate.errors import OutputError
from stream_curate.table.data_files import DataFile

APPLICATION = "stream-curate"
_WRITER = "stream-curate-writer"
_WRITER_BEFORE = "stream-curate-writer-before"
_COMMIT = "stream-curate-commit"
LOG = "_delta_log"
FIRST_COMMIT = f"{0:020d}.json"
CONFIGURATION = {"delta.logRetentionDuration": "interval 7 days"}
_TORN_WAIT_S = 0.5
_ARROW = "↳"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

log = structlog.get_logger()


class DeltaLog:
    """The table's versions, as one reader or writer knows them."""

    def __init__(self, folder: Path, owner: str = "") -> None:
        """Open the newest version.

        Args:
            folder: the table's.
            owner: a name for who commits, which no other one has; it stands in each commit.

        Raises:
            OutputError: when there is no Delta table, or it cannot be read.
        """
        self.folder = folder
        self._owner = owner
        # as it stands in a commit: JSON in a string of JSON, here without what encloses both
        self._own_mark = orjson.dumps(orjson.dumps({"owner": owner}).decode())[2:-2]
        self._table = _open(folder)
        self._files: list[DataFile] | None = None
        self._last_known = self.version

    @classmethod
    def create(
        cls, folder: Path, schema: pa.Schema, owner: str = "", properties: Mapping[str, str] | None = None
    ) -> DeltaLog:
        """Make version 0, empty, with these properties. If another writer has made it meanwhile, it is that one."""
        try:
            DeltaTable.create(
                str(folder),
                schema,
                name="curated",
                description="curated by stream-curate",
                configuration=CONFIGURATION | dict(properties or {}),
                raise_if_key_not_exists=False,  # ours it does not know
            )
        except DeltaError:
            if not cls.exists(folder):
                raise
        delta = cls(folder, owner)
        delta._force_to_disk()
        sync_folder(folder)
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
        return self._number(APPLICATION)

    @property
    def writer(self) -> int:
        """Who wrote the state of that checkpoint; 0 if it was written before writers had numbers."""
        return self._number(_WRITER)

    @property
    def writer_before(self) -> int:
        """Who wrote the state of the checkpoint before that one; 0 if that is not known, or there is none."""
        return self._number(_WRITER_BEFORE)

    def is_superseded(self) -> bool:
        """Whether another owner has made a version after the newest that was read or made here. Mostly looks at a name.

        That of an owner's own which it does not know of, since it failed right after the commit, is none of another.
        """
        version = self._last_known
        while True:
            version += 1
            try:
                commit = self._path(version).read_bytes()
            except FileNotFoundError:
                return False
            if not self._owner or self._own_mark not in commit:
                return True

    def files(self) -> list[DataFile]:
        """The data files of this version, sorted by name."""
        if self._files is None:
            self._files = _files_of(self._table)
        return list(self._files)

    def commit(
        self,
        checkpoint: int | None,
        added: Sequence[DataFile] = (),
        removed: Sequence[DataFile] = (),
        *,
        writer: int = 0,
        writer_before: int = 0,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the next version: `added` in, `removed` out, all or nothing.

        Without a checkpoint number the rows stay the same and only their files change, if anything does. With one, the
        writers are those of the checkpoint's state and of the state before.

        Raises:
            OutputError: when it did not land, another writer's commit being one reason.
        """
        own_number = _random_number()
        numbers = {_COMMIT: own_number}
        if checkpoint is not None:
            numbers |= {APPLICATION: checkpoint, _WRITER: writer, _WRITER_BEFORE: writer_before}
        data_change = checkpoint is not None
        now_ms = int(time.time() * 1000)
        removals = [
            RemoveAction(path=file.name, data_change=data_change, deletion_timestamp=now_ms, size=file.n_bytes)
            for file in removed
        ]
        properties = CommitProperties(
            custom_metadata={"stream_curate": orjson.dumps({**(info or {}), "owner": self._owner}).decode()},
            max_commit_retries=0,
            app_transactions=[Transaction(key, number) for key, number in numbers.items()],
        )
        expected = self.version + 1
        self._files = None
        try:
            self._table.create_write_transaction(
                [*(file.add_action(data_change=data_change) for file in added), *removals],
                "append",
                self._table.schema(),
                commit_properties=properties,
            )
        except (DeltaError, OSError) as error:
            # it may have landed all the same, or another's with the same number: only the log can tell
            self._table = _open(self.folder)
            if self._number(_COMMIT) != own_number:
                raise OutputError(
                    f"{self.folder}: version {expected} of the table could not be committed ({reason_of(error)}). "
                    "The table is as it was; run the same command again once the disk has room and no other "
                    "program writes to this table"
                ) from error
        self._last_known = expected
        self._table.update_incremental()
        self._force_to_disk()
        if self.version != expected:
            raise OutputError(
                f"{self.folder}: another program wrote version {self.version} of this table. "
                "Only one may write to it: stop the other one, then run the same command again"
            )

    def _force_to_disk(self) -> None:
        """The newest commit, first its content and then its name: deltalake leaves that to the system."""
        sync_file(self._path(self.version))
        sync_folder(self.folder / LOG)

    def _path(self, version: int) -> Path:
        return self.folder / LOG / f"{version:020d}.json"

    def _number(self, application: str) -> int:
        return int(self._table.transaction_version(application) or 0)


def _open(folder: Path) -> DeltaTable:
    try:
        return DeltaTable(str(folder))
    except TableNotFoundError:
        raise OutputError(f"{folder} holds no Delta table") from None
    except (DeltaError, OSError) as error:
        raise OutputError(f"{folder}: the Delta table cannot be read: {reason_of(error)}") from error


def mend_torn_commit(folder: Path) -> None:
    """After a power cut the newest commit may be a name without its content: then it never happened.

    It is replaced by a commit of nothing, and kept beside it under the ending `.torn`. Two writers may do so at once,
    however long one of them stands still in between: a name that stands in the log is never freed.
    """
    commits = sorted((folder / LOG).glob("[0-9]*.json"))
    if len(commits) < 2 or _is_whole(commits[-1]):
        return
    time.sleep(_TORN_WAIT_S)  # on a network disk it may only look torn
    if _is_whole(commits[-1]):
        return
    torn = commits[-1]
    log.warning("the newest commit was torn by a crash and is set aside", file=torn.name)
    with suppress(FileExistsError):
        os.link(torn, torn.with_suffix(".torn"))
    nothing = {"commitInfo": {"timestamp": int(time.time() * 1000), "operation": "WRITE", "operationParameters": {}}}
    draft = torn.with_suffix(f".{uuid.uuid4().hex}.draft")
    with open(draft, "wb") as file:
        file.write(orjson.dumps(nothing, option=orjson.OPT_APPEND_NEWLINE))
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, torn)
    sync_folder(torn.parent)


def new_writer() -> int:
    """A number for a writer that no other one has."""
    return _random_number()


def _random_number() -> int:
    """Of 63 bits, as Delta has signed numbers; never 0."""
    return secrets.randbits(63) or 1


def _is_whole(commit: Path) -> bool:
    lines = commit.read_bytes().splitlines()
    try:
        return bool(lines) and all(isinstance(orjson.loads(line), dict) for line in lines)
    except orjson.JSONDecodeError:
        return False


def reason_of(error: Exception) -> str:
    """What deltalake says, with the causes that stand behind arrows, and without the frames of its own that follow."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    causes = [_COLOURS.sub("", line).partition(_ARROW)[2].strip() for line in others if _ARROW in line]
    return ": ".join([first, *causes])


def _files_of(table: DeltaTable) -> list[DataFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
    rows = zip(
        actions["path"].to_pylist(), actions["num_records"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True
    )
    return sorted((DataFile(*row) for row in rows), key=lambda file: file.name)
