"""`stream-curate replay`: the stream in many orders, against offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, print_json
from stream_curate.commands.setup import column_choice
from stream_curate.errors import ConfigError, OutputError, UsageError
from stream_curate.open_curation import load_metadata, public_seed
from stream_curate.replay import PREFIXES, Variation
from stream_curate.replay import replay as replay_stream
from stream_curate.replay_final import replay_final
from stream_curate.settings import Settings, load_settings
from stream_curate.sources import Source, open_sources

DEFAULT_PREFIXES = ",".join(f"{prefix:g}" for prefix in PREFIXES)


def replay(
    sources: options.Sources,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Where replay.json, convergence.png (and table.md) go."),
    ] = Path("replay"),
    metadata: options.Metadata = None,
    threshold: Annotated[
        list[int] | None,
        typer.Option(
            "--threshold",
            "-t",
            min=1,
            metavar="N",
            help="t: entries matched more often are cut down to about N pairs each. With --decisions final it may be "
            "given several times. Default: 20000.",
            rich_help_panel=options.RULE,
        ),
    ] = None,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    dedup: options.DedupChoice = None,
    decisions: options.DecisionsChoice = None,
    pool_size: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="For final decisions: the number of distinct pairs that the threshold belongs to, such as 1.6e9. "
            "Default: that of the sources.",
            rich_help_panel=options.RULE,
        ),
    ] = None,
    horizon: options.HorizonChoice = None,
    prefixes: Annotated[
        str, typer.Option(metavar="A,B", help="Shares of the stream after which to compare with offline.")
    ] = DEFAULT_PREFIXES,
    url_column: options.UrlColumn = None,
    text_column: options.TextColumn = None,
    columns: options.Columns = None,
    format: options.Format = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Try a list of entries or a threshold on fixed shards: run them as a stream in many ways, compare with offline.

    The shards are curated online in several orders and batch sizes, with both counters, and interrupted. At each
    prefix the settled table must equal the offline subset; the report shows that, how many pairs too many the table
    held before it was settled, and how far two offline runs are apart that differ in the seed alone (the noise floor).
    Exits with 5 if any prefix differs. Reads everything into memory.

    With --decisions final nothing can be equal. Then the report shows how near the accepted pairs come to offline's
    distribution at each prefix, for several thresholds: with the shards as they are, shuffled, sorted by domain and
    sorted by the length of the caption, in multiples of the noise floor.
    """
    settings = load_settings(
        config,
        options.given(
            metadata=metadata,
            threshold=threshold[0] if threshold else None,
            seed=seed,
            seed_file=seed_file,
            dedup=dedup,
            decisions=decisions,
            pool_size=pool_size,
            horizon=horizon,
            url_column=url_column,
            text_column=text_column,
            columns=columns,
            format=format,
        ),
    )
    given_seed = settings.read_seed()
    if settings.decisions == "final":
        opened = open_sources(sources, column_choice(settings), format=settings.format)
        _replay_final(opened, settings, threshold or [settings.threshold], _shares(prefixes), out, json=json)
        return
    if threshold and len(threshold) > 1:
        raise UsageError("several thresholds go with --decisions final alone: give one --threshold")
    settings.check_pool_size()
    with _status() as status:
        report = replay_stream(
            open_sources(sources, column_choice(settings), format=settings.format),
            load_metadata(settings, None),
            threshold=settings.threshold,
            seed=public_seed() if given_seed is None else given_seed,
            dedup=settings.dedup,
            prefixes=_shares(prefixes),
            on_run=lambda number, n_runs, variation: status.update(_in_words(number, n_runs, variation)),
        )
    # matplotlib takes half a second to import, and only this command needs it
    from stream_curate.replay_report import plot_convergence, print_table, write_json

    _make_folder(out)
    write_json(report, out / "replay.json")
    plot_convergence(report, out / "convergence.png")
    if json:
        print_json(report.as_dict())
    else:
        print_table(report, console)
        console.print(f"Written: {out / 'replay.json'}, {out / 'convergence.png'}")
    if not report.is_equal:
        raise typer.Exit(exit_codes.MISMATCH)


def _replay_final(
    sources: Sequence[Source],
    settings: Settings,
    thresholds: Sequence[int],
    prefixes: Sequence[float],
    out: Path,
    *,
    json: bool,
) -> None:
    seed = settings.read_seed()
    if settings.was_given("counter") and settings.counter != "exact":
        raise ConfigError("final decisions need exact counts: leave the counter out, or choose exact")
    with _status() as status:
        report = replay_final(
            sources,
            load_metadata(settings, None),
            thresholds=thresholds,
            seed=public_seed() if seed is None else seed,
            pool_size=settings.pool_size,
            horizon=settings.horizon,
            dedup=settings.dedup,
            prefixes=prefixes,
            on_run=lambda number, n_runs, order, threshold: status.update(
                f"run {number} of {n_runs}: t = {threshold:,}, order {order}"
            ),
        )
    from stream_curate.replay_final_report import plot_final, print_table, write_markdown
    from stream_curate.replay_report import write_json

    _make_folder(out)
    write_json(report, out / "replay.json")
    write_markdown(report, out / "table.md")
    plot_final(report, out / "convergence.png")
    if json:
        print_json(report.as_dict())
    else:
        print_table(report, console)
        console.print(f"Written: {out / 'replay.json'}, {out / 'table.md'}, {out / 'convergence.png'}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {out} cannot be made: {error.strerror}") from None


def _status() -> Status | _Quiet:
    return Console(stderr=True).status("reading the shards") if sys.stderr.isatty() else _Quiet()


class _Quiet:
    """Stands in for the moving status line where nobody watches."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def update(self, status: str) -> None:
        """Show nothing."""


def _in_words(number: int, n_runs: int, variation: Variation) -> str:
    interrupted = f", interrupted {variation.n_interruptions} times" if variation.n_interruptions else ""
    return (
        f"run {number} of {n_runs}: order {variation.order}, batches of {variation.batch_size:,}, "
        f"{variation.counter.kind} counts{interrupted}"
    )


def _shares(text: str) -> list[float]:
    try:
        return [float(piece) for piece in text.split(",")]
    except ValueError:
        raise UsageError(f"--prefixes takes shares with commas between, such as 0.5,1; not {text!r}") from None
