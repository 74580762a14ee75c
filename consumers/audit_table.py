"""The Delta table as an audit reads it: which settled versions there are, and what rows they hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from consumers.audit_recount import Expected, Recount, kept_hashes
from consumers.audit_report import AuditReport, CheckName
from stream_curate.errors import ConfigError, OutputError, UsageError
from stream_curate.offline import digest
from stream_curate.pairs import pair_ids
from stream_curate.printable import printable
from stream_curate.table.delta import APPLICATION, reason_of
from stream_curate.table.view import TableView

Versions = Literal["last", "all"] | int

_ATTEMPTS = 5
_READ_ROWS = 16_384
_COLUMNS = ["pair_id", "entry_ids", "source", "source_row"]


@dataclass(frozen=True)
class Settled:
    """What a settled version of the table says of itself.

    Attributes:
        version: of the Delta table.
        cut: one position for each partition of the input.
        files: its data files, None when the log no longer tells.
    """

    version: int
    threshold: int
    n_read: int
    n_unique: int
    n_curated: int
    cut: tuple[int, ...]
    files: tuple[str, ...] | None

    @property
    def where(self) -> str:
        """In words."""
        return f"version {self.version} of the table"


@dataclass(frozen=True)
class TableRows:
    """The rows of a settled version.

    Attributes:
        rows: pair_id, entry_ids, source, source_row.
        is_own_id: whether the pair_id of each is that of its url and text.
        kept: a hash of the kept columns of each.
    """

    rows: pa.Table
    is_own_id: list[bool]
    kept: list[int]


class TableReader:
    """Reads what an audit needs of the table, at once, since a settler may be at work on it.

    Memory: about 80 bytes a row of the data files that the wanted versions have, each file once.

    Args:
        out: the table's folder.
        topic: of the input: the cut has its partitions.
        n_partitions: P.
        versions: `last`, `all`, or the number of one settled version.

    Attributes:
        settled: all settled versions that are known, from the oldest on.
        rows: version -> its rows, for those that were wanted.
        unreadable: the wanted versions whose data files are gone.

    Raises:
        ConfigError: there is no table of ours.
        UsageError: the version that is wanted is no settled one.
        OutputError: the table is damaged.
    """

    def __init__(self, out: Path, topic: str, n_partitions: int, versions: Versions) -> None:
        self._out = out
        self._sources = [f"kafka:{topic}/{partition}" for partition in range(n_partitions)]
        self._by_file: dict[str, TableRows] = {}
        self.settled: list[Settled] = []
        self.rows: dict[int, TableRows] = {}
        self.unreadable: list[int] = []
        for attempt in range(_ATTEMPTS):
            self.settled = self._settled_versions()
            wanted = self._wanted(versions)
            self.rows = {settled.version: rows for settled in wanted if (rows := self._rows_of(settled)) is not None}
            self.unreadable = [settled.version for settled in wanted if settled.version not in self.rows]
            # the newest one's files stay, but for a moment's race with a settler
            if not wanted or wanted[-1] is not self.settled[-1] or self.unreadable[-1:] != [wanted[-1].version]:
                return
            time.sleep(0.1 * (attempt + 1))
        raise OutputError(f"{out}: data files of the newest settled version are gone: the table is damaged")

    def _settled_versions(self) -> list[Settled]:
        """Those that the log tells of; and the newest of all, which the table's state knows when the log does not."""
        found: dict[int, Settled] = {}
        if not DeltaTable.is_deltatable(str(self._out)):
            return []
        try:
            table = DeltaTable(str(self._out))
            has_commits = bool(table.transaction_version(APPLICATION))
            for commit in table.history():
                info = _info(commit)
                if info.get("kind") == "settle" and "settled" in info:
                    settled = self._settled(info["settled"], files=None)
                    found[settled.version] = settled
        except (DeltaError, OSError) as error:
            raise OutputError(f"{self._out}: the Delta table cannot be read: {reason_of(error)}") from error
        newest = TableView(self._out).state.settled if has_commits else None
        if newest is not None:
            settled = self._settled(newest.__dict__, files=tuple(newest.files))
            if settled.version >= max(found, default=-1):
                found[settled.version] = settled
        return [found[version] for version in sorted(found)]

    def _settled(self, said: dict[str, Any], files: tuple[str, ...] | None) -> Settled:
        """Raises ConfigError for a table that was not made of this topic."""
        cut = said["cut"]
        missing = [source for source in self._sources if source not in cut]
        others = [source for source in cut if source not in self._sources and not source.startswith("kafka:")]
        if others or len(missing) == len(self._sources):
            raise ConfigError(
                f"{self._out} was curated from {printable(', '.join(sorted(cut)), 200)}, not from {self._sources[0]}: "
                "give the settler's own folder, and its settings with --config"
            )
        numbers = {name: int(said[name]) for name in ("version", "threshold", "n_read", "n_unique", "n_curated")}
        return Settled(**numbers, cut=tuple(int(cut.get(source, 0)) for source in self._sources), files=files)

    def _wanted(self, versions: Versions) -> list[Settled]:
        if versions == "all":
            return self.settled
        if versions == "last":
            return self.settled[-1:]
        found = [settled for settled in self.settled if settled.version == versions]
        if not found:
            known = ", ".join(str(settled.version) for settled in self.settled[-20:]) or "none"
            raise UsageError(f"{self._out}: version {versions} is no settled version that is known. Settled: {known}")
        return found

    def _rows_of(self, settled: Settled) -> TableRows | None:
        """None when its data files are gone."""
        try:
            names = settled.files if settled.files is not None else self._files_of(settled.version)
            parts = [self._read(name) for name in names]
        except (DeltaError, FileNotFoundError):
            return None
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{self._out}: a data file of {settled.where} is damaged: {error}") from error
        return TableRows(
            pa.concat_tables([part.rows for part in parts]) if parts else pa.table({}),
            [is_own for part in parts for is_own in part.is_own_id],
            [kept for part in parts for kept in part.kept],
        )

    def _files_of(self, version: int) -> list[str]:
        actions = pa.table(DeltaTable(str(self._out), version=version).get_add_actions(flatten=True))
        return sorted(actions["path"].to_pylist())

    def _read(self, name: str) -> TableRows:
        if name not in self._by_file:
            is_own_id: list[bool] = []
            kept: list[int] = []
            pieces = []
            with pq.ParquetFile(self._out / name) as file:
                for batch in file.iter_batches(_READ_ROWS):
                    own_ids = pair_ids(*(batch.column(column).cast(pa.binary()) for column in ("url", "text")))
                    is_own_id += [
                        a == b for a, b in zip(own_ids.to_pylist(), batch["pair_id"].to_pylist(), strict=True)
                    ]
                    kept += kept_hashes(batch)
                    pieces.append(batch.select(_COLUMNS))
                rows = pa.Table.from_batches(pieces) if pieces else pa.table({})
            self._by_file[name] = TableRows(rows, is_own_id, kept)
        return self._by_file[name]


