"""`stream-curate produce`: files, or dead letters once more, into Kafka."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.commands import options as kafka_options
from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.commands.progress import StreamProgress
from stream_curate.commands.setup import column_choice
from stream_curate.errors import UsageError
from stream_curate.printable import printable
from stream_curate.reasons import REJECTED
from stream_curate.settings import FormatName
from stream_curate.sources import open_sources
from stream_curate.stop import StopRequest

if TYPE_CHECKING:
    from consumers.produce import LettersRead, Produced
    from consumers.settings import AllSettings

DEAD_LETTERS = "Dead letters"


class MessageFormat(StrEnum):
    """What a message is."""

    JSON = "json"
    ARROW = "arrow"


def produce(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SRC",
            help="What to read: files, directories, globs, URIs such as s3://bucket/*.parquet, or - for standard "
            "input. Or give --from-dlq.",
            show_default=False,
        ),
    ] = None,
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
    from_dlq: Annotated[
        bool,
        typer.Option(
            "--from-dlq",
            metavar="",
            help="Instead of SRC: try every dead letter again, and send what is a valid pair by now.",
            rich_help_panel=DEAD_LETTERS,
        ),
    ] = False,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            help="With --from-dlq: only letters with this reason. May be given several times.",
            rich_help_panel=DEAD_LETTERS,
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="With --from-dlq: send nothing, but write the letters there, one a line. Mend url and text, and "
            "produce that file.",
            rich_help_panel=DEAD_LETTERS,
        ),
    ] = None,
    config: kafka_options.Config = None,
    json: options.Json = False,
) -> None:
    """Send the pairs of files to the topic that workers read.

    What is no valid pair is counted by its reason, and not sent. Each pair goes to its home partition, and stands in
    the topic once; a run that is started again starts over, and sends pairs that the workers then drop as duplicates
    (with dedup: none they count again).

    With --from-dlq the same is done with what workers rejected. The letters stay where they are until their retention
    is over, and it is not remembered which were sent: sending them again is like any run that starts over.
    """
    of_files = options.given(
        format=input_format, url_column=url_column, text_column=text_column, columns=columns, on_bad_file=on_bad_file
    )
    settings = kafka_options.load(config, of_files | options.given(keep_columns=keep_columns))
    if from_dlq:
        _check_words(sources, reason, of_files)
        _produce_letters(settings, format, reason or [], export, as_json=json)
        return
    if not sources:
        raise UsageError("nothing to send: give SRC, or --from-dlq for dead letters")
    if reason or export:
        raise UsageError("--reason and --export are for dead letters: give --from-dlq with them")
    from consumers.messages import message_columns  # these two load kafka-python and pyarrow
    from consumers.produce import produce as produce_pairs

    message_columns(settings)
    opened = open_sources(sources, column_choice(settings), format=settings.format)
    places = {source.uri: place for place, source in enumerate(opened)}
    start_s = time.monotonic()
    stop = StopRequest()
    with stop.on_signals(), _Progress("producing", "source", len(opened)) as progress:
        produced = produce_pairs(
            opened,
            settings.kafka,
            format=format.value,
            batch_size=settings.batch_size,
            skip_bad_files=settings.on_bad_file == "skip",
            stop=stop,
            on_batch=lambda source, produced: progress.show(places[source.uri], source.name, produced),
        )
    seconds = time.monotonic() - start_s
    topic = settings.kafka.topics.pairs
    print_json(_as_dict(produced, topic, seconds)) if json else _show(produced, topic, seconds)
    _end_if_stopped(produced)
    if produced.skipped:
        raise typer.Exit(exit_codes.FILE_SKIPPED)


def _check_words(sources: Sequence[str] | None, reasons: Sequence[str] | None, of_files: dict[str, Any]) -> None:
    """See that nothing was given that --from-dlq has no use for."""
    if sources:
        raise UsageError("both SRC and --from-dlq are given: it is one or the other")
    if of_files:
        raise UsageError("with --from-dlq no file is read: leave out the options that tell how to read one")
    unknown = sorted(set(reasons or ()) - set(REJECTED))
    if unknown:
        raise UsageError(
            f"--reason {printable(unknown[0], 50)}: nothing is rejected for that. There are: {', '.join(REJECTED)}"
        )


def _produce_letters(
    settings: AllSettings, format: MessageFormat, reasons: Sequence[str], export: Path | None, *, as_json: bool
) -> None:
    from consumers.messages import message_columns
    from consumers.produce import export_letters, resend

    columns = message_columns(settings)
    kafka = settings.kafka
    start_s = time.monotonic()
    stop = StopRequest()
    with stop.on_signals(), _Progress("producing", "partition", kafka.partitions) as progress:

        def show(partition: int, read: LettersRead) -> None:
            progress.show(partition, f"{kafka.topics.dlq} {partition}", read)

        if export is not None:
            read = export_letters(kafka, export, columns=columns, reasons=reasons, stop=stop, on_batch=show)
        else:
            read = resend(kafka, columns=columns, reasons=reasons, format=format.value, stop=stop, on_batch=show)
    _tell_of_letters(read, settings, export, time.monotonic() - start_s, as_json=as_json)
    _end_if_stopped(read)


def _tell_of_letters(
    read: LettersRead, settings: AllSettings, export: Path | None, seconds: float, *, as_json: bool
) -> None:
    topics = settings.kafka.topics
    counted: dict[str, Any] = {"letters": topics.dlq, "n_letters": read.n_letters, "n_foreign": read.n_foreign}
    if as_json:
        if export is not None:
            print_json(counted | {"exported": str(export), "stopped": read.stopped, "seconds": round(seconds, 3)})
        else:
            print_json(counted | _as_dict(read, topics.pairs, seconds))
        return
    if export is not None:
        console.print(f"{read.n_letters:,} letters of {topics.dlq} in {printable(str(export))}")
    else:
        console.print(f"{read.n_letters:,} letters of {topics.dlq} tried again")
        _show(read, topics.pairs, seconds)
    if read.n_foreign:
        console.print(f"left out: {read.n_foreign:,} records of {topics.dlq} that are no letters this version can read")


def _end_if_stopped(produced: Produced) -> None:
    if produced.stopped:
        print("interrupted: what is told above was done; the same command starts over", file=sys.stderr)
        raise typer.Exit(exit_codes.INTERRUPTED)


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


class _Progress(StreamProgress):
    """Shows what was sent so far."""

    def show(self, place: int, source: str, produced: Produced) -> None:
        """Take in the numbers after one more batch, of the `place`-th source or partition."""
        self.tell(
            place,
            source,
            f"{produced.n_read:,} read, {produced.n_sent:,} sent",
            produced.n_sent,
            n_read=produced.n_read,
            n_sent=produced.n_sent,
            n_rejected=produced.rejected.total(),
        )
