"""The flags that several Kafka commands share, and what they all need."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_curate.errors import ConfigError

if TYPE_CHECKING:
    from consumers.settings import AllSettings

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help="A file of settings, such as config/kafka.yaml explains."),
]


def load(config: Path | None, flags: dict[str, Any]) -> AllSettings:
    """The settings of a Kafka command.

    Raises:
        ConfigError: when they cannot be used, or kafka-python is not installed.
    """
    if find_spec("kafka") is None:
        raise ConfigError("the Kafka commands need more packages: pip install 'stream-curate[kafka]'")
    from consumers.settings import load_all_settings  # not before: other commands start without it

    return load_all_settings(config, flags)
