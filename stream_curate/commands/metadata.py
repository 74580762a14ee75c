"""`stream-curate metadata`: look at lists of entries, and build the shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.metadata import Metadata, lint
from stream_curate.metadata_build import N_WORDS, write_english
from stream_curate.printable import printable
from stream_curate.shipped import shipped_path

N_SHOWN = 20

app = typer.Typer(no_args_is_help=True, help="The metadata: the list of entries (concepts), not your data.")

MetadataFile = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A list of entries. Default: the shipped English list.")
]


def _path(file: Path | None) -> Path:
    return file if file is not None else shipped_path("metadata/english.txt.zst")


@app.command()
def info(file: MetadataFile = None, json: options.Json = False) -> None:
    """How many entries a list has, its fingerprint, and a few of them."""
    path = _path(file)
    metadata = Metadata.load(path)
    rows = sorted({0, 1, 2, len(metadata) // 2, len(metadata) - 1} & set(range(len(metadata))))
    report = {
        "file": str(path),
        "n_entries": len(metadata),
        "fingerprint": metadata.fingerprint,
        "examples": {row: metadata.entry(row) for row in rows},
    }
    if json:
        print_json(report)
        return
    table: list[tuple[str, int | str, str]] = [
        ("entries", len(metadata), ""),
        *((f"entry {row}", "", printable(metadata.entry(row), 60)) for row in rows),
    ]
    console.print(number_table(f"Metadata {path}", table))
    console.print(f"fingerprint {metadata.fingerprint}")


@app.command()
def check(file: MetadataFile = None, json: options.Json = False) -> None:
    """Find what is wrong with a list: entries that are refused, and entries that can never match."""
    path = _path(file)
    report = lint(path)
    if json:
        findings = {
            name: [{"line": f.line, "problem": f.problem, "words": f.words, "preview": f.preview} for f in found]
            for name, found in (("problems", report.problems), ("never_matching", report.never_matching))
        }
        print_json({"file": str(path), "n_entries": report.n_entries, "fingerprint": report.fingerprint, **findings})
    else:
        for finding in (*report.problems, *report.never_matching)[:N_SHOWN]:
            where = "" if finding.line is None else f"line {finding.line}: "
            console.print(f"{where}{finding.words} {finding.preview}".rstrip())
        n_more = len(report.problems) + len(report.never_matching) - N_SHOWN
        if n_more > 0:
            console.print(f"and {n_more:,} more; --json lists all")
        verdict = "refused" if report.problems else "accepted"
        console.print(
            f"{path}: {verdict}. {report.n_entries:,} entries, {len(report.problems):,} problems, "
            f"{len(report.never_matching):,} that can never match"
        )
    if report.problems:
        raise typer.Exit(exit_codes.BAD_INPUT)


@app.command()
def build(
    wordnet: Annotated[Path, typer.Option(metavar="DIR", help="The folder with WordNet 3.0's data.noun and so on.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.txt.zst", help="Where the list goes.")],
    words: Annotated[int, typer.Option(min=1, metavar="N", help="How many of wordfreq's words.")] = N_WORDS,
) -> None:
    """Make the shipped English list again: WordNet's lemmas, then frequent words. `make metadata` calls this."""
    metadata = write_english(wordnet, out, words)
    console.print(f"{len(metadata):,} entries in {out}, fingerprint {metadata.fingerprint}")
