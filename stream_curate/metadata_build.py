"""How the shipped English metadata is made: the lemmas of WordNet 3.0, then frequent words of wordfreq.

metadata/README.md names the sources, their licences, and the fingerprint that this must give.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from stream_curate.errors import ConfigError, UsageError
from stream_curate.metadata import Metadata, usable_entries
from stream_curate.spacing import can_match

WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
"""The order in which WordNet's files are read; it decides the order of the entries."""

WORDFREQ_VERSION = "3.1.1"
N_WORDS = 250_000

_ADJECTIVE_MARKERS = ("(a)", "(p)", "(ip)")


def wordnet_lemmas(wordnet_dir: str | os.PathLike[str]) -> Iterator[str]:
    """The lemmas of WordNet's data files, synset by synset, each as often as it stands there.

    Case is kept, underscores become spaces, and the marker of where an adjective may stand, (a), (p)
    or (ip), is taken off. WordNet 3.0 gives 148,730 different ones. The format is described in the
    manual page wndb(5WN).

    Args:
        wordnet_dir: the folder with data.noun, data.verb, data.adj and data.adv.

    Raises:
        ConfigError: one of these files is not there, or has a line that is not a synset.
    """
    for name in WORDNET_FILES:
        path = Path(wordnet_dir) / name
        try:
            lines = path.read_text(encoding="ascii").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot be read as a data file of WordNet 3.0 ({error}): give the folder that holds "
                f"{', '.join(WORDNET_FILES)} (usr/share/wordnet in Debian's package wordnet-base)"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not line or line.startswith("  "):  # the licence at the top of each file
                continue
            try:
                yield from _synset_lemmas(line)
            except (ValueError, IndexError) as error:
                raise ConfigError(f"{path}: line {number} is not a WordNet synset") from error


def _synset_lemmas(line: str) -> Iterator[str]:
    """The words of one synset: offset, file number, type, number of words in hex, then word and id in turn."""
    fields = line.split(" ")
    n_words = int(fields[3], 16)
    for i in range(n_words):
        word = fields[4 + 2 * i]
        for marker in _ADJECTIVE_MARKERS:
            word = word.removesuffix(marker)
        yield word.replace("_", " ")


def frequent_words(n: int = N_WORDS) -> list[str]:
    """The `n` most frequent English words of wordfreq's large list, the most frequent first.

    They are in lower case; numbers of several digits are not among them.

    Raises:
        ConfigError: wordfreq is not installed, or is not the version whose list this is.
        UsageError: the list has fewer words than `n`.
    """
    install = "pip install 'stream-curate[metadata-build]'"
    try:
        from wordfreq import top_n_list  # only this one command needs it
    except ModuleNotFoundError as error:
        raise ConfigError(f"making the English metadata needs wordfreq: {install}") from error
    if version("wordfreq") != WORDFREQ_VERSION:
        raise ConfigError(f"wordfreq {version('wordfreq')} may hold another list than {WORDFREQ_VERSION}: {install}")
    words = top_n_list("en", n, wordlist="large")
    if len(words) < n:
        raise UsageError(f"wordfreq's large English list has {len(words):,} words, not {n:,}: ask for fewer")
    return words


def build_english(wordnet_dir: str | os.PathLike[str], n_words: int = N_WORDS) -> Metadata:
    """WordNet's lemmas, then frequent words, without repeats and without what no text can match.

    Raises:
        ConfigError: WordNet or wordfreq is missing or is not as expected.
        UsageError: wordfreq has fewer than `n_words` words.
    """
    candidates = chain(wordnet_lemmas(wordnet_dir), frequent_words(n_words))
    return Metadata.from_entries(usable_entries(filter(can_match, candidates)))


def write_english(wordnet_dir: str | os.PathLike[str], out: str | os.PathLike[str], n_words: int = N_WORDS) -> Metadata:
    """Make the English metadata and save it as `out`, a name that ends in .txt.zst.

    Raises:
        ConfigError, UsageError: as `build_english` and `Metadata.save`.
        OutputError: `out` cannot be written.
    """
    metadata = build_english(wordnet_dir, n_words)
    metadata.save(out)
    return metadata
