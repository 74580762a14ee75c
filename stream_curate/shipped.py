"""Where the files that come with the package lie: the default metadata and the default configuration."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_path(relative: str) -> Path:
    """The path of a shipped file, named as in a checkout, such as "metadata/english.txt.zst".

    A wheel carries these files in `stream_curate/shipped_files/`; in a checkout (an editable install)
    they are the folders at the top of the repository.

    Raises:
        FileNotFoundError: there is no such file, in words that name the place looked at.
    """
    in_wheel = _PACKAGE / "shipped_files"
    # A wheel lies in site-packages, where a folder named "config" can be another package's: when the
    # wheel's folder is there, nothing else is looked at.
    root = in_wheel if in_wheel.is_dir() else _PACKAGE.parent
    path = root / relative
    if not path.is_file():
        raise FileNotFoundError(
            f"{relative} comes with stream-curate but is not at {path}: reinstall the package, "
            "or run from a complete checkout"
        )
    return path
