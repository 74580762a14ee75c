"""Final decisions on Kafka: each pair is accepted or dropped once, whatever happens to those who decide."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import run
from final_reference import accepted_of
from kafka_curation import METADATA, SEED, THRESHOLD
from kafka_feed import distinct_pairs
from kafka_final import accepted_in_ledger, accepted_on_topic, check_decisions
from kafka_fleet import Fleet
from kafka_ledgers import published_counts
from kafka_reference import rows_of_version
from kafka_topics import read_partition
from kafka_workers import QUICK, commit_now, restored, running, send, wait_for

from consumers.audit import audit
from consumers.audit_report import CheckName
from consumers.decision import Decider
from consumers.errors import KafkaProblem
from consumers.inbox import Inbox
from consumers.ledger import RuleHeader
from consumers.messages import position
from consumers.owned_partition import OwnedPartition
from consumers.settings import AllSettings, KafkaSettings
from consumers.settler import Settlement, settle_from_kafka
from consumers.topics import create_topics
from consumers.watchdog import Watchdog
from consumers.worker import work
from stream_curate.agreement import total_variation
from stream_curate.balance import keep
from stream_curate.draws import bases
from stream_curate.errors import ConfigError
from stream_curate.failpoints import listening
from stream_curate.final_rule import FinalDecisions, Horizon
from stream_curate.matching import Matches, make_matcher
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool
from stream_curate.open_curation import make_rule
from stream_curate.pairs import Records
from stream_curate.sources import ColumnChoice
from stream_curate.stop import StopRequest
from stream_curate.table.view import TableView

pytestmark = pytest.mark.slow

Kafka = Callable[..., KafkaSettings]

PACE: dict[str, Any] = {"checkpoint_interval_s": 0.0, "first_settle_records": 1, "settle_growth": 1.05}
WAIT_S = 50.0
RANDOM_SEED = "TEST_RANDOM_SEED"
N_KILLS = 3


@dataclass
class Curation:
    """Topics of one curation with final decisions, its settings, and a folder for the table."""

    settings: AllSettings
    metadata: Metadata
    out: Path

    @property
    def kafka(self) -> KafkaSettings:
        return self.settings.kafka

    @property
    def header(self) -> RuleHeader:
        rule = make_rule(self.settings, self.metadata, SEED, self.settings.final_decisions)
        return RuleHeader(rule, self.kafka.partitions)

    def n_published(self) -> int:
        published = published_counts(self.kafka)
        return published.n_unique if published is not None else 0


@pytest.fixture
def curation(kafka: Kafka, tmp_path: Path) -> Callable[..., Curation]:
    def make(n_pairs: int, partitions: int, horizon: Horizon = "endless", commit_records: int = 100) -> Curation:
        settings = AllSettings(
            metadata=METADATA,
            threshold=THRESHOLD,
            seed=str(SEED),
            decisions="final",
            pool_size=n_pairs,
            horizon=horizon,
            kafka=kafka(
                **QUICK | {"commit_interval_s": 0.1, "settle_idle_s": 0.1},
                partitions=partitions,
                commit_records=commit_records,
            ),
            **PACE,
        )
        create_topics(settings.kafka, "final")
        return Curation(settings, Metadata.load(METADATA), tmp_path / "table")

    return make


class SettlerThread:
    """A settler in this process, until it has folded all, or is stopped."""

    def __init__(self, curation: Curation, *, until_end: bool = False) -> None:
        self._stop = StopRequest()
        self._watchdog = Watchdog()
        self.settlement: Settlement | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(curation, until_end), daemon=True, name="settler")
        self._thread.start()

    def _run(self, curation: Curation, until_end: bool) -> None:
        try:
            self.settlement = settle_from_kafka(
                curation.settings, curation.out, until_end=until_end, stop=self._stop, watchdog=self._watchdog
            )
        except BaseException as error:
            self.error = error
        finally:
            self._watchdog.close()

    def join(self) -> Settlement:
        self._thread.join(WAIT_S)
        if self.error is not None:
            raise self.error
        assert self.settlement is not None, "the settler does not end"
        return self.settlement

    def stop(self) -> None:
        self._stop.request()
        self._thread.join(WAIT_S)


@contextmanager
def settling(curation: Curation, **how: Any) -> Iterator[SettlerThread]:
    settler = SettlerThread(curation, **how)
    try:
        yield settler
    finally:
        settler.stop()


def stream(n_pairs: int, seed: int = 3) -> pa.RecordBatch:
    """Distinct real pairs in an order of chance."""
    pairs = distinct_pairs(n_pairs)
    return pairs.take(pa.array(np.random.default_rng(seed).permutation(len(pairs))))


def pool_of(pairs: pa.RecordBatch, metadata: Metadata) -> OfflinePool:
    urls, texts = (pairs.column(name).cast(pa.binary()) for name in ("url", "text"))
    return OfflinePool.read([Records("memory:", 0, urls, texts)], metadata)


def check_all(curation: Curation) -> list[bytes]:
    """Topic, table and ledger have the same pairs, each once, and each was decided as the rule has it."""
    # a commit is answered before its markers are written to both
    wait_for(lambda: accepted_on_topic(curation.kafka) == accepted_in_ledger(curation.kafka), WAIT_S)
    accepted = accepted_in_ledger(curation.kafka)
    pair_ids = [pair_id for of_partition in accepted for pair_id in of_partition]
    view = TableView(curation.out)
    assert sorted(rows_of_version(curation.out, view.settled.version)) == sorted(pair_ids)
    assert len(pair_ids) == len(set(pair_ids)) == view.settled.n_curated
    assert view.n_pending == view.state.numbers.n_evicted == 0
    check_decisions(curation.settings, curation.metadata, SEED)
    published = published_counts(curation.kafka)
    assert published is not None
    assert published.entry_counts.tolist() == view.entry_counts.tolist()
    assert published.entry_coins.tolist() == view.counts.coins.tolist()  # type: ignore[attr-defined]
    report = audit(curation.settings, curation.out, transaction_grace_s=1.0)
    assert not report.problems
    assert report.checks[CheckName.DECISIONS].n_compared == view.state.numbers.n_unique
    assert report.checks[CheckName.ACCEPTED].n_compared == len(pair_ids)
    return pair_ids


# --- the same set


@pytest.mark.timeout(180)
@pytest.mark.parametrize("horizon", ["known", "endless"])
def test_one_partition_accepts_what_curate_does_whatever_is_published_meanwhile(
    horizon: Horizon, curation: Callable[..., Curation]
) -> None:
    """All is its own there: with one worker and the same order it is the same set, stopped and started in between."""
    pairs = stream(1_500)
    one = curation(len(pairs), 1, horizon)
    with settling(one):
        for first, last in ((0, 400), (400, 1_100), (1_100, len(pairs))):
            send(one.kafka, pairs.slice(first, last - first))
            with running(one.settings, until_end=True) as (worker,):
                assert not worker.join().stopped
            wait_for(lambda last=last: one.n_published() == last, WAIT_S)  # type: ignore[misc]

    final = FinalDecisions(len(pairs), horizon)
    assert check_all(one) == accepted_of(pool_of(pairs, one.metadata), THRESHOLD, SEED, final)


# --- what is refused


def test_without_the_topic_of_accepted_pairs_no_worker_begins(kafka: Kafka) -> None:
    settings = AllSettings(metadata=METADATA, decisions="final", pool_size=1_000, kafka=kafka())
    create_topics(settings.kafka)
    with pytest.raises(KafkaProblem, match=r"no topic t\w+\.accepted .* topics create --decisions final"):
        work(settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decisions": "provisional", "pool_size": None, "counter": "exact"}, "decisions: .* there, provisional here"),
        ({"pool_size": 31}, 'decisions: .*"pool_size":30.* there'),
        ({"horizon": "known"}, 'decisions: .*"horizon":"endless".* there'),
        ({"threshold": THRESHOLD - 1}, f"threshold: {THRESHOLD} there, {THRESHOLD - 1} here"),
    ],
)
def test_a_ledger_has_one_kind_of_decisions_for_life(
    changes: dict[str, Any], words: str, curation: Callable[..., Curation], watchdog: Watchdog
) -> None:
    one = curation(30, 1)
    send(one.kafka, stream(30))
    owner = Owner(one, watchdog)
    try:
        owner.commit_next()
    finally:
        owner.owned.close()
    other = one.settings.model_copy(update=changes)
    wait_for(lambda: accepted_on_topic(one.kafka)[0], WAIT_S)
    with pytest.raises(ConfigError, match=words):
        work(other)
    with settling(Curation(other, one.metadata, one.out)) as settler, pytest.raises(ConfigError, match=words):
        settler.join()


# --- exactly once


class Killed(BaseException):
    """As if the process was gone: nothing of ours handles it."""


COMMIT_STEPS = [
    "commit.begin",
    "commit.ledger_sent",
    "commit.forwards_sent",
    "commit.accepted_sent",
    "commit.letters_sent",
    "commit.flushed",
    "commit.ending",
    "commit.done",
]


@pytest.mark.timeout(180)
def test_an_owner_that_dies_at_any_step_of_a_commit_leaves_no_decision_behind_or_all_of_it(
    curation: Callable[..., Curation], watchdog: Watchdog
) -> None:
    """The next owner decides the same again, or goes on behind it; nobody who follows the topic sees a difference."""
    pairs = stream(60 * (len(COMMIT_STEPS) + 1))
    one = curation(len(pairs), 1, commit_records=60)
    send(one.kafka, pairs)
    owners: list[Owner] = []
    try:
        for step in COMMIT_STEPS:

            def die(reached: str, step: str = step) -> None:
                if reached == step:
                    raise Killed

            owners.append(Owner(one, watchdog))
            with listening(die), pytest.raises(Killed):
                owners[-1].commit_next()
            before = accepted_on_topic(one.kafka)[0]
            owners.append(Owner(one, watchdog))  # while the one before still is what it was
            owners[-1].commit_next()
            wait_for(lambda: accepted_on_topic(one.kafka) == accepted_in_ledger(one.kafka), WAIT_S)
            after = accepted_on_topic(one.kafka)[0]
            assert after[: len(before)] == before
            assert len(after) > len(before)
    finally:
        for owner in owners:
            owner.owned.close()
    with settling(one, until_end=True) as settler, running(one.settings, until_end=True) as (worker,):
        worker.join()
        settler.join()

    wanted = accepted_of(pool_of(pairs, one.metadata), THRESHOLD, SEED, FinalDecisions(len(pairs)))
    assert check_all(one) == wanted
    shutil.rmtree(one.out)  # and the table, made again from the ledger, has the same
    with settling(one, until_end=True) as settler:
        assert settler.join().numbers.n_evicted == 0
    assert check_all(one) == wanted


class Owner:
    """Of partition 0, without the loop of a worker around it: commits one part after the other."""

    def __init__(self, curation: Curation, watchdog: Watchdog) -> None:
        self._kafka = curation.kafka
        decider = Decider(curation.header, curation.metadata, SEED)
        self.owned = OwnedPartition(self._kafka, 0, decider, published_counts(self._kafka), watchdog)
        restored(self._kafka, self.owned)

    def commit_next(self) -> None:
        topic, begin = self._kafka.topics.pairs, self.owned.state.next
        inbox = Inbox(topic, 0, ColumnChoice(), self._kafka, begin)
        inbox.add([each for each in read_partition(self._kafka, topic, 0) if position(each.offset + 1) > begin])
        commit_now(self.owned, *next(inbox.take()))


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog()
    yield made
    made.close()


KILLED_AT = [*COMMIT_STEPS, "restore.done", "init.done"]
SETTLER_KILLED_AT = ["fold.commit_folded", "checkpoint.committed", "publish.sent", "publish.committed"]


@pytest.mark.timeout(300)
def test_kill_9_at_random_moments_takes_no_accepted_pair_back_and_none_twice(
    curation: Callable[..., Curation], tmp_path: Path
) -> None:
    seed = int(os.environ.get(RANDOM_SEED) or secrets.randbits(32))
    print(f"repeat with {RANDOM_SEED}={seed}")
    chance = random.Random(seed)
    pairs = stream(3_000)
    many = curation(len(pairs), 3, commit_records=50)
    send(many.kafka, pairs)
    rule = {"METADATA": METADATA, "THRESHOLD": THRESHOLD, "SEED": SEED, "DECISIONS": "final", "POOL_SIZE": len(pairs)}
    pace = {key.upper(): value for key, value in PACE.items()}
    # each of their processes has one; with little left to do a settler comes to a step but once
    points = {
        "worker": [f"{chance.choice(KILLED_AT)}:{chance.randint(1, 3)}" for _ in range(N_KILLS)],
        "settler": [f"{chance.choice(SETTLER_KILLED_AT)}:1" for _ in range(N_KILLS)],
    }
    print(points)
    seen: list[list[list[bytes]]] = []
    with Fleet(tmp_path / "fleet", many.kafka, rule | pace) as fleet:
        fleet.worker("worker", "--until", "end", failpoints=points["worker"])
        fleet.settler("settler", many.out, "--until", "end", failpoints=points["settler"])
        while any(member.restarts for member in fleet.members.values()):
            seen.append(accepted_on_topic(many.kafka))
            fleet.check()
        fleet.wait_for_exit("worker", "settler", timeout_s=WAIT_S)
        killed = {
            name: sum(each.code == -signal.SIGKILL for each in member.exits) for name, member in fleet.members.items()
        }
        assert killed["worker"] == N_KILLS
        assert killed["settler"] >= 1
    n_accepted = len(check_all(many))
    shown = run("inspect", many.out, "--json").ended(0).json
    assert (shown["decisions"], shown["pool_size"], shown["n_curated"]) == ("final", len(pairs), n_accepted)
    accepted = accepted_on_topic(many.kafka)
    for earlier in seen:
        for before, after in zip(earlier, accepted, strict=True):
            assert after[: len(before)] == before


# --- as near to each other as two offline runs


STEPS = (240, 360, 540, 810, 1_215, 1_822, 2_733, 4_100, 6_000)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("n_workers", [1, 4])
def test_workers_on_four_partitions_are_within_the_noise_floor_of_one_on_one(
    n_workers: int, curation: Callable[..., Curation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one accepts what `curate` does; the floor is the distance of two offline runs with different seeds."""
    pairs = stream(STEPS[-1])
    four = curation(len(pairs), 4)
    feed_in_steps(four, pairs, n_workers, monkeypatch)
    found = dict.fromkeys(check_all(four))
    one = dict.fromkeys(accepted_of(pool_of(pairs, four.metadata), THRESHOLD, SEED, FinalDecisions(len(pairs))))

    matches = make_matcher("trie", four.metadata.entries).match(pairs.column("text"))
    ids = pairs.column("pair_id").to_pylist()

    def entries(accepted: np.ndarray) -> np.ndarray:
        return np.bincount(
            matches.entry_ids[np.repeat(accepted, np.diff(matches.offsets))], minlength=len(four.metadata)
        )

    floor = noise_floor(pairs, matches, four.metadata, entries)
    of_four, of_one = (entries(np.array([pair_id in accepted for pair_id in ids])) for accepted in (found, one))
    assert total_variation(of_four, of_one) <= floor


