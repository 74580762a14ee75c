"""`stream-curate serve`: a live page of a table on disk."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from stream_curate.commands import options
from stream_curate.commands.output import console
from stream_curate.page import serve_page
from stream_curate.page.server import DEFAULT_HOST, DEFAULT_PORT
from stream_curate.printable import printable
from stream_curate.stop import StopRequest


def serve(
    table: options.TableDir,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. With 0.0.0.0 everybody who can reach this machine sees what the table holds: "
            "there is no password.",
        ),
    ] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, metavar="N", help="The port; 0 takes any that is free.")
    ] = DEFAULT_PORT,
) -> None:
    """Serve a live page of a curated table: how it grows, what it balances, and what a text would match.

    Reads the table alone, and follows it while `curate` or the settler writes to it. Ends with Ctrl-C.
    """
    stopped = threading.Event()
    with StopRequest(stopped.set).on_signals():
        server = serve_page(table, host, port)
        try:
            console.print(f"{printable(str(table))} is shown at {server.url}")
            console.file.flush()
            stopped.wait()
        finally:
            server.close()
