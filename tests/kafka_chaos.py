"""Kills everything, again and again, while pairs come in; then looks whether anybody can tell.

    python tests/kafka_chaos.py --seed 1 --kills 60 --pairs 60000        # what `make chaos` does

Three workers and a settler curate what a producer sends meanwhile. They and the broker are killed with SIGKILL at
moments of chance. A kill counts only if its victim was, by the list of steps it had reached, in the middle of one of
these: an open transaction, a restore, a fold, a Delta write. At the end every settled version that was ever made is
read by time travel and held against the offline rule at its cut, the ledger is looked through, and `audit` has to
agree.
"""

from __future__ import annotations

import argparse
import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kafka_curation import RULE, SETTLER_PACE, finish, short_times
from kafka_feed import Feed
from kafka_fleet import Fleet, Member
from kafka_reference import settled_versions

from consumers.dev_broker import DevBroker
from consumers.topics import create_topics
from stream_curate.logs import configure_logs

WORKERS = ("worker-1", "worker-2", "worker-3")
SETTLER = "settler"

SECTIONS: dict[str, frozenset[str]] = {
    "transaction": frozenset(
        {"commit.ledger_sent", "commit.forwards_sent", "commit.letters_sent", "commit.flushed", "commit.ending"}
    ),
    "restore": frozenset({"restore.begin", "restore.slice", "restore.done"}),
    "fold": frozenset({"fold.begin"}),
    "delta": frozenset(
        f"{kind}.{step}"
        for kind, steps in {
            "create": ["begin"],
            "checkpoint": ["begin", "files_closed", "appended", "counts_saved", "state_written", "files_moved"],
            "settle": ["begin", "files_closed", "counts_written", "counts_saved", "state_written", "files_moved"],
            "compact": ["begin", "files_closed", "files_moved"],
            "vacuum": ["before_file"],
        }.items()
        for step in steps
    ),
}
"""Of each kind of kill that counts, the steps after which its victim is in the middle of it."""

OF_WORKERS = frozenset({"transaction", "restore"})
LONGEST_DELAY_S = {"transaction": 0.012, "restore": 0.05, "fold": 0.0005, "delta": 0.02}
MIN_EACH = 5
N_BROKER_KILLS = 5
MIN_VERSIONS = 10
WAIT_FOR_ONE_S = 2.0
WAIT_FOR_ANY_S = 10.0
MOST_BETWEEN_S = 1.5
PAIRS_PER_S = 2_000
DRAIN_S = 180.0


@dataclass
class Summary:
    """What was done, and what was looked at afterwards."""

    seed: int
    counting: Counter[str] = field(default_factory=Counter)
    not_counting: Counter[str] = field(default_factory=Counter)
    n_broker_kills: int = 0
    n_pairs: int = 0
    n_versions: int = 0
    killing_s: float = 0.0
    ending_s: float = 0.0

    @property
    def n_counting(self) -> int:
        """Kills that count, those of the broker apart."""
        return self.counting.total()

    def is_enough(self, n_kills: int) -> bool:
        """Whether there were kills enough, of each kind and of the broker."""
        return (
            self.n_counting >= n_kills
            and all(self.counting[kind] >= MIN_EACH for kind in SECTIONS)
            and self.n_broker_kills >= N_BROKER_KILLS
        )

    def words(self) -> str:
        """On a few lines."""
        kinds = ", ".join(f"{self.counting[kind]} in a {kind}" for kind in SECTIONS)
        others = ", ".join(f"{n} at {step or 'the start'}" for step, n in sorted(self.not_counting.items()))
        return (
            f"seed {self.seed}: {self.n_counting} kills that count ({kinds}), {self.n_broker_kills} of the broker\n"
            f"not counting: {self.not_counting.total()} ({others})\n"
            f"{self.n_pairs} distinct pairs; {self.n_versions} settled versions, all as offline has them\n"
            f"{self.killing_s:.0f} s of killing, {self.ending_s:.0f} s to end and look"
        )


def kind_of(step: str) -> str | None:
    """The kind of a kill after this step, None for one that does not count."""
    return next((kind for kind, steps in SECTIONS.items() if step in steps), None)


def chaos(
    folder: Path,
    *,
    seed: int,
    n_kills: int,
    n_pairs: int,
    limit_s: float,
    say: Callable[[str], None] = print,
) -> Summary:
    """Do all that the module says.

    Args:
        folder: for broker, table, logs.
        seed: of victims, kinds and moments, and of what is sent.
        n_kills: kills that count, at least.
        n_pairs: distinct pairs to send meanwhile.
        limit_s: of the killing.
        say: is told what happens.

    Raises:
        AssertionError: when anything is not as it should be, or there were not kills enough in time.
    """
    broker = DevBroker(folder / "broker")
    try:
        broker.start()
        settings = short_times(broker.bootstrap, settle_idle_s=5.0)
        create_topics(settings)
        out = folder / "table"
        with (
            Fleet(folder / "fleet", settings, RULE) as fleet,
            Feed(settings, seed=seed, pairs_per_s=PAIRS_PER_S, n_pairs=n_pairs) as feed,
        ):
            feed.allowance = round(0.02 * n_pairs)
            killing = _Killing(fleet, feed, broker, out, seed, n_kills, say)
            killing.run(limit_s)
            killing.finish()
        return killing.summary
    finally:
        broker.remove()


