"""The flags that several Kafka commands share, and what they all need."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_curate.commands.options import RULE
from stream_curate.counting import CounterKind
from stream_curate.errors import ConfigError
from stream_curate.final_rule import Horizon
from stream_curate.rule import Decisions, Dedup

if TYPE_CHECKING:
    from consumers.settings import AllSettings

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help="A file of settings, such as config/kafka.yaml explains."),
]

# The rule as workers and settler take it: nothing comes from a table, as there may be none yet.
SAME = "All workers and the settler need the same."
Metadata = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"The list of entries (concepts) that captions are matched against, one a line. {SAME} Default: the "
        "shipped English list.",
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
        help="t: entries matched more often are cut down to about N pairs each. Where they differ, the lowest counts, "
        "and with final decisions they must not. Default: 20000.",
        rich_help_panel=RULE,
    ),
]
CounterChoice = Annotated[
    CounterKind | None,
    typer.Option(
        help="count-min: a sketch of fixed size, for open or huge vocabularies. exact: 8 bytes an entry. "
        f"{SAME} Default: count-min; exact with final decisions.",
        rich_help_panel=RULE,
    ),
]
DedupChoice = Annotated[
    Dedup | None,
    typer.Option(
        help="exact: a pair (url and text) that came before counts nothing. none: it is counted again. "
        f"{SAME} Default: exact.",
        rich_help_panel=RULE,
    ),
]

DecisionsChoice = Annotated[
    Decisions | None,
    typer.Option(
        help="provisional: the table is settled, pairs can go again, and it equals offline. final: each pair is "
        f"accepted or dropped once and for good; needs --pool-size, and the topic of accepted pairs. {SAME} Default: "
        "provisional.",
        rich_help_panel=RULE,
    ),
]
PoolSize = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help=f"For final decisions: the number of distinct pairs that the threshold belongs to, such as 1.6e9. {SAME}",
        rich_help_panel=RULE,
    ),
]
HorizonChoice = Annotated[
    Horizon | None,
    typer.Option(
        help="For final decisions. known: the stream ends after about N pairs. endless: it goes on, and the accepted "
        f"part with it. {SAME} Default: endless.",
        rich_help_panel=RULE,
    ),
]


def load(config: Path | None, flags: dict[str, Any]) -> AllSettings:
    """The settings of a Kafka command.

    Raises:
        ConfigError: when they cannot be used, or the packages of the extra `kafka` are not installed.
    """
    if find_spec("kafka") is None or find_spec("prometheus_client") is None:
        raise ConfigError("the Kafka commands need more packages: pip install 'stream-curate[kafka]'")
    from consumers.settings import load_all_settings  # not before: other commands start without it

    return load_all_settings(config, flags)
