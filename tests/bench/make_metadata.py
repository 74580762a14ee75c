"""Make word_pairs.txt.zst again: the word pairs that come most often in WordNet's glosses and in the real captions.

    make metadata                                       # fetches WordNet 3.0 (Debian's wordnet-base)
    PYTHONPATH=tests .venv/bin/python -m bench.make_metadata

It holds as many pairs as the shipped list lacks to 500,000 entries. The file is kept in the repository, so that nothing
is fetched for a benchmark and every machine measures with the same list. WordNet's glosses are under the licence in
metadata/LICENSE-WordNet-3.0.txt, the captions under those in tests/shards/README.md.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from bench.data import N_ENTRIES, WORD_PAIRS
from million import real_pairs

from stream_curate.metadata import Metadata
from stream_curate.metadata_build import WORDNET_FILES
from stream_curate.spacing import can_match, spacing

USUAL_WORDNET = Path(__file__).parents[2] / "out" / "wordnet" / "usr" / "share" / "wordnet"


def glosses(wordnet: Path) -> Iterator[str]:
    """What WordNet says of each synset: the part of its line behind the bar, without quotes and brackets."""
    for name in WORDNET_FILES:
        for line in (wordnet / name).read_text(encoding="ascii").splitlines():
            _, bar, gloss = line.partition(" | ")
            if bar and not line.startswith("  "):
                yield re.sub(r'["()]', "", gloss)


def word_pairs(texts: Iterable[str]) -> Counter[str]:
    """How often each pair of words, of letters alone, stands side by side in the texts as they are matched."""
    return Counter(
        f"{first} {second}"
        for text in texts
        for first, second in pairwise(spacing(text).split(" "))
        if first.isalpha() and second.isalpha()
    )


def most_frequent(wordnet: Path, n_pairs: int, known: set[str]) -> list[str]:
    """The `n_pairs` most frequent pairs that are not known, the most frequent first, then by their letters."""
    found = word_pairs(glosses(wordnet)) + word_pairs(real_pairs()["text"].to_pylist())
    ordered = sorted(found, key=lambda pair: (-found[pair], pair))
    return [pair for pair in ordered if pair not in known and can_match(pair)][:n_pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=USUAL_WORDNET, metavar="DIR", help="with data.noun and so on")
    parser.add_argument("--out", type=Path, default=WORD_PAIRS, metavar="FILE")
    given = parser.parse_args()
    shipped = Metadata.default().entries.to_pylist()
    pairs = most_frequent(given.wordnet, N_ENTRIES - len(shipped), set(shipped))
    Metadata.from_entries(pairs).save(given.out)
    print(f"{len(pairs):,} word pairs in {given.out}")


if __name__ == "__main__":
    main()
