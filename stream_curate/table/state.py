"""What a checkpoint remembers beside the rows of the table: enough to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa

from stream_curate.checked_file import DamagedFile, read_checked, write_checked
from stream_curate.reasons import Reason
from stream_curate.rule import Rule
from stream_curate.table.append_file import Mark
from stream_curate.table.data_files import DataFile

FORMAT_VERSION = 1
_PACKING = pa.Codec("lz4")


@dataclass
class SourcePosition:
    """How far a source has been read. `size` is in bytes; None for standard input."""

    uri: str
    size: int | None
    n_rows: int = 0
    finished: bool = False


@dataclass
class Numbers:
    """Every record read is in exactly one of unique, duplicate, forwarded and rejected; each admitted pair was unique.

    `n_matches` is the sum of all entry counts, `rejected` the number of rejected records by reason. `n_forwarded`
    counts pairs that Kafka workers passed on to their home partition, where they are read again; elsewhere it is 0.
    """

    n_unique: int = 0
    n_duplicate: int = 0
    n_matched: int = 0
    n_matches: int = 0
    n_admitted: int = 0
    n_evicted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    n_forwarded: int = 0

    def add(self, other: Numbers) -> None:
        """Count what `other` counted, too."""
        for key, n in vars(other).items():
            if key != "rejected":
                setattr(self, key, getattr(self, key) + n)
        for reason, n in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + n

    @property
    def n_rejected(self) -> int:
        """Records that were no valid pairs, for whatever reason."""
        return sum(self.rejected.values())

    @property
    def n_read(self) -> int:
        """Records read."""
        return self.n_unique + self.n_duplicate + self.n_forwarded + self.n_rejected

    @property
    def dropped(self) -> dict[str, int]:
        """Valid pairs that were not let in as they came, by reason."""
        return {
            Reason.UNMATCHED.value: self.n_unique - self.n_matched,
            Reason.BALANCED.value: self.n_matched - self.n_admitted,
            Reason.DUPLICATE.value: self.n_duplicate,
        }

    @property
    def n_in_table(self) -> int:
        """Rows in the newest version of the table, settled or not."""
        return self.n_admitted - self.n_evicted


@dataclass(frozen=True)
class Settled:
    """A version of the table that holds exactly the offline subset of what lies below its cut.

    Where decisions are final it is the newest checkpoint, which holds all that was accepted below its cut.

    `files` are the names of its data files: a reader needs no old log. `cut` is the rows read of each source. `writer`
    wrote the counts at the cut.
    """

    checkpoint: int
    version: int
    threshold: int
    n_read: int
    n_unique: int
    n_curated: int
    cut: dict[str, int]
    files: list[str]
    writer: int = 0


@dataclass
class State:
    """The state of one checkpoint."""

    checkpoint: int
    version: int
    """The Delta version that the checkpoint's own commit makes."""
    rule: Rule
    numbers: Numbers
    sources: list[SourcePosition]
    seen: Mark
    rejects: Mark
    settled: Settled | None
    files: list[DataFile] = field(default_factory=list)
    """The data files of that version: to go back to it, or to know what it needs, takes no old log."""
    writer: int = 0
    """Which opening of the table wrote it; in the names of its files, so that no other one can write over them."""
    n_received: int = 0
    """Of the records read, how many Kafka workers had passed on from another partition."""

    def in_full(self) -> Settled:
        """All of this checkpoint as a settled version, which it is where decisions are final."""
        return Settled(
            checkpoint=self.checkpoint,
            version=self.version,
            threshold=self.rule.threshold,
            n_read=self.numbers.n_read,
            n_unique=self.numbers.n_unique,
            n_curated=self.numbers.n_in_table,
            cut={source.uri: source.n_rows for source in self.sources},
            files=sorted(file.name for file in self.files),
            writer=self.writer,
        )

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a state file."""
        return {"format_version": FORMAT_VERSION, **asdict(self), "rule": self.rule.as_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` gave. Raises DamagedFile for another format version."""
        found = values.get("format_version")
        if found != FORMAT_VERSION:
            raise DamagedFile(f"the state is of format version {found}; this program reads version {FORMAT_VERSION}")
        return cls(
            checkpoint=values["checkpoint"],
            version=values["version"],
            rule=Rule.from_dict(values["rule"]),
            numbers=Numbers(**values["numbers"]),
            sources=[SourcePosition(**source) for source in values["sources"]],
            seen=Mark(**values["seen"]),
            rejects=Mark(**values["rejects"]),
            settled=Settled(**values["settled"]) if values["settled"] else None,
            files=[DataFile(**file) for file in values["files"]],
            writer=values.get("writer", 0),
            n_received=values.get("n_received", 0),
        )


