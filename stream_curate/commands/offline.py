"""`stream-curate offline`: the two-pass reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.commands.setup import column_choice
from stream_curate.counting import Counter
from stream_curate.errors import UsageError
from stream_curate.offline import offline as curate_offline
from stream_curate.open_curation import load_metadata, public_seed
from stream_curate.settings import load_settings
from stream_curate.sources import open_sources


def offline(
    sources: options.Sources,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.parquet", help="Where the curated pairs go.")],
    metadata: options.Metadata = None,
    threshold: options.Threshold = None,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    counter: options.CounterChoice = None,
    dedup: options.DedupChoice = None,
    url_column: options.UrlColumn = None,
    text_column: options.TextColumn = None,
    columns: options.Columns = None,
    format: options.Format = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Curate finished files in two passes, as MetaCLIP was published: the plain reference for `curate`.

    Shares neither the matcher nor the draws with `curate`, and counts exactly unless told otherwise. Writes the curated
    pairs with their matched entry ids to one parquet file.
    """
    settings = load_settings(
        config,
        options.given(
            metadata=metadata,
            threshold=threshold,
            seed=seed,
            seed_file=seed_file,
            counter=counter,
            dedup=dedup,
            url_column=url_column,
            text_column=text_column,
            columns=columns,
            format=format,
        ),
    )
    if not out.name:
        raise UsageError(f"{out} is no name of a file: give NAME.parquet")
    given_seed = settings.read_seed()
    result = curate_offline(
        open_sources(sources, column_choice(settings), format=settings.format),
        load_metadata(settings, None),
        threshold=settings.threshold,
        seed=public_seed() if given_seed is None else given_seed,
        out=out,
        counter=settings.counter_with_sizes if settings.was_given("counter") else Counter("exact"),
        dedup=settings.dedup,
    )
    if json:
        print_json(result.as_dict())
        return
    n_rejected = sum(result.n_rejected.values())
    rows: list[tuple[str, int | str, str]] = [
        ("read", result.n_read, ""),
        ("unique", result.n_unique, ""),
        ("duplicates", result.n_duplicate, ""),
        ("rejected", n_rejected, ", ".join(f"{reason} {n:,}" for reason, n in sorted(result.n_rejected.items()))),
        ("matched", result.n_matched, ""),
        ("curated", result.n_curated, f"in {result.out}"),
        ("head entries", result.n_head, f"matched more than t = {result.rule.threshold:,} times"),
        ("tail entries", result.n_tail, ""),
    ]
    console.print(number_table("Offline MetaCLIP", rows))
    console.print(f"digest {result.digest}")
