"""Getting the kernels ready before the first pair comes: loaded from the disk, or compiled."""

from __future__ import annotations

from stream_curate.balance import Guard
from stream_curate.counting import Counter
from stream_curate.curator import Curator, MatcherName
from stream_curate.metadata import Metadata
from stream_curate.pairs import make_pairs
from stream_curate.rule import Dedup
from stream_curate.settling import SettlingOutlook


def warm_up(counter: Counter, dedup: Dedup, matcher: MatcherName) -> None:
    """Take a made pair all the way through the rule, and through a settle.

    What comes then is as fast from its first batch on as later. Without, each kernel is loaded when it is first used:
    a second in all, and many when they have to be compiled. Any thread may do this beside other work.

    Args:
        counter: that of the curator that is to be used.
        dedup: likewise.
        matcher: likewise.
    """
    small = Counter(counter.kind, counter.num_hashes, 3)
    metadata = Metadata.from_entries(["dog", "a dog"])
    curator = Curator(metadata, threshold=1, seed=0, counter=small, dedup=dedup, matcher=matcher)
    curator.seen.reserve(10_000)  # its tables grow
    admitted = curator.observe(make_pairs(["http://example.org/1.jpg"], ["a dog in the park"]))
    prospects = SettlingOutlook(curator.rule, curator.seed, metadata.keys, curator.entry_counts()).of(admitted)
    Guard.of(prospects.witnesses, prospects.draws)