class _Killing:
    def __init__(
        self,
        fleet: Fleet,
        feed: Feed,
        broker: DevBroker,
        out: Path,
        seed: int,
        n_kills: int,
        say: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._feed = feed
        self._broker = broker
        self._out = out
        self._n_kills = n_kills
        self._say = say
        self._chance = random.Random(seed)
        self._began_s = time.monotonic()
        self.summary = Summary(seed)

    def run(self, limit_s: float) -> None:
        """Kill until it is enough."""
        summary, chance = self.summary, self._chance
        for number, name in enumerate(WORKERS):
            # one without a cache
            cache = {"KAFKA__CACHE_DIR": self._fleet.folder / f"{name}-cache"} if number else {}
            self._fleet.worker(name, **cache)
        self._fleet.settler(SETTLER, self._out, **SETTLER_PACE)
        members = self._fleet.members
        for name, step in [*((name, "commit.done") for name in WORKERS), (SETTLER, "checkpoint.committed")]:
            self._fleet.wait_for(partial(members[name].steps.has, step), 60, f"{name} to be at work")
        broker_kills = [round(self._n_kills * (i + 0.5) / N_BROKER_KILLS) for i in range(N_BROKER_KILLS)]
        end_s = time.monotonic() + limit_s
        while not (summary.is_enough(self._n_kills) and len(settled_versions(self._out)) >= MIN_VERSIONS):
            assert time.monotonic() < end_s, f"not enough within {limit_s} s: {summary.words()}"
            self._fleet.check()
            assert not self._feed.error, self._feed.error
            share = min(1.0, (summary.n_counting + 1) / self._n_kills)
            self._feed.allowance = round(0.98 * len(self._feed) * share)  # it goes on to the end of the killing
            if summary.n_broker_kills < len(broker_kills) and (
                summary.n_counting >= broker_kills[summary.n_broker_kills]
            ):
                self._kill_broker()
            self._kill_one(self._next_kind())
            time.sleep(chance.uniform(0, MOST_BETWEEN_S))
        summary.killing_s = time.monotonic() - self._began_s
        self._tell(f"enough: {summary.n_counting} kills")

    def finish(self) -> None:
        """Let all be sent and curated, and hold it against the rule."""
        self._feed.allowance = len(self._feed)
        self._fleet.wait_for(lambda: self._feed.is_done, DRAIN_S, "all pairs to be sent")
        self._tell("all is sent")
        began_s = time.monotonic()
        self.summary.n_versions = len(
            finish(self._fleet, self._out, self._feed.pair_ids(), timeout_s=DRAIN_S, say=self._tell)
        )
        assert self.summary.n_versions >= MIN_VERSIONS
        self.summary.n_pairs = self._feed.n_sent
        self.summary.ending_s = time.monotonic() - began_s

    def _next_kind(self) -> str:
        """Those that are behind come more often."""
        missing = [max(1, self._n_kills // len(SECTIONS) - self.summary.counting[kind]) for kind in SECTIONS]
        return self._chance.choices(list(SECTIONS), missing)[0]

    def _kill_one(self, wanted: str) -> None:
        """Wait until somebody is in the middle of this, or after a while of anything else that counts."""
        found = self._wait_for_section({wanted}, WAIT_FOR_ONE_S) or self._wait_for_section(
            set(SECTIONS), WAIT_FOR_ANY_S
        )
        if found is None:
            self._tell(f"nobody was in the middle of anything within {WAIT_FOR_ONE_S + WAIT_FOR_ANY_S} s")
            return
        victim, kind = found
        time.sleep(self._chance.uniform(0, LONGEST_DELAY_S[kind]))
        if not victim.pid:
            return  # it has ended by itself
        step = self._fleet.kill(victim.name)
        counts = kind_of(step)
        if counts is None:
            self.summary.not_counting[step] += 1
        else:
            self.summary.counting[counts] += 1
        told = "" if counts else ", which does not count"
        self._tell(f"killed {victim.name} at {step}{told}; {self.summary.n_counting} so far")

    def _wait_for_section(self, kinds: set[str], timeout_s: float) -> tuple[Member, str] | None:
        names = [*(WORKERS if kinds & OF_WORKERS else ()), *((SETTLER,) if kinds - OF_WORKERS else ())]
        members = [self._fleet.members[name] for name in self._chance.sample(names, len(names))]
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            for member in members:
                new = member.steps.read()
                if new and new[-1].pid == member.pid and (kind := kind_of(new[-1].name) or "") in kinds:
                    return member, kind
            time.sleep(0.0 if kinds == {"fold"} else 0.001)  # a commit is folded within a millisecond or two
        return None

    def _kill_broker(self) -> None:
        self._broker.kill()
        time.sleep(self._chance.uniform(0, 2))
        self._broker.start()
        self.summary.n_broker_kills += 1
        self._tell("killed the broker, and started it again")

    def _tell(self, what: str) -> None:
        self._say(f"{time.monotonic() - self._began_s:6.1f} s  {what}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kill workers, settler and broker, and look for traces.")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of all chance (default: a new one)")
    parser.add_argument("--kills", type=int, default=60, help="that count (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=60_000, help="distinct pairs sent (default: %(default)s)")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    configure_logs()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        summary = chaos(
            Path(folder),
            seed=given.seed,
            n_kills=given.kills,
            n_pairs=given.pairs,
            limit_s=120 + 20 * given.kills,
            say=lambda line: print(line, flush=True),
        )
    print(summary.words())


if __name__ == "__main__":
    main()
