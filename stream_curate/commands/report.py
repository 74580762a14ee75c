"""`stream-curate report`: the page as one file to keep with the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_curate.commands import options
from stream_curate.commands.output import console, print_json
from stream_curate.page import write_report
from stream_curate.printable import printable


def report(
    table: options.TableDir,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The file to write.")],
    json: options.Json = False,
) -> None:
    """Write what a settled table holds as one self-contained HTML file: its data card, numbers, curves and digest."""
    digest = write_report(table, out)
    if json:
        print_json({"out": str(out), "digest": digest})
    else:
        console.print(f"{printable(str(out))} shows {printable(str(table))}, of digest {digest}")