def compare_version(
    report: AuditReport,
    recount: Recount,
    settled: Settled,
    table: TableRows,
    expected: Expected,
    sources: Sequence[str],
    keeper: str,
) -> str:
    """Hold the rows of a settled version against what offline keeps at its cut, pair by pair.

    Where decisions are final: the rows of the newest version against what the ledger has accepted below its cut.

    Args:
        report: where differences go.
        recount: of all the input below the cut.
        settled: what the version says of itself.
        table: its rows.
        expected: what it must hold.
        sources: the URI of each partition.
        keeper: who keeps what is expected, for the words: `offline` or `the ledger`.

    Returns:
        The digest of its rows.
    """
    where = settled.where
    n_read, n_unique = recount.numbers(settled.cut)
    report.expect(CheckName.TABLE, settled.n_read, n_read, f"{where}: n_read is")
    report.expect(CheckName.TABLE, settled.n_unique, n_unique, f"{where}: n_unique is")
    report.expect(CheckName.TABLE, settled.n_curated, len(table.kept), f"{where}: n_curated is")
    by_id: dict[bytes, list[int]] = {}
    for index in (*expected.kept, *expected.undecided):
        by_id.setdefault(recount.pool.pair_ids[index], []).append(index)
    found: set[bytes] = set()
    for pair_id, row in _rows(table):
        report.compare(CheckName.TABLE)
        words = f"{where}: the pair {pair_id.hex()}"
        entry_ids, source, position, is_own_id, kept_hash = row
        indices = by_id.get(pair_id)
        if pair_id in found:
            report.differ(CheckName.TABLE, f"{words} stands in it twice")
        elif indices is None:
            report.differ(
                CheckName.TABLE, f"{words} ({source}, position {position}) is in it, and {keeper} does not keep it"
            )
        else:
            at = {(sources[partition], p): k for k in indices for partition, p in [recount.where(k)]}
            index = at.get((source, position), indices[0])
            if (source, position) not in at:
                report.differ(
                    CheckName.TABLE, f"{words} has the place {source}, {position}; it is {recount.in_words(index)}"
                )
            elif kept_hash != recount.kept_hash(index):
                report.differ(CheckName.TABLE, f"{words} has other kept columns than {recount.in_words(index)}")
            matched = list(recount.pool.matched(index))
            if entry_ids != matched:
                report.differ(CheckName.TABLE, f"{words} has entry_ids {entry_ids}, where it matches {matched}")
            if not is_own_id:
                report.differ(CheckName.TABLE, f"{words} has another url or text than its pair_id says")
        found.add(pair_id)
    missing = {recount.pool.pair_ids[index]: index for index in reversed(expected.kept)}
    for pair_id in missing.keys() - found:
        report.compare(CheckName.TABLE)
        report.differ(
            CheckName.TABLE, f"{where}: {keeper} keeps {recount.in_words(missing[pair_id])}, and it is not in it"
        )
    return digest(found)


def _rows(table: TableRows) -> Iterator[tuple[bytes, tuple[list[int], str, int, bool, int]]]:
    n_done = 0
    for batch in table.rows.to_batches(_READ_ROWS):
        n_next = n_done + len(batch)
        columns = (batch.column(name).to_pylist() for name in _COLUMNS)
        for pair_id, *row in zip(*columns, table.is_own_id[n_done:n_next], table.kept[n_done:n_next], strict=True):
            yield pair_id, tuple(row)
        n_done = n_next


def _info(commit: dict[str, Any]) -> dict[str, Any]:
    try:
        info = json.loads(commit.get("stream_curate", "{}"))
    except (TypeError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}