def write_state(folder: Path, state: State) -> None:
    """Save `state` under the checkpoint's number and its writer. The caller forces it to disk, as with all these."""
    write_checked(state_path(folder, state.checkpoint, state.writer), state.as_dict(), force=False)


def read_state(folder: Path, checkpoint: int, writer: int = 0) -> State:
    """The state of that checkpoint.

    Raises:
        DamagedFile: in words, when it is missing, damaged or of another format version.
    """
    header, _ = _read(state_path(folder, checkpoint, writer))
    return State.from_dict(header)


def write_counts(folder: Path, checkpoint: int, counts: bytes, writer: int = 0) -> None:
    """Save the counter's bytes under the number of the checkpoint that they go with."""
    _write_packed(counts_path(folder, checkpoint, writer), {"checkpoint": checkpoint}, counts)


def read_counts(folder: Path, checkpoint: int, writer: int = 0) -> bytes:
    """The counter's bytes. Raises DamagedFile as `read_state` does."""
    return _read_packed(counts_path(folder, checkpoint, writer))


def write_settled_counts(folder: Path, checkpoint: int, entry_counts: np.ndarray, writer: int = 0) -> None:
    """Save the count of every entry at the cut that `checkpoint` settles."""
    path = settled_counts_path(folder, checkpoint, writer)
    _write_packed(path, {"checkpoint": checkpoint}, entry_counts.astype("<i8").tobytes())


def read_settled_counts(folder: Path, checkpoint: int, writer: int = 0) -> np.ndarray:
    """int64[n_entries]: the count of every entry at that settled cut. Raises DamagedFile as `read_state` does."""
    return np.frombuffer(_read_packed(settled_counts_path(folder, checkpoint, writer)), "<i8").astype(np.int64)


def paths_of(folder: Path, states: Iterable[State | None]) -> set[Path]:
    """The files that belong to these states; of None there are none."""
    paths = set()
    for state in states:
        if state is not None:
            paths |= {
                state_path(folder, state.checkpoint, state.writer),
                counts_path(folder, state.checkpoint, state.writer),
            }
            if state.settled is not None:
                paths.add(settled_counts_path(folder, state.settled.checkpoint, state.settled.writer))
    return paths


def paths_present(folder: Path) -> list[Path]:
    """The files of all states that are there, and drafts that a crash left."""
    return [path for kind in ("state", "counts", "settled") for path in folder.glob(f"{kind}-*")]


def state_path(folder: Path, checkpoint: int, writer: int = 0) -> Path:
    """Where a writer puts the state of a checkpoint."""
    return folder / _name("state", checkpoint, writer)


def counts_path(folder: Path, checkpoint: int, writer: int = 0) -> Path:
    """Where the counter lies as it was at a checkpoint."""
    return folder / _name("counts", checkpoint, writer)


def settled_counts_path(folder: Path, checkpoint: int, writer: int = 0) -> Path:
    """Where the counts at a settled cut lie."""
    return folder / _name("settled", checkpoint, writer)


def _name(kind: str, checkpoint: int, writer: int) -> str:
    """Tables of earlier versions know no writers: 0 there."""
    return f"{kind}-{checkpoint:012d}-{writer:016x}.bin" if writer else f"{kind}-{checkpoint:012d}.bin"


def _write_packed(path: Path, header: dict[str, Any], payload: bytes) -> None:
    """Packed where that makes it smaller: most cells of a sketch are 0 for a long time, and most counts small."""
    packed = _PACKING.compress(payload, asbytes=True)
    if len(packed) < len(payload):
        header, payload = header | {"n_unpacked": len(payload)}, packed
    write_checked(path, header, payload, force=False)


def _read_packed(path: Path) -> bytes:
    header, payload = _read(path)
    if "n_unpacked" not in header:
        return payload
    return cast(bytes, _PACKING.decompress(payload, header["n_unpacked"], asbytes=True))


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        return read_checked(path)
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing") from None
