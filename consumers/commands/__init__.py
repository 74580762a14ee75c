"""The Kafka commands of the command line."""

from __future__ import annotations

import typer

from consumers.commands import audit, produce, settler, topics, worker


def add_commands(app: typer.Typer) -> None:
    """Add the Kafka commands: what the entry point in the group `stream_curate.commands` names."""
    app.add_typer(topics.app, name="topics")
    app.command("produce")(produce.produce)
    app.command("worker")(worker.worker)
    app.command("settler")(settler.settler)
    app.command("audit")(audit.audit)
