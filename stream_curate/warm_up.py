"""Getting the kernels ready before the first pair comes: loaded from the disk, or compiled."""

from __future__ import annotations

from stream_curate.balance import Guard
from stream_curate.counting import Counter
from stream_curate.curator import Curator, MatcherName
from stream_curate.final_curator import FinalCurator
from stream_curate.metadata import Metadata
from stream_curate.pairs import make_pairs
from stream_curate.rule import Rule
from stream_curate.settling import SettlingOutlook


def warm_up(rule: Rule, matcher: MatcherName) -> None:
    """Take a made pair all the way through the rule, and through a settle.

    What comes then is as fast from its first batch on as later. Without, each kernel is loaded when it is first used:
    a third of a second in all, and many seconds when they have to be compiled.

    Args:
        rule: that of the curator that is to be used.
        matcher: likewise.
    """
    metadata = Metadata.from_entries(["dog", "a dog"])
    pairs = make_pairs(["http://example.org/1.jpg"], ["a dog in the park"])
    if rule.final is not None:
        FinalCurator(metadata, rule.final, threshold=1, dedup=rule.dedup, matcher=matcher).observe(pairs)
        return
    small = Counter(rule.counter.kind, rule.counter.num_hashes, 3)
    curator = Curator(metadata, threshold=1, counter=small, dedup=rule.dedup, matcher=matcher)
    curator.seen.reserve(10_000)  # its tables grow
    admitted = curator.observe(pairs)
    prospects = SettlingOutlook(curator.rule, curator.seed, metadata.keys, curator.entry_counts()).of(admitted)
    Guard.of(prospects.witnesses, prospects.draws)
