"""The data card: what a table was made from, by which rule, and how far it has come."""

from __future__ import annotations

from typing import Any

from stream_curate import __version__
from stream_curate.printable import printable
from stream_curate.sources.source import display_name
from stream_curate.table.folder import FROM_KAFKA
from stream_curate.table.view import TableView

N_SOURCES_SHOWN = 200
# a position of a Kafka partition is its offset times this, and the row in the message
ROWS_OF_AN_OFFSET = 65_536


def card_of(view: TableView) -> dict[str, Any]:
    """What does not change from pair to pair: source, cut, rule, metadata, counter and its error."""
    numbers, settled, rule = view.state.numbers, view.state.settled, view.rule
    bound, probability = rule.counter.error_bound(numbers.n_matches)
    cut = cut_of(view, settled.cut) if settled is not None else []
    threshold = settled.threshold if settled is not None else rule.threshold
    return {
        "name": printable(view.folder.root.resolve().name, 200),
        "program": f"stream-curate {__version__}",
        "origin": printable(view.identity.origin, 500),
        "is_from_kafka": view.identity.is_from_kafka,
        "decisions": rule.decisions,
        "pool_size": rule.final.pool_size if rule.final is not None else None,
        "horizon": rule.final.horizon if rule.final is not None else None,
        "threshold": threshold,
        "tail_count": rule.final.tail_count(numbers.n_unique, threshold) if rule.final is not None else threshold,
        "seed_fingerprint": rule.seed_fingerprint,
        "metadata_sha256": rule.metadata_sha256,
        "n_entries": len(view.metadata),
        "dedup": rule.dedup,
        "counter": rule.counter.as_dict(),
        "counter_error_bound": bound,
        "counter_error_probability": probability,
        "validator_version": rule.validator_version,
        "checkpoint": view.state.checkpoint,
        "settled_version": settled.version if settled is not None else None,
        "settled_n_read": settled.n_read if settled is not None else 0,
        "cut": [{"source": name, "position": n, "unit": unit} for name, n, unit in cut[:N_SOURCES_SHOWN]],
        "n_sources": len(cut),
    }


def numbers_of(view: TableView) -> dict[str, Any]:
    """What has become of all records so far."""
    numbers, settled = view.state.numbers, view.state.settled
    return {
        "n_read": numbers.n_read,
        "n_unique": numbers.n_unique,
        "n_duplicate": numbers.n_duplicate,
        "n_forwarded": numbers.n_forwarded,
        "n_rejected": numbers.n_rejected,
        "n_matched": numbers.n_matched,
        "n_matches": numbers.n_matches,
        "n_admitted": numbers.n_admitted,
        "n_evicted": numbers.n_evicted,
        "n_in_table": numbers.n_in_table,
        "n_curated": settled.n_curated if settled is not None else 0,
        "n_pending": view.n_pending,
        "dropped": numbers.dropped,
        "rejected": dict(sorted(numbers.rejected.items())),
    }


def cut_of(view: TableView, cut: dict[str, int]) -> list[tuple[str, int, str]]:
    """What lies below the cut of each source: its name, the position, and what that counts.

    From Kafka, those of the input alone, without the ledger's.
    """
    ledger = view.identity.ledger
    rows: list[tuple[str, int, str]] = []
    for uri, position in cut.items():
        if not view.identity.is_from_kafka:
            rows.append((display_name(uri), position, "rows"))
        elif ledger is None or not uri.startswith(f"{FROM_KAFKA}{ledger}/"):
            offset, row = divmod(position, ROWS_OF_AN_OFFSET)
            unit = "offset" + (f", and {row:,} rows of it" if row else "")
            rows.append((printable(uri.removeprefix(FROM_KAFKA), 300), offset, unit))
    return rows
