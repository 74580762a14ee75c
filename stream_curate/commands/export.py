"""`stream-curate export`: the settled pairs as other tools read them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_curate.commands import options
from stream_curate.commands.output import console, print_json
from stream_curate.errors import UsageError
from stream_curate.export import export_pairs, export_uids
from stream_curate.table.view import TableView

WRITERS = {".parquet": export_pairs, ".npy": export_uids}


def export(
    table: options.TableDir,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="NAME.parquet: columns url, caption (and uid, if the input had one), which img2dataset reads as they "
            "are. NAME.npy: the sorted list of uids that DataComp takes.",
        ),
    ],
    json: options.Json = False,
) -> None:
    """Write the settled pairs to one file for img2dataset or DataComp.

    The table goes on changing: a later settle can evict pairs that were exported, so images downloaded for them are
    then no longer part of the curated set. Export again after a settle, and train on what the newest export names.
    With final decisions no pair ever goes: a later export holds all of an earlier one, and more.
    """
    write = WRITERS.get(out.suffix.lower())
    if write is None:
        raise UsageError(f"{out}: the name says what is written: NAME.parquet or NAME.npy")
    view = TableView(table)
    n_pairs = write(view, out)
    if json:
        about = {"settled_version": view.settled.version, "decisions": view.rule.decisions}
        print_json({"n_pairs": n_pairs, "out": str(out)} | about)
    elif view.rule.final is not None:
        console.print(f"{n_pairs:,} pairs, accepted for good up to version {view.settled.version}, in {out}")
    else:
        console.print(f"{n_pairs:,} pairs of the settled version {view.settled.version} in {out}")
