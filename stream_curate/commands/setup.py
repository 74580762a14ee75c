"""From settings to what the library takes."""

from __future__ import annotations

from stream_curate.draws import seed_fingerprint
from stream_curate.errors import ConfigError
from stream_curate.open_curation import PUBLIC_SEED
from stream_curate.settings import Settings
from stream_curate.sources import ColumnChoice
from stream_curate.table.view import TableView


def column_choice(settings: Settings) -> ColumnChoice:
    """Which columns to read."""
    return ColumnChoice(
        url=settings.url_column,
        text=settings.text_column,
        headerless=settings.columns,
        keep=settings.keep_columns,
    )


def known_seed(view: TableView, settings: Settings) -> int | None:
    """The seed of a table: as given, or the public one where the table was made with it; None when it is not known.

    Raises:
        ConfigError: when another was given.
    """
    seed = settings.read_seed()
    if seed is None:
        return PUBLIC_SEED if seed_fingerprint(PUBLIC_SEED) == view.rule.seed_fingerprint else None
    view.check_seed(seed)
    return seed


def seed_for(view: TableView, settings: Settings) -> int:
    """`known_seed`, where nothing can be done without it.

    Raises:
        ConfigError: when it was not given, or another was.
    """
    seed = known_seed(view, settings)
    if seed is None:
        raise ConfigError(
            f"{view.folder.root} was made with a seed of fingerprint {view.rule.seed_fingerprint}, "
            "which is needed here: give it with --seed-file"
        )
    return seed
