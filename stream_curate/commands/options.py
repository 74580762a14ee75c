"""The flags that several commands share, each explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stream_curate.counting import CounterKind
from stream_curate.final_rule import Horizon
from stream_curate.rule import Decisions, Dedup
from stream_curate.settings import FormatName, OnBadFile

RULE = "The rule"
INPUT = "The input"
PACE = "The pace"

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SRC",
        help="What to read: files, directories, globs, URIs such as s3://bucket/*.parquet, "
        "or (for `curate`) - for standard input.",
        show_default=False,
    ),
]
TableDir = Annotated[Path, typer.Argument(metavar="DIR", help="The curated table: the folder given to `curate --out`.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="A file of settings. Each can also come from the environment, as STREAM_CURATE_THRESHOLD=…",
    ),
]
Metadata = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The list of entries (concepts) that captions are matched against, one a line; not your data. "
        "Default: the table's own, or the shipped English list.",
        rich_help_panel=RULE,
    ),
]
Threshold = Annotated[
    int | None,
    typer.Option(
        "--threshold",
        "-t",
        min=1,
        metavar="N",
        help="t: entries matched more often are cut down to about N pairs each. Default: the table's own, or 20000.",
        rich_help_panel=RULE,
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Seed of the draws. Whoever knows it can make urls that are always admitted, and a command line can be "
        "seen by others: prefer --seed-file in production. Default: 0, which is public.",
        rich_help_panel=RULE,
    ),
]
SeedFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file that holds the seed.", rich_help_panel=RULE)
]
CounterChoice = Annotated[
    CounterKind | None,
    typer.Option(
        help="count-min: a sketch of fixed size, for open or huge vocabularies. exact: 8 bytes an entry. "
        "Default: the table's own, or count-min; for `offline` exact.",
        rich_help_panel=RULE,
    ),
]
DedupChoice = Annotated[
    Dedup | None,
    typer.Option(
        help="exact: a pair (url and text) that came before counts nothing. none: it is counted again. "
        "Default: the table's own, or exact.",
        rich_help_panel=RULE,
    ),
]
DecisionsChoice = Annotated[
    Decisions | None,
    typer.Option(
        help="provisional: the table is settled, pairs can go again, and it equals offline. final: each pair is "
        "accepted or dropped once and for good; needs --pool-size. Default: the table's own, or provisional.",
        rich_help_panel=RULE,
    ),
]
PoolSize = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="For final decisions: the number of distinct pairs that the threshold belongs to, such as 1.6e9.",
        rich_help_panel=RULE,
    ),
]
HorizonChoice = Annotated[
    Horizon | None,
    typer.Option(
        help="For final decisions. known: the stream ends after about N pairs. endless: it goes on, and the accepted "
        "part with it. Default: the table's own, or endless.",
        rich_help_panel=RULE,
    ),
]
UrlColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column with the url. Default: found by name.", rich_help_panel=INPUT),
]
TextColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column with the caption. Default: found by name.", rich_help_panel=INPUT),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Names for the columns of tsv and csv files without a header line, such as caption,url.",
        rich_help_panel=INPUT,
    ),
]
KeepColumns = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="More columns to keep. A column uid always is.", rich_help_panel=INPUT),
]
Format = Annotated[
    FormatName | None,
    typer.Option(help="What the input is, where its name does not tell.", rich_help_panel=INPUT),
]
BadFile = Annotated[
    OnBadFile | None,
    typer.Option(
        help="A file that cannot be read: stop there (the default), or skip it and exit with 4 at the end.",
        rich_help_panel=INPUT,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        metavar="N",
        help="Threads that read and match. Default: one a core, up to 8.",
        rich_help_panel=PACE,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Pairs decided on together. Default: 65536.", rich_help_panel=PACE),
]
CheckpointInterval = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Time between commits: what a crash costs at most. Default: 10.",
        rich_help_panel=PACE,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", metavar="", help="Print JSON for programs instead of a table for people.")
]


def given(**flags: Any) -> dict[str, Any]:
    """The flags that were used, under the names of the settings."""
    return {key: value for key, value in flags.items() if value is not None}
