"""Getting the kernels ready before the first pair comes: loaded from the disk, or compiled.

    python -m stream_curate.warm_up RULE

compiles all that this rule needs (`Rule.as_dict`, as JSON) but the matcher, and leaves it on the disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self

import pyarrow as pa

from stream_curate.balance import Guard
from stream_curate.counting import Counter
from stream_curate.curator import Curator, MatcherName
from stream_curate.final_curator import FinalCurator
from stream_curate.kernels import when_compiling
from stream_curate.matching import make_matcher
from stream_curate.metadata import Metadata
from stream_curate.pairs import make_pairs
from stream_curate.rule import Rule
from stream_curate.settling import SettlingOutlook

HELPER_LIMIT_S = 60.0

_ENTRIES = ["dog", "a dog"]
_TEXT = "a dog in the park"


def warm_up(rule: Rule, matcher: MatcherName) -> None:
    """Take a made pair all the way through the rule, and through a settle.

    What comes then is as fast from its first batch on as later. Without, each kernel is loaded when it is first used:
    a third of a second in all, and many seconds when they have to be compiled. Compiling takes one core, whatever is
    done in threads; where there is another, a process of its own compiles one half, and this one then loads it.

    Args:
        rule: that of the curator that is to be used.
        matcher: likewise.
    """
    with _Helper(rule) as helper:
        with when_compiling(helper.start):
            make_matcher(matcher, Metadata.from_entries(_ENTRIES).entries).match(pa.array([_TEXT]))
        helper.wait()
    _take_a_pair(rule, matcher)


def _take_a_pair(rule: Rule, matcher: MatcherName) -> None:
    metadata, pair = Metadata.from_entries(_ENTRIES), make_pairs(["http://example.org/1.jpg"], [_TEXT])
    if rule.final is not None:
        FinalCurator(metadata, rule.final, threshold=1, dedup=rule.dedup, matcher=matcher).observe(pair)
        return
    small = Counter(rule.counter.kind, rule.counter.num_hashes, 3)
    curator = Curator(metadata, threshold=1, counter=small, dedup=rule.dedup, matcher=matcher)
    curator.seen.reserve(10_000)  # its tables grow
    admitted = curator.observe(pair)
    prospects = SettlingOutlook(curator.rule, curator.seed, metadata.keys, curator.entry_counts()).of(admitted)
    Guard.of(prospects.witnesses, prospects.draws)


class _Helper:
    """A process that compiles what `_take_a_pair` needs but the matcher. Should it fail, its work is done here."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        """Start it, if there is a core for it."""
        if len(os.sched_getaffinity(0)) == 1:
            return
        # -P: whatever lies in the working directory is no module of this program
        command = [sys.executable, "-P", "-m", "stream_curate.warm_up", json.dumps(self._rule.as_dict())]
        nowhere = subprocess.DEVNULL
        with suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                command, stdin=nowhere, stdout=nowhere, stderr=nowhere
            )

    def wait(self) -> None:
        """Until it has ended, if it was started and takes no more than HELPER_LIMIT_S."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(HELPER_LIMIT_S)


if __name__ == "__main__":
    _take_a_pair(Rule.from_dict(json.loads(sys.argv[1])), "automaton")
