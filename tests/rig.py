"""What tests of the table and of whole runs share: sources in memory, and a run that can be stopped and looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from stream_curate.counting import Counter
from stream_curate.curate import Curation, Ending, Pace
from stream_curate.curator import Curator
from stream_curate.final_curator import FinalCurator
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, records_of
from stream_curate.pairs import Records
from stream_curate.rule import Dedup
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import Identity
from stream_curate.table.state import Numbers
from stream_curate.table.view import TableView

ENTRIES = ["dog", "cat", "hot dog", "a", "in the", "park", "zebra", ",", "blue", "red"]


@dataclass(frozen=True)
class MemorySource:
    """A source of (url, text) rows; None stands for a missing value."""

    uri: str
    rows: list[tuple[bytes | None, bytes | None]]
    format: str = "memory"

    @property
    def name(self) -> str:
        return self.uri

    @property
    def size(self) -> int:
        return len(self.rows)

    def read(self, first_row: int, batch_size: int) -> Iterator[Records]:
        for start in range(first_row, len(self.rows), batch_size):
            rows = self.rows[start : start + batch_size]
            urls, texts = (pa.array(column, pa.binary()) for column in zip(*rows, strict=True))
            yield Records(self.uri, start, urls, texts)


@dataclass(frozen=True)
class Setup:
    """One curation: what is read and by which rule, at a pace that makes many checkpoints and settles."""

    sources: list[MemorySource]
    metadata: Metadata = field(default_factory=lambda: Metadata.from_entries(ENTRIES))
    threshold: int = 3
    seed: int = 7
    counter: Counter = field(default_factory=lambda: Counter("exact"))
    dedup: Dedup = "exact"
    pace: Pace = field(default_factory=lambda: Pace(10, 0.0, 1.5, first_settle=20))
    max_small_files: int = 3
    final: FinalDecisions | None = None

    def open(self, out: Path) -> Curation:
        curator = self.curator()
        identity = Identity(curator.rule, ())
        table = CuratedTable.open(out, identity, self.metadata, max_small_files=self.max_small_files)
        return Curation(curator, table, self.pace)

    def curator(self) -> Curator:
        if self.final is not None:
            return FinalCurator(self.metadata, self.final, threshold=self.threshold, seed=self.seed, dedup=self.dedup)
        return Curator(self.metadata, threshold=self.threshold, seed=self.seed, counter=self.counter, dedup=self.dedup)

    def run(self, out: Path) -> Numbers:
        """Curate to the end, going on from where `out` stands."""
        curation = self.open(out)
        try:
            assert curation.run(self.sources) is Ending.DONE
            return curation.numbers
        finally:
            curation.table.close()

    def offline_digest(self, up_to: dict[str, int] | None = None) -> str:
        """What the table must come to, by the plain reference."""
        pool = OfflinePool.read(records_of(self.sources, up_to), self.metadata, self.dedup)
        kept = pool.kept(pool.entry_counts(self.counter), self.threshold, self.seed)
        return digest(pool.pair_ids[index] for index in kept)

    def with_threshold(self, threshold: int) -> Setup:
        return replace(self, threshold=threshold)


def table_digest(out: Path) -> str:
    return TableView(out).digest()


def small_stream(n_rows: int = 100) -> list[MemorySource]:
    """Two sources with matched, unmatched, repeated and invalid rows."""
    texts = [b"a dog in the park", b"hot dog , red", b"nothing", b"a blue cat", b"a zebra", b"", b"\xff", b"a a a"]
    rows = []
    for i in range(n_rows):
        url = b"ftp://x.org/1" if i % 17 == 3 else b"http://x.org/%d" % (i % 90)
        rows.append((url, texts[i * i % len(texts)]))
    half = n_rows // 2
    return [MemorySource("memory:one", rows[:half]), MemorySource("memory:two", rows[half:])]
