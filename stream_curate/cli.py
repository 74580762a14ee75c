"""The command line `stream-curate`: which commands there are, and how an error is told."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points

import structlog
import typer

from stream_curate import __version__, exit_codes, failpoints
from stream_curate.allocators import use_system_allocator
from stream_curate.commands import curate, explain, export, inspect, metadata, offline, replay, report, serve, verify
from stream_curate.errors import StreamCurateError
from stream_curate.kernels import tell_of_compiling
from stream_curate.logs import configure_logs
from stream_curate.printable import printable

COMMANDS_GROUP = "stream_curate.commands"
MAX_BUG_BYTES = 400

log = structlog.get_logger()

HELP = """Curate a stream of image-text pairs so that it equals offline MetaCLIP.

**curate** reads pairs and keeps a balanced table of them; **inspect**, **explain**, **verify** and **export** work with
that table, **serve** and **report** show it; **offline** and **replay** compare with the published two-pass way.
"""


def make_app() -> typer.Typer:
    """All commands, those of installed extras included (entry-point group `stream_curate.commands`)."""
    app = typer.Typer(
        name="stream-curate",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def start(
        version: bool = typer.Option(
            False, "--version", metavar="", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
        verbose: bool = typer.Option(False, "--verbose", "-v", metavar="", help="Log more."),
    ) -> None:
        configure_logs(verbose=verbose)

    app.command("curate")(curate.curate)
    app.command("inspect")(inspect.inspect)
    app.command("explain")(explain.explain)
    app.command("verify")(verify.verify)
    app.command("export")(export.export)
    app.command("serve")(serve.serve)
    app.command("report")(report.report)
    app.command("offline")(offline.offline)
    app.command("replay")(replay.replay)
    app.add_typer(metadata.app, name="metadata")
    for extra in entry_points(group=COMMANDS_GROUP):
        extra.load()(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stream-curate {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that a user can act on end it with their exit code and a sentence."""
    configure_logs()
    use_system_allocator()
    tell_of_compiling(lambda: log.info("compiling for this machine: once, and then it is kept; some seconds"))
    try:
        failpoints.listen_to_environment()
        try:
            make_app()()
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can be answered
    except StreamCurateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # whoever read our output has gone; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if {"-v", "--verbose"} & set(sys.argv):
            raise
        print(
            f"error: {type(error).__name__}: {printable(str(error), MAX_BUG_BYTES)}. This is a bug in stream-curate: "
            "please report it, with what `stream-curate --verbose` and the rest of the command print",
            file=sys.stderr,
        )
        sys.exit(exit_codes.BUG)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
