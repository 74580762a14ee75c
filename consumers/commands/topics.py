"""`stream-curate topics`: make and check the topics."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from consumers.commands import options
from stream_curate.commands.output import console
from stream_curate.rule import Decisions

app = typer.Typer(help="Make the Kafka topics, or check them.", no_args_is_help=True)

Partitions = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Partitions of pairs and ledger. Default: kafka.partitions, or 8."),
]
Replication = Annotated[
    int | None,
    typer.Option(
        "--replication-factor",
        min=1,
        metavar="N",
        help="Copies of each partition; 1 for a single broker. Default: kafka.replication_factor, or 3.",
    ),
]

Decided = Annotated[
    Decisions | None,
    typer.Option("--decisions", help="final: with the topic of accepted pairs. Default: decisions, or provisional."),
]


@app.command("create")
def create(
    config: options.Config = None,
    partitions: Partitions = None,
    replication_factor: Replication = None,
    decisions: Decided = None,
) -> None:
    """Make the topics that are not there, and check all of them.

    Topics that are there are not changed. The topic of accepted pairs is made where decisions are final.
    """
    loaded = options.load(config, _flags(partitions, replication_factor, decisions))
    settings = loaded.kafka
    from consumers.topics import create_topics, topics_of  # loads kafka-python

    made = create_topics(settings, loaded.decisions)
    for topic in topics_of(settings, loaded.decisions):
        words = (
            f"made, with {topic.n_partitions} {'partition' if topic.n_partitions == 1 else 'partitions'}"
            if topic.name in made
            else "was there, and is as it should be"
        )
        console.print(f"{topic.name}: {words}", markup=False)


@app.command("check")
def check(
    config: options.Config = None,
    partitions: Partitions = None,
    replication_factor: Replication = None,
    decisions: Decided = None,
) -> None:
    """Say what is wrong with the topics, if anything is: exit code 6 then."""
    loaded = options.load(config, _flags(partitions, replication_factor, decisions))
    settings = loaded.kafka
    from consumers.topics import check_topics, topics_of  # loads kafka-python

    check_topics(settings, loaded.decisions)
    names = ", ".join(topic.name for topic in topics_of(settings, loaded.decisions))
    console.print(f"{names}: as they should be", markup=False)


def _flags(partitions: int | None, replication_factor: int | None, decisions: Decisions | None) -> dict[str, Any]:
    given = {"partitions": partitions, "replication_factor": replication_factor}
    flags = {key: value for key, value in given.items() if value is not None}
    return ({"kafka": flags} if flags else {}) | ({"decisions": decisions} if decisions is not None else {})
