"""The table's folder: what lies where, whether it is ours, and who writes to it."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from stream_curate.checked_file import DamagedFile, read_checked, sync_folder, write_checked
from stream_curate.errors import ConfigError, OutputError
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.table.data_files import FILE_PATTERN
from stream_curate.table.delta import FIRST_COMMIT, LOG
from stream_curate.table.state import FORMAT_VERSION

FROM_FILES = "files"
FROM_KAFKA = "kafka:"


@dataclass(frozen=True)
class Identity:
    """What a table was made with and keeps for ever (the threshold apart, which may be lowered).

    `origin` is what feeds it: "files", or "kafka:PAIRS,LEDGER/P" for these topics of P partitions.
    """

    rule: Rule
    kept_columns: tuple[str, ...]
    origin: str = FROM_FILES

    @property
    def is_from_kafka(self) -> bool:
        """Whether `stream-curate settler` writes it, rather than `stream-curate curate`."""
        return self.origin.startswith(FROM_KAFKA)

    @property
    def ledger(self) -> str | None:
        """The topic with what came of the input; None for a table made from files."""
        return self.origin.rpartition("/")[0].rpartition(",")[2] if self.is_from_kafka else None

    def check_origin(self, root: Path, wanted: str) -> None:
        """Raise ConfigError unless the table in `root` is fed from `wanted`."""
        if self.origin == wanted:
            return
        if wanted == FROM_FILES:
            raise ConfigError(
                f"{root} is fed from Kafka, by `stream-curate settler`, and takes no files besides: give a new folder, "
                "or send the files through Kafka with `stream-curate produce`"
            )
        if not self.is_from_kafka:
            raise ConfigError(f"{root} was curated from files, and takes nothing from Kafka: give a new folder")
        raise ConfigError(
            f"{root} is fed from {self.origin} (topics, number of partitions) and not from {wanted}: give the settings "
            "that it was made with, or a new folder"
        )

    def is_same_table(self, other: Identity) -> bool:
        """Whether both are of one table, whose threshold may have been lowered."""
        return replace(self, rule=replace(self.rule, threshold=other.rule.threshold)) == other


class TableFolder:
    """Paths in a table's folder. Names that begin with `_` are no data to any reader of Delta tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = root / "_stream_curate"
        self.identity_file = self.own / "table.bin"
        self.metadata_file = self.own / "metadata.txt.zst"
        self.lock_file = self.own / "lock"
        self.seen_file = self.own / "seen.u64"
        self.rejects_file = root / "_rejects.jsonl"
        self.damaged_rejects_file = root / "_rejects.damaged.jsonl"
        self.staging = self.own / "staging"

    def exists(self) -> bool:
        """Whether a table of ours was made here.

        Raises:
            ConfigError: when something else is here.
            OutputError: when no folder can be here.
        """
        try:
            return self._is_ours()
        except OSError as error:
            raise OutputError(f"{self.root} cannot be a folder: {error.strerror}") from None

    def _is_ours(self) -> bool:
        if self.identity_file.exists():
            return True
        if not self.root.exists():
            return False
        if not self.root.is_dir():
            raise ConfigError(f"{self.root} is a file: give a folder that is empty or does not exist yet")
        # a creation that was interrupted leaves nothing but our own subfolder, without the identity
        if any(path != self.own for path in self.root.iterdir()):
            if self.identity_file.exists():  # made at this moment
                return True
            what = "a Delta table" if (self.root / LOG).exists() else "a folder with other files"
            raise ConfigError(
                f"{self.root} is {what} that stream-curate did not make: "
                "give a folder that is empty or does not exist yet"
            )
        return False

    def create(self, identity: Identity, metadata: Metadata) -> None:
        """Make the folder ours: the identity comes last, so that an interrupted creation is begun again."""
        metadata.save(self.metadata_file, zstd_level=3)  # the level for shipping takes seconds
        with open(self.metadata_file, "rb") as file:
            os.fsync(file.fileno())
        for folder in (self.own, self.root, self.root.parent):
            sync_folder(folder)
        header = {
            "format_version": FORMAT_VERSION,
            "rule": identity.rule.as_dict(),
            "kept_columns": list(identity.kept_columns),
            "origin": identity.origin,
        }
        # whole, then moved: another settler may do the same at this moment
        draft = self.own / f"table-{uuid.uuid4().hex}.bin"
        write_checked(draft, header)
        os.replace(draft, self.identity_file)
        sync_folder(self.own)

    def was_committed_to(self) -> bool:
        """Whether anything but its creation has happened to the table, as far as can be seen without reading it."""
        log = self.root / LOG
        if not log.is_dir():
            return any(self.root.glob(FILE_PATTERN)) or any(self.own.glob("state-*"))
        return any(path.name != FIRST_COMMIT for path in log.glob("[0-9]*"))

    def forget_unused(self) -> None:
        """Take back a creation after which nothing was ever committed: the next one may have another rule.

        The identity goes last: until then the folder is known as ours, and a crash meanwhile is no hindrance.
        """
        lists = (self.seen_file, self.rejects_file, self.damaged_rejects_file)
        for path in (*lists, *self.root.glob(FILE_PATTERN), *self.own.glob("*-*.bin")):
            path.unlink(missing_ok=True)
        for path in (self.root / LOG, self.staging):
            shutil.rmtree(path, ignore_errors=True)
        self.identity_file.unlink()

    def identity(self) -> Identity:
        """What the table was made with.

        Raises:
            ConfigError: when the folder is not one of ours, or of another format version.
            OutputError: when the file that says so is damaged.
        """
        if not os.path.exists(self.identity_file):  # which, unlike Path.exists, takes names of any length
            raise ConfigError(f"{self.root} holds no curated table: make one with `stream-curate curate`")
        try:
            header, _ = read_checked(self.identity_file)
        except DamagedFile as error:
            raise OutputError(f"{error}. Curate again into a new folder") from error
        if header["format_version"] != FORMAT_VERSION:
            raise ConfigError(
                f"{self.root} is of format version {header['format_version']}; "
                f"this program reads and writes version {FORMAT_VERSION}"
            )
        return Identity(Rule.from_dict(header["rule"]), tuple(header["kept_columns"]), header.get("origin", FROM_FILES))

    def metadata(self) -> Metadata:
        """The list of entries that lies with the table."""
        return Metadata.load(self.metadata_file)


class Lock:
    """Holds a table for one writer, until it is let go or the process ends."""

    def __init__(self, folder: TableFolder) -> None:
        """Take the lock.

        Raises:
            OutputError: when another process holds it.
        """
        try:
            folder.own.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(folder.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{folder.root} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise OutputError(
                f"{folder.root} is in use: another stream-curate writes to it. Wait for it to end, or stop it"
            ) from None

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._descriptor)
