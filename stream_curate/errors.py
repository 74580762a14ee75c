"""What can go wrong, as the user is told: each error knows the exit code it ends a command with."""

from __future__ import annotations


class StreamCurateError(Exception):
    """Something a user can act on. The message says what was wrong, where, and what to do."""

    exit_code: int = 1


class UsageError(StreamCurateError):
    """The command's words are off."""

    exit_code = 2


class ConfigError(StreamCurateError):
    """A configuration, metadata or input file cannot be used as it is."""

    exit_code = 3


class InputError(ConfigError):
    """An input file cannot be read as pairs."""


class OutputError(StreamCurateError):
    """The output cannot be written (disk full, folder not ours, table in use, state damaged)."""

    exit_code = 7
