"""What can go wrong, as the user is told: each error knows the exit code it ends a command with."""

from __future__ import annotations

from stream_curate import exit_codes


class StreamCurateError(Exception):
    """Something a user can act on. The message says what was wrong, where, and what to do."""

    exit_code: int = exit_codes.BUG


class UsageError(StreamCurateError):
    """The command's words are off."""

    exit_code = exit_codes.USAGE


class ConfigError(StreamCurateError):
    """A configuration, metadata or input file cannot be used as it is."""

    exit_code = exit_codes.BAD_INPUT


class InputError(ConfigError):
    """An input file cannot be read as pairs."""


class OutputError(StreamCurateError):
    """The output cannot be written (disk full, folder not ours, table in use, state damaged)."""

    exit_code = exit_codes.OUTPUT
