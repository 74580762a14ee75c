"""A curated table as a reader sees it: no lock, no writing, and no seed needed but for draws."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from stream_curate.balance import keep
from stream_curate.chances import Chances, FinalChances
from stream_curate.checked_file import DamagedFile
from stream_curate.counting import Counts, CountsAndCoins
from stream_curate.curator import matches_of
from stream_curate.digest import digest
from stream_curate.draws import bases, seed_fingerprint
from stream_curate.errors import ConfigError, OutputError, UsageError
from stream_curate.metadata import Metadata
from stream_curate.pairs import PAIR_ID
from stream_curate.table.data_files import read_batches
from stream_curate.table.delta import DeltaLog
from stream_curate.table.folder import Identity, TableFolder
from stream_curate.table.state import Settled, State, read_counts, read_settled_counts, read_state

_ATTEMPTS = 5


class TableView:
    """The newest committed state of a table, and its last settled version.

    Where decisions are final, every checkpoint is final for what it holds: the newest one is the settled version.

    A writer may be at work meanwhile: it keeps the settled version's files, so that those stay readable until it has
    settled again.
    """

    def __init__(self, root: Path) -> None:
        """Open the table in `root`.

        Raises:
            ConfigError: when there is none, or nothing was committed to it yet.
            OutputError: when it is damaged.
        """
        self.folder = TableFolder(root)
        self.identity: Identity = self.folder.identity()
        self.state = self._read_state()
        self.rule = self.state.rule

    @property
    def settled(self) -> Settled:
        """The last settled version; where decisions are final, the newest checkpoint.

        Raises:
            ConfigError: when the table was never settled.
        """
        if self.state.settled is None:
            raise ConfigError(f"{self.folder.root} has not been settled yet: {self.to_settle} first")
        return self.state.settled

    @property
    def to_settle(self) -> str:
        """What settles the table, as an instruction."""
        if self.identity.is_from_kafka:
            return "let `stream-curate settler` go on until it has settled"
        return "run the same `stream-curate curate` to its end"

    @property
    def n_pending(self) -> int:
        """Rows in the newest version that came after the settled one."""
        settled = self.state.settled
        return self.state.numbers.n_in_table - (settled.n_curated if settled is not None else 0)

    @cached_property
    def metadata(self) -> Metadata:
        """The table's list of entries. Raises OutputError when another lies in its place."""
        metadata = self.folder.metadata()
        if metadata.fingerprint != self.rule.metadata_sha256:
            raise OutputError(
                f"{self.folder.metadata_file} is not the list that the table was made with: it has fingerprint "
                f"{metadata.fingerprint}, the table {self.rule.metadata_sha256}. Put the right one back"
            )
        return metadata

    @cached_property
    def counts(self) -> Counts:
        """The counter at the newest checkpoint."""
        try:
            data = read_counts(self.folder.own, self.state.checkpoint, self.state.writer)
        except DamagedFile as error:
            raise OutputError(f"the counter cannot be read: {error}") from error
        try:
            return self.rule.load_counts(len(self.metadata), data)
        except ValueError as error:
            raise OutputError(f"the counter cannot be used: {error}") from error

    @cached_property
    def settled_entry_counts(self) -> np.ndarray:
        """int64[n_entries]: the counts at the settled cut, as the rule uses them."""
        if self.rule.final is not None:
            return self._counts_now
        try:
            return read_settled_counts(self.folder.own, self.settled.checkpoint, self.settled.writer)
        except DamagedFile as error:
            raise OutputError(f"the counts of the settled version cannot be read: {error}") from error

    @cached_property
    def entry_counts(self) -> np.ndarray:
        """int64[n_entries]: the counts at the settled cut, or in a table that was never settled those of now."""
        if self.state.settled is not None:
            return self.settled_entry_counts
        return self._counts_now

    @property
    def _counts_now(self) -> np.ndarray:
        return self.counts.estimates(np.arange(len(self.metadata), dtype=np.int32))

    @cached_property
    def chances(self) -> Chances:
        """How likely pairs are kept, by `entry_counts`."""
        if self.rule.final is not None and isinstance(self.counts, CountsAndCoins):
            return FinalChances(
                self.entry_counts,
                self.rule.threshold,
                self.counts.coins,
                self.state.numbers.n_unique,
                self.rule.final,
            )
        settled = self.state.settled
        return Chances(self.entry_counts, settled.threshold if settled is not None else self.rule.threshold)

    @cached_property
    def curated_entry_counts(self) -> np.ndarray:
        """int64[n_entries]: in how many settled pairs each entry is matched."""
        counts = np.zeros(len(self.metadata), np.int64)
        for batch in self.read_settled(["entry_ids"]):
            counts += np.bincount(matches_of(batch).entry_ids, minlength=len(counts))
        return counts

    def read_settled(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The settled pairs, in batches of bounded size."""
        for name in self.settled.files:
            try:
                yield from read_batches(self.folder.root / name, columns)
            except FileNotFoundError:
                raise OutputError(
                    f"{self.folder.root / name} is gone. If the table was settled again meanwhile, ask again; "
                    "if not, the table is damaged"
                ) from None
            except (pa.ArrowException, OSError) as error:
                raise OutputError(f"{self.folder.root / name} is damaged: {error}") from error

    def digest(self) -> str:
        """The digest of the settled version."""
        return digest(batch.column("pair_id") for batch in self.read_settled(["pair_id"]))

    def check_settles(self, what: str) -> None:
        """Raise UsageError, naming `what` is asked for, where decisions are final and nothing is ever settled."""
        if self.rule.final is not None:
            raise UsageError(
                f"{self.folder.root} was made with final decisions, which depend on the order of the stream, so that "
                f"no offline run gives the same pairs: {what} does not apply to it"
            )

    def check_seed(self, seed: int) -> None:
        """Raise ConfigError unless `seed` is the one that this table was made with."""
        if seed_fingerprint(seed) != self.rule.seed_fingerprint:
            raise ConfigError(
                f"the table was made with a seed of fingerprint {self.rule.seed_fingerprint}, "
                f"not {seed_fingerprint(seed)}: give its own with --seed-file"
            )

    def sizes_at(self, thresholds: Sequence[int], seed: int) -> dict[int, int]:
        """How many pairs offline MetaCLIP keeps of the settled cut at lower thresholds, exactly.

        Raises:
            ConfigError: for a threshold above the table's, or another seed.
            UsageError: where decisions are final.
        """
        self.check_settles("what lower thresholds would keep")
        self.check_seed(seed)
        for threshold in thresholds:
            if not 1 <= threshold <= self.settled.threshold:
                raise ConfigError(
                    f"the table can tell sizes for thresholds from 1 to its own {self.settled.threshold}, "
                    f"not for {threshold}: what a higher one keeps was dropped"
                )
        sizes = dict.fromkeys(thresholds, 0)
        for batch in self.read_settled(["pair_id", "entry_ids"]):
            base = bases(batch.column("pair_id").cast(PAIR_ID), seed)
            for threshold in sizes:
                kept = keep(base, matches_of(batch), self.metadata.keys, self.settled_entry_counts, threshold)
                sizes[threshold] += int(np.count_nonzero(kept))
        return sizes

    def _read_state(self) -> State:
        """The state of the newest commit; read again when a writer replaced it in between."""
        for attempt in range(_ATTEMPTS):
            newest = DeltaLog(self.folder.root) if DeltaLog.exists(self.folder.root) else None
            if newest is None or newest.checkpoint == 0:
                raise ConfigError(f"nothing has been committed to {self.folder.root} yet")
            try:
                return read_state(self.folder.own, newest.checkpoint, newest.writer)
            except DamagedFile as error:
                if attempt == _ATTEMPTS - 1:
                    command = "settler" if self.identity.is_from_kafka else "curate"
                    raise OutputError(
                        f"{error}. Run the same `stream-curate {command}` again: it goes back one checkpoint"
                    ) from error
                time.sleep(0.05 * (attempt + 1))
        raise AssertionError("unreachable")
