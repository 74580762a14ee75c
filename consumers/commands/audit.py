"""`stream-curate audit`: does everything in the topics and the table add up?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.commands import options as kafka_options
from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.errors import UsageError

if TYPE_CHECKING:
    from consumers.audit_report import AuditReport


def audit(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The curated table: the settler's folder.")],
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    version: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Compare this settled version of the table instead of the last."),
    ] = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Compare every settled version that can still be read.")
    ] = False,
    config: kafka_options.Config = None,
    json: options.Json = False,
) -> None:
    """Count the input again, slowly, and hold ledger, counts, dead letters and table against it.

    It reads everything and changes nothing; workers and a settler may be running. Exits with 5, and shows the first
    differences, if there are any. What retention has removed is told, and taken at the ledger's word.
    """
    if version is not None and all_versions:
        raise UsageError("--version and --all-versions: give one of them")
    settings = kafka_options.load(config, options.given(seed=seed, seed_file=seed_file))
    from consumers.audit import audit as audit_all  # loads kafka-python

    report = audit_all(settings, out, versions="all" if all_versions else "last" if version is None else version)
    print_json(report.as_dict()) if json else _show(report)
    if report.n_problems:
        raise typer.Exit(exit_codes.MISMATCH)


def _show(report: AuditReport) -> None:
    from consumers.audit_report import UNITS

    n = report.n_problems
    verdict = "clean" if not n else f"{n:,} difference{'s' if n > 1 else ''}"
    rows = [
        (
            str(check.name),
            check.n_compared,
            f"{UNITS[check.name]}: " + (f"{check.n_differences:,} DIFFER" if check.n_differences else "ok"),
        )
        for check in report.checks.values()
    ]
    console.print(number_table(f"Audit: {verdict}", rows))
    if "digest" in report.numbers:
        version, n_curated = report.numbers["settled_version"], report.numbers["n_curated"]
        console.print(f"settled version {version} holds {n_curated:,} pairs, digest {report.numbers['digest']}")
    for words in report.beyond_checking:
        console.print(f"not checked: {words}")
    for name, words in report.problems:
        console.print(f"  {name}: {words}")
    n_shown = len(report.problems)
    if n_shown < n:
        console.print(f"  and {n - n_shown:,} more")
