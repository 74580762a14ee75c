"""`stream-curate worker`: decide on the pairs of a topic."""

from __future__ import annotations

import gc
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.commands import options as kafka_options
from stream_curate.allocators import keep_large_buffers
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.rule import Decisions
from stream_curate.stop import StopRequest

if TYPE_CHECKING:
    from stream_curate.table.state import Numbers

END_WITHIN_S = 4.5


class Until(StrEnum):
    """When to end."""

    END = "end"
    NEVER = "never"


UntilOption = Annotated[
    Until,
    typer.Option(help="end: when all that stands in the topic now is done. never: go on until SIGTERM or Ctrl-C."),
]


def worker(
    until: UntilOption = Until.NEVER,
    from_earliest: Annotated[
        bool,
        typer.Option(
            "--from-earliest",
            metavar="",
            help="Begin a new curation with what retention has left of the topic, if its beginning is gone.",
        ),
    ] = False,
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
    """Read pairs from Kafka, decide on them, and write what came of them to the ledger.

    Start as many as you like, with the same settings: they share the partitions. Each can be stopped or killed at any
    moment, and nothing is lost or counted twice. SIGTERM ends it within 5 seconds. `stream-curate settler` makes the
    curated table of what they write. With --decisions final the pairs that are accepted, for good, are also written to
    the topic of accepted pairs.
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

    # the many records of a fetch make no cycles; looking for some among them takes a third of the time
    gc.set_threshold(200_000, 20, 100)
    keep_large_buffers()
    start_s = time.monotonic()
    watchdog = Watchdog()
    stop = StopRequest(on_request=lambda: watchdog.end_within(END_WITHIN_S))
    with stop.on_signals():
        from consumers.monitor import WorkerMonitor  # loads kafka-python and the rest, which takes a while
        from consumers.worker import work

        gc.freeze()  # what is loaded by now stays
        monitor = WorkerMonitor(settings.kafka)
        with monitor.serve():
            worked = work(
                settings,
                until_end=until is Until.END,
                from_earliest=from_earliest,
                stop=stop,
                watchdog=watchdog,
                monitor=monitor,
            )
    seconds = time.monotonic() - start_s
    if json:
        print_json(_as_dict(worked.numbers, seconds) | {"stopped": worked.stopped})
    elif until is Until.END:
        if worked.stopped:
            console.print("Stopped before the end: the same command goes on.")
        rows = _rows(worked.numbers, seconds, settings.decisions)
        console.print(number_table(f"Worked on {settings.kafka.topics.pairs}", rows))


def _as_dict(numbers: Numbers, seconds: float) -> dict[str, Any]:
    return {
        "n_read": numbers.n_read,
        "n_unique": numbers.n_unique,
        "n_matched": numbers.n_matched,
        "n_admitted": numbers.n_admitted,
        "n_duplicate": numbers.n_duplicate,
        "n_forwarded": numbers.n_forwarded,
        "n_rejected": numbers.n_rejected,
        "rejected": dict(sorted(numbers.rejected.items())),
        "seconds": round(seconds, 3),
        "records_per_second": round(numbers.n_read / seconds, 1),
    }


def _rows(numbers: Numbers, seconds: float, decisions: Decisions) -> list[tuple[str, int | str, str]]:
    outcome = ("admitted", numbers.n_admitted, "of these, let in as they came")
    if decisions == "final":
        outcome = ("accepted", numbers.n_admitted, "of these, for good")
    return [
        ("read", numbers.n_read, "records, by this worker"),
        ("unique", numbers.n_unique, "valid pairs, each once"),
        ("matched", numbers.n_matched, "of these, with at least one matched entry"),
        outcome,
        ("duplicates", numbers.n_duplicate, "came before, count nothing"),
        ("forwarded", numbers.n_forwarded, "passed on to their home partition"),
        ("rejected", numbers.n_rejected, "no valid pairs" + (", by reason:" if numbers.rejected else "")),
        *((f"  {reason}", n, "") for reason, n in sorted(numbers.rejected.items())),
        ("seconds", f"{seconds:.1f}", ""),
        ("records/s", f"{numbers.n_read / seconds:,.0f}", ""),
    ]
