"""`stream-curate settler`: make the curated table of what the workers write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.commands import options as kafka_options
from consumers.commands.worker import END_WITHIN_S, Until, UntilOption
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.printable import printable
from stream_curate.rule import Decisions
from stream_curate.stop import StopRequest

if TYPE_CHECKING:
    from consumers.settler import Settlement


def settler(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="The curated table: a new folder, or one to go on with."),
    ],
    until: UntilOption = Until.NEVER,
    metadata: kafka_options.Metadata = None,
    threshold: kafka_options.Threshold = None,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    counter: kafka_options.CounterChoice = None,
    dedup: kafka_options.DedupChoice = None,
    decisions: kafka_options.DecisionsChoice = None,
    pool_size: kafka_options.PoolSize = None,
    horizon: kafka_options.HorizonChoice = None,
    keep_columns: options.KeepColumns = None,
    config: kafka_options.Config = None,
    json: options.Json = False,
) -> None:
    """Make the curated table of what the workers write to the ledger, and tell them the counts.

    Start one, with the same settings as the workers; a newly started one takes over from an older one, which ends.
    It can be stopped or killed at any moment, and DIR be lost: it is made again from the ledger. While none runs the
    workers go on, and let in somewhat more. SIGTERM ends it within 5 seconds. With --decisions final nothing is
    settled: DIR holds all that the workers accepted, and while no settler runs they decide with old counts, less well.
    """
    settings = kafka_options.load(
        config,
        options.given(
            metadata=metadata,
            threshold=threshold,
            seed=seed,
            seed_file=seed_file,
            counter=counter,
            dedup=dedup,
            decisions=decisions,
            pool_size=pool_size,
            horizon=horizon,
            keep_columns=keep_columns,
        ),
    )
    from consumers.watchdog import Watchdog

    start_s = time.monotonic()
    watchdog = Watchdog()
    stop = StopRequest(on_request=lambda: watchdog.end_within(END_WITHIN_S))
    with stop.on_signals():
        from consumers.monitor import SettlerMonitor  # loads kafka-python and the rest, which takes a while
        from consumers.settler import settle_from_kafka

        monitor = SettlerMonitor(settings.kafka)
        with monitor.serve():
            settlement = settle_from_kafka(
                settings, out, until_end=until is Until.END, stop=stop, watchdog=watchdog, monitor=monitor
            )
    seconds = time.monotonic() - start_s
    if json:
        print_json(_as_dict(settlement, out, seconds))
    elif until is Until.END:
        if settlement.stopped:
            console.print("Stopped before the end: the same command goes on.")
        title = f"{'Settled' if settings.decisions == 'provisional' else 'Folded'} {settings.kafka.topics.ledger}"
        console.print(number_table(title, _rows(settlement, out, seconds, settings.decisions)))


def _as_dict(settlement: Settlement, out: Path, seconds: float) -> dict[str, Any]:
    numbers, settled = settlement.numbers, settlement.settled
    return {
        "n_read": numbers.n_read,
        "n_unique": numbers.n_unique,
        "n_matched": numbers.n_matched,
        "n_admitted": numbers.n_admitted,
        "n_evicted": numbers.n_evicted,
        "n_duplicate": numbers.n_duplicate,
        "n_forwarded": numbers.n_forwarded,
        "n_rejected": numbers.n_rejected,
        "rejected": dict(sorted(numbers.rejected.items())),
        "n_curated": settled.n_curated if settled is not None else 0,
        "settled_version": settled.version if settled is not None else None,
        "threshold": settled.threshold if settled is not None else None,
        "stopped": settlement.stopped,
        "seconds": round(seconds, 3),
        "out": str(out),
    }


def _rows(settlement: Settlement, out: Path, seconds: float, decisions: Decisions) -> list[tuple[str, int | str, str]]:
    numbers, settled = settlement.numbers, settlement.settled
    where = f"in {printable(str(out))}" + (f", version {settled.version}" if settled is not None else ", never settled")
    outcome: list[tuple[str, int | str, str]] = [("accepted", numbers.n_admitted, f"of these, for good; {where}")]
    if decisions == "provisional":
        outcome = [
            ("admitted", numbers.n_admitted, "of these, let in as they came"),
            ("evicted", numbers.n_evicted, "of these, taken out when the counts had grown"),
            ("curated", settled.n_curated if settled is not None else 0, where),
        ]
    return [
        ("read", numbers.n_read, "records, in this run and before"),
        ("unique", numbers.n_unique, "valid pairs, each once"),
        ("duplicates", numbers.n_duplicate, "came before, count nothing"),
        ("forwarded", numbers.n_forwarded, "passed on to their home partition"),
        ("rejected", numbers.n_rejected, "no valid pairs" + (", by reason:" if numbers.rejected else "")),
        *((f"  {reason}", n, "") for reason, n in sorted(numbers.rejected.items())),
        ("matched", numbers.n_matched, "of the unique ones, with at least one matched entry"),
        *outcome,
        ("seconds", f"{seconds:.1f}", ""),
    ]
