"""Where pairs come from: files, directories, object stores and standard input, read as batches with positions."""

from stream_curate.sources.columns import ColumnChoice
from stream_curate.sources.open_sources import open_sources
from stream_curate.sources.source import Source

__all__ = ["ColumnChoice", "Source", "open_sources"]