def feed_in_steps(curation: Curation, pairs: pa.RecordBatch, n_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send more and more, each time when all partitions know the counts of all before."""
    known: dict[int, int] = {}
    make, rebase = OwnedPartition.__init__, OwnedPartition.rebase

    def note(owned: OwnedPartition) -> None:
        if owned._published is not None:
            known[owned.partition] = owned._published.n_unique

    def made(self: OwnedPartition, *how: Any) -> None:
        make(self, *how)
        note(self)  # one that changes hands knows from its beginning what its new owner does

    def rebased(self: OwnedPartition, published: Any) -> None:
        rebase(self, published)
        note(self)

    monkeypatch.setattr(OwnedPartition, "__init__", made)
    monkeypatch.setattr(OwnedPartition, "rebase", rebased)
    with running(curation.settings, n_workers) as workers, settling(curation) as settler:
        n_sent = 0
        for n_pairs in STEPS:
            send(curation.kafka, pairs.slice(n_sent, n_pairs - n_sent), arrow=True)
            n_sent = n_pairs
            wait_for(lambda: settler.error or (set(known.values()) == {n_sent} and len(known) == 4), WAIT_S, workers)  # noqa: B023
            assert settler.error is None


def noise_floor(
    pairs: pa.RecordBatch, matches: Matches, metadata: Metadata, entries: Callable[[np.ndarray], np.ndarray]
) -> float:
    """The mean distance of offline runs that differ in their seeds alone."""
    counts = np.bincount(matches.entry_ids, minlength=len(metadata)).astype(np.int64)
    offline = [
        entries(keep(bases(pairs.column("pair_id"), seed), matches, metadata.keys, counts, THRESHOLD))
        for seed in range(100, 106)
    ]
    return float(np.mean([total_variation(a, b) for k, a in enumerate(offline) for b in offline[:k]]))
