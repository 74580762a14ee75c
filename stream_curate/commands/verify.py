"""`stream-curate verify`: hold a settled table against offline MetaCLIP."""

from __future__ import annotations

import typer

from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.commands.setup import column_choice, seed_for
from stream_curate.errors import ConfigError
from stream_curate.settings import load_settings
from stream_curate.sources import open_sources
from stream_curate.table.view import TableView
from stream_curate.verify import verify as verify_table


def verify(
    table: options.TableDir,
    sources: options.Sources,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    url_column: options.UrlColumn = None,
    text_column: options.TextColumn = None,
    columns: options.Columns = None,
    format: options.Format = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Does the settled table hold what offline MetaCLIP gives for these sources, up to its cut?

    Reads the sources again with the plain two-pass reference and the table's own rule and counter. Exits with 5, and
    shows the first differences, if it does not. Beside that: how far the table is from offline with exact counts.
    A table with final decisions equals no offline run, and cannot be verified; replay --decisions final measures them.
    """
    settings = load_settings(
        config,
        options.given(
            seed=seed,
            seed_file=seed_file,
            url_column=url_column,
            text_column=text_column,
            columns=columns,
            format=format,
        ),
    )
    view = TableView(table)
    if view.identity.is_from_kafka:
        raise ConfigError(
            f"{table} is fed from Kafka, so there are no files to hold it against: use stream-curate audit"
        )
    view.check_settles("verify")  # before a seed is asked for
    opened = open_sources(sources, column_choice(settings), format=settings.format)
    result = verify_table(view, opened, seed_for(view, settings))
    if json:
        print_json(result.as_dict())
    else:
        verdict = "equal" if result.is_equal else f"NOT EQUAL: {result.n_differences:,} differences"
        rows: list[tuple[str, int | str, str]] = [
            ("in the table", result.n_table, f"of the settled version {view.settled.version}"),
            ("offline", result.n_offline, f"with {view.rule.counter.kind} counts, as the table has them"),
            (
                "offline, exact counts",
                result.n_offline_exact,
                f"total variation to the table {result.tv_from_exact:.2g}",
            ),
        ]
        console.print(number_table(f"Table and offline MetaCLIP: {verdict}", rows))
        console.print(f"digest of the table   {result.digest_table}")
        console.print(f"digest of offline     {result.digest_offline}")
        for difference in result.differences:
            console.print(f"  {difference}")
    if not result.is_equal:
        raise typer.Exit(exit_codes.MISMATCH)
