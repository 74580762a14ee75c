"""`stream-curate produce`: files into Kafka."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from consumers.commands import options as kafka_options
from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.commands.setup import column_choice
from stream_curate.printable import printable
from stream_curate.settings import FormatName
from stream_curate.sources import Source, open_sources
from stream_curate.stop import StopRequest

if TYPE_CHECKING:
    from consumers.produce import Produced

LOG_INTERVAL_S = 10.0

log = structlog.get_logger()


class MessageFormat(StrEnum):
    """What a message is."""

    JSON = "json"
    ARROW = "arrow"


def produce(
    sources: options.Sources,
    format: Annotated[
        MessageFormat,
        typer.Option(
            help="json: one message a pair, which anything reads. arrow: many pairs a message, many times as fast."
        ),
    ] = MessageFormat.JSON,
    input_format: Annotated[
        FormatName | None,
        typer.Option(
            "--input-format", help="What the input is, where its name does not tell.", rich_help_panel=options.INPUT
        ),
    ] = None,
    url_column: options.UrlColumn = None,
    text_column: options.TextColumn = None,
    columns: options.Columns = None,
    keep_columns: options.KeepColumns = None,
    on_bad_file: options.BadFile = None,
    config: kafka_options.Config = None,
    json: options.Json = False,
) -> None:
    """Send the pairs of files to the topic that workers read.

    What is no valid pair is counted by its reason, and not sent. Each pair goes to its home partition, and stands in
    the topic once; a run that is started again starts over, and sends pairs that the workers then drop as duplicates.
    """
    settings = kafka_options.load(
        config,
        options.given(
            format=input_format,
            url_column=url_column,
            text_column=text_column,
            columns=columns,
            keep_columns=keep_columns,
            on_bad_file=on_bad_file,
        ),
    )
    from consumers.messages import message_columns  # these two load kafka-python and pyarrow
    from consumers.produce import produce as produce_pairs

    message_columns(settings)
    opened = open_sources(sources, column_choice(settings), format=settings.format)
    start_s = time.monotonic()
    stop = StopRequest()
    with stop.on_signals(), _Progress(opened, start_s) as progress:
        produced = produce_pairs(
            opened,
            settings.kafka,
            format=format.value,
            batch_size=settings.batch_size,
            skip_bad_files=settings.on_bad_file == "skip",
            stop=stop,
            on_batch=progress.show,
        )
    seconds = time.monotonic() - start_s
    topic = settings.kafka.topics.pairs
    print_json(_as_dict(produced, topic, seconds)) if json else _show(produced, topic, seconds)
    if produced.stopped:
        print("interrupted: what is told above was sent; the same command starts over", file=sys.stderr)
        raise typer.Exit(exit_codes.INTERRUPTED)
    if produced.skipped:
        raise typer.Exit(exit_codes.FILE_SKIPPED)


def _as_dict(produced: Produced, topic: str, seconds: float) -> dict[str, Any]:
    return {
        "topic": topic,
        "n_read": produced.n_read,
        "n_sent": produced.n_sent,
        "n_messages": produced.n_messages,
        "n_rejected": produced.rejected.total(),
        "rejected": dict(sorted(produced.rejected.items())),
        "skipped": [{"source": name, "error": error} for name, error in produced.skipped],
        "stopped": produced.stopped,
        "seconds": round(seconds, 3),
        "pairs_per_second": round(produced.n_sent / seconds, 1),
    }


def _show(produced: Produced, topic: str, seconds: float) -> None:
    rows: list[tuple[str, int | str, str]] = [
        ("read", produced.n_read, "records"),
        ("sent", produced.n_sent, f"valid pairs, in {produced.n_messages:,} messages, all acknowledged"),
        ("rejected", produced.rejected.total(), "no valid pairs" + (", by reason:" if produced.rejected else "")),
    ]
    rows += [(f"  {reason}", n, "") for reason, n in sorted(produced.rejected.items())]
    rows.append(("seconds", f"{seconds:.1f}", ""))
    rows.append(("pairs/s", f"{produced.n_sent / seconds:,.0f}", ""))
    console.print(number_table(f"Produced into {topic}", rows))
    for name, error in produced.skipped:
        console.print(f"skipped, not read to its end: {printable(name)}: {error}", markup=False)


class _Progress:
    """How far it has come: a moving line on a terminal, a log line now and then elsewhere."""

    def __init__(self, sources: list[Source], start_s: float) -> None:
        self._places = {source.uri: place for place, source in enumerate(sources)}
        self._start_s = self._logged_s = start_s
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[source]}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("sources  {task.fields[numbers]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=len(sources), source="starting", numbers="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, source: Source, produced: Produced) -> None:
        """Take in the numbers after one more batch."""
        now_s = time.monotonic()
        rate = produced.n_sent / max(now_s - self._start_s, 1e-9)
        words = f"{produced.n_read:,} read  {produced.n_sent:,} sent  {rate:,.0f} pairs/s"
        name = printable(source.name.rpartition("/")[2], 30)
        self._bar.update(self._task, completed=self._places[source.uri], source=name, numbers=words)
        if self._bar.disable and now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            log.info(
                "producing",
                source=source.name,
                n_read=produced.n_read,
                n_sent=produced.n_sent,
                n_rejected=produced.rejected.total(),
                pairs_per_second=round(rate),
            )
