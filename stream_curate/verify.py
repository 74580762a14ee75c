"""Does a settled table hold what the offline rule gives for the same input? Asked of the plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stream_curate.agreement import matches_per_entry, total_variation
from stream_curate.counting import Counter
from stream_curate.errors import UsageError
from stream_curate.offline import OfflinePool, digest, records_of
from stream_curate.pairs import pair_ids
from stream_curate.sources import Source
from stream_curate.sources.standard_input import StandardInput
from stream_curate.table.view import TableView

N_DIFFERENCES = 10


@dataclass(frozen=True)
class Verification:
    """What was compared, and how it came out.

    Attributes:
        n_table, n_offline: pairs in the settled table, and in the offline subset of what lies below its cut.
        differences: the first few, in words; `n_differences` counts all.
        tv_from_exact: total variation distance between the entry distributions of the table and of offline MetaCLIP
            with exact counts; 0 for a table with exact counts that is as it should be.
        n_offline_exact: pairs in that one.
    """

    n_table: int
    n_offline: int
    digest_table: str
    digest_offline: str
    n_differences: int
    differences: list[str]
    tv_from_exact: float
    n_offline_exact: int

    @property
    def is_equal(self) -> bool:
        """Whether the table is what it promises to be."""
        return self.n_differences == 0

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON report."""
        return {"equal": self.is_equal} | self.__dict__


def verify(view: TableView, sources: Sequence[Source], seed: int) -> Verification:
    """Compare the settled table with offline MetaCLIP over `sources` up to the table's cut.

    Beside the set of pairs, each row of the table is held against itself (its pair_id against its url and text) and
    against the matched entries that the reference finds.

    Raises:
        ConfigError: for another seed, or a table that was never settled.
        UsageError: where decisions are final.
        UsageError, InputError: when a source that the table has read is not given, cannot be read again, or has fewer
            rows.
    """
    view.check_settles("verify")
    view.check_seed(seed)
    settled = view.settled
    if any(uri.startswith(StandardInput.uri) and n_rows for uri, n_rows in settled.cut.items()):
        raise UsageError(
            f"{view.folder.root} has read standard input, which cannot be read again: such a table cannot be verified"
        )
    pool = OfflinePool.read(records_of(sources, settled.cut), view.metadata, view.rule.dedup)
    kept = pool.kept(pool.entry_counts(view.rule.counter), settled.threshold, seed)
    expected = {pool.pair_ids[index]: index for index in kept}

    differences = _differences_in_numbers(view, pool)
    found: set[bytes] = set()
    table_matches = np.zeros(len(view.metadata), np.int64)
    for batch in view.read_settled(["pair_id", "url", "text", "entry_ids"]):
        own_ids = pair_ids(*(batch.column(name).cast(pa.binary()) for name in ("url", "text")))
        columns = (batch.column("pair_id"), own_ids, batch.column("entry_ids"))
        for pair_id, own_id, entry_ids in zip(*(column.to_pylist() for column in columns), strict=True):
            index = expected.get(pair_id)
            if pair_id in found:
                differences.append(f"{pair_id.hex()} stands in the table twice")
            elif index is None:
                differences.append(f"{pair_id.hex()} is in the table, and offline does not keep it")
            elif list(pool.matched(index)) != entry_ids:
                differences.append(f"{pair_id.hex()} has entry_ids {entry_ids}, offline {list(pool.matched(index))}")
            elif own_id != pair_id:
                differences.append(f"{pair_id.hex()} is not the pair_id of its url and text")
            found.add(pair_id)
        flat = batch.column("entry_ids").flatten().to_numpy(zero_copy_only=False)
        table_matches += matches_per_entry(flat, len(view.metadata))
    differences += [f"{pair_id.hex()} is kept by offline, and not in the table" for pair_id in expected.keys() - found]

    exact = pool.kept(pool.entry_counts(Counter("exact")), settled.threshold, seed)
    exact_by_id = {pool.pair_ids[index]: index for index in exact}
    exact_ids = np.fromiter((e for i in exact_by_id.values() for e in pool.matched(i)), np.int64)
    return Verification(
        n_table=len(found),
        n_offline=len(expected),
        digest_table=digest(found),
        digest_offline=digest(expected),
        n_differences=len(differences),
        differences=sorted(differences)[:N_DIFFERENCES],
        tv_from_exact=total_variation(table_matches, matches_per_entry(exact_ids, len(view.metadata))),
        n_offline_exact=len(exact_by_id),
    )


def _differences_in_numbers(view: TableView, pool: OfflinePool) -> list[str]:
    settled = view.settled
    pairs_of_numbers = {
        "records read": (settled.n_read, pool.n_read),
        "unique pairs": (settled.n_unique, len(pool)),
    }
    return [
        f"the table counted {table:,} {what}, offline {reference:,}"
        for what, (table, reference) in pairs_of_numbers.items()
        if table != reference
    ]
