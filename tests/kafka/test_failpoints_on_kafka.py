"""At every step of worker and settler: killed, made to raise, and stopped beyond the session timeout and continued.

What is stopped is continued only when its session, its transaction and its place are gone: whatever it still writes
must be refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from kafka_curation import RULE, finish, short_times
from kafka_feed import Feed
from kafka_fleet import Fleet, Member

from consumers.dev_broker import DevBroker
from consumers.settings import KafkaSettings
from consumers.topics import create_topics

pytestmark = pytest.mark.slow

INIT = ["init.begin", "init.producer_made", "init.done"]
RESTORE = ["restore.begin", "restore.slice", "restore.done", "restore.sought"]
COMMIT = [
    f"commit.{step}" for step in ("begin", "ledger_sent", "forwards_sent", "letters_sent", "flushed", "ending", "done")
]
WORKER_STEPS = [*INIT, *RESTORE, *COMMIT]

TAKEOVER = ["takeover.begin", "takeover.committed"]
FOLD = ["fold.begin", "fold.commit_folded"]
CHECKPOINT = [
    f"checkpoint.{step}"
    for step in (
        "begin",
        "files_closed",
        "appended",
        "counts_saved",
        "state_written",
        "files_moved",
        "committed",
        "cleaned",
    )
]
SETTLE = [
    f"settle.{step}"
    for step in (
        "begin",
        "files_closed",
        "counts_written",
        "counts_saved",
        "state_written",
        "files_moved",
        "committed",
        "cleaned",
    )
]
PUBLISH = ["publish.begin", "publish.sent", "publish.committed"]
SETTLER_STEPS = [*TAKEOVER, *FOLD, *CHECKPOINT, *SETTLE, *PUBLISH]

N_PARTITIONS = 3
STEP_S = 60.0  # to reach a step, on a busy machine

# many settles, so that each step comes soon
PACE = {"CHECKPOINT_INTERVAL_S": 0.2, "SETTLE_GROWTH": 1.001, "FIRST_SETTLE_RECORDS": 1}


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[KafkaSettings]:
    broker = DevBroker(tmp_path / "broker")
    try:
        broker.start()
        made = short_times(broker.bootstrap, partitions=N_PARTITIONS, session_timeout_s=2.0, transaction_timeout_s=4.0)
        create_topics(made)
        yield made
    finally:
        broker.remove()


class Course:
    """A member that goes through failpoints one after the other, looked at now and then.

    Args:
        fleet: where it is.
        member: already running, with the failpoints.
    """

    def __init__(self, fleet: Fleet, member: Member) -> None:
        self.fleet = fleet
        self.member = member
        self._since_s = time.monotonic()

    def is_done(self) -> bool:
        raise NotImplementedError

    def check_time(self, doing: str) -> None:
        assert time.monotonic() - self._since_s < STEP_S, f"{self.member.name}: {doing}, not within {STEP_S} s"

    def moved(self) -> None:
        self._since_s = time.monotonic()


class Killed(Course):
    """Is killed at one step after the other; each of its processes has one of them."""

    def __init__(self, fleet: Fleet, member: Member, steps: list[str]) -> None:
        super().__init__(fleet, member)
        self._steps = steps
        self._n_seen = 0

    def is_done(self) -> bool:
        killed = [each for each in self.member.exits if each.code == -9]
        if len(killed) > self._n_seen:
            self._n_seen = len(killed)
            self.moved()
        if self._n_seen == len(self._steps):
            return True
        self.check_time(f"to be killed at {self._steps[self._n_seen]}")
        return False


class Raised(Course):
    """Meets an error at one step after the other. A process has all that are left, and goes on after each."""

    def __init__(self, fleet: Fleet, member: Member, steps: list[str]) -> None:
        super().__init__(fleet, member)
        self._left = list(steps)

    def is_done(self) -> bool:
        log = self.member.log.read_text(errors="replace") if self.member.log.exists() else ""
        left = [step for step in self._left if f"injected at {step}" not in log]
        if left != self._left:
            self._left = left
            self.moved()
        if not left:
            self.member.failpoints.clear()
            return True
        # for the next process, if it ends
        self.member.failpoints = deque([raising(left)])
        self.check_time(f"to meet an error at {left[0]}")
        return False


class Stopped(Course):
    """Stops itself at one step after the other, and is continued when it has been away for too long."""

    def __init__(self, fleet: Fleet, member: Member, steps: list[str], away_s: float) -> None:
        super().__init__(fleet, member)
        self._left = list(steps)
        self._away_s = away_s
        self._stopped_s: float | None = None

    def is_done(self) -> bool:
        now_s = time.monotonic()
        if self._stopped_s is not None:
            if now_s - self._stopped_s > self._away_s:
                self.fleet.go_on(self.member.name)
                self._stopped_s = None
                self.moved()
        elif self.member.is_stopped():
            self._stopped_s = now_s
            # a worker commits to each of its partitions in a thread of its own: others may come to a step just then
            assert self._left.pop(0) in self.member.last_steps(1 + N_PARTITIONS)
        if not self._left and self._stopped_s is None:
            return True
        self.check_time("to stop itself")
        return False


def raising(steps: list[str]) -> str:
    """Each at a later time than the one before, so that what waits longer after each failure succeeds in between.

    But those of publishing: it comes once where a backlog is settled many times.
    """
    times = {step: 1 if step in PUBLISH else 1 + number // 2 for number, step in enumerate(steps)}
    return ",".join(f"{step}:{n}:raise" for step, n in times.items())


def run(fleet: Fleet, feed: Feed, courses: list[Course]) -> None:
    """Go on until all courses are done."""
    done: set[int] = set()
    while len(done) < len(courses):
        for number, course in enumerate(courses):
            if number not in done and course.is_done():
                done.add(number)
        fleet.check()
        assert not feed.is_done, "the feed has come to its end"
        time.sleep(0.05)


@pytest.mark.timeout(420)
def test_every_step_of_a_worker(settings: KafkaSettings, tmp_path: Path) -> None:
    out = tmp_path / "table"
    # the steps of an abort are reached only after an error
    after_errors = [f"commit.flushed:1:raise,abort.{step}:1:kill" for step in ("begin", "done")]
    to_kill = [f"{step}:1" for step in WORKER_STEPS] + after_errors
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=4, pairs_per_s=200, n_pairs=60_000) as feed,
    ):
        fleet.settler("settler", out)
        # there must be something to restore
        first = fleet.worker("first")
        fleet.wait_for(lambda: first.steps.has("commit.done"), STEP_S, "a first commit")
        killed = fleet.worker("killed", failpoints=to_kill, KAFKA__CACHE_DIR=tmp_path / "cache")
        raised = fleet.worker("raised", failpoints=[raising(WORKER_STEPS)])
        stopped = fleet.worker("stopped", failpoints=[",".join(f"{step}:1:stop" for step in WORKER_STEPS)])
        fleet.terminate("first")
        away_s = settings.session_timeout_s + 2.5  # others restore its partitions then, which fences it
        courses: list[Course] = [
            Killed(fleet, killed, to_kill),
            Raised(fleet, raised, WORKER_STEPS),
            Stopped(fleet, stopped, WORKER_STEPS, away_s),
        ]
        run(fleet, feed, courses)
        feed.stop()
        finish(fleet, out, feed.pair_ids(), all_versions=False)


@pytest.mark.timeout(600)
def test_every_step_of_a_settler(settings: KafkaSettings, tmp_path: Path) -> None:
    out = tmp_path / "table"
    to_kill = ["create.begin", "create.made", *SETTLER_STEPS]
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=5, pairs_per_s=100, n_pairs=80_000) as feed,
    ):
        fleet.worker("worker")
        killed = fleet.settler("killed", out, failpoints=[f"{step}:1" for step in to_kill], **PACE)
        run(fleet, feed, [Killed(fleet, killed, to_kill)])
        fleet.wait_for(killed.last_step, STEP_S, "the settler to be at work")
        assert fleet.terminate("killed") == 0

        raised = fleet.settler("raised", out, failpoints=[raising(SETTLER_STEPS)], **PACE)
        run(fleet, feed, [Raised(fleet, raised, SETTLER_STEPS)])

        # each takes over from the one before, which has stopped, and is continued then
        raised.restarts = False
        before = raised
        for number, step in enumerate(SETTLER_STEPS):
            heir = fleet.settler(f"stopped-{number}", out, failpoints=[f"{step}:1:stop"], **PACE)
            fleet.wait_for(heir.is_stopped, STEP_S, f"a settler to stop at {step}")
            heir.restarts = False
            if before.is_stopped():
                fleet.go_on(before.name)
            # one that stopped just before it took over may do so now, as any that is started; the next one ends it
            is_late = number > 0 and SETTLER_STEPS[number - 1] == "takeover.begin"
            if heir.steps.has("takeover.committed") and not is_late:
                fleet.wait_for(partial(are_gone, fleet, heir.name), STEP_S, "the settlers before to end")
            before = heir
        last = fleet.settler("last", out, **PACE)
        fleet.wait_for(lambda: last.steps.has("takeover.committed"), STEP_S, "the last settler to take over")
        fleet.go_on(before.name)
        fleet.wait_for(partial(are_gone, fleet, "last"), STEP_S, "the settlers before to end")
        since = last.steps.mark()
        fleet.wait_for(lambda: last.steps.has("publish.committed", since), STEP_S, "the last settler to go on")
        assert last.n_starts == 1
        feed.stop()
        finish(fleet, out, feed.pair_ids(), all_versions=False)


def are_gone(fleet: Fleet, newest: str) -> bool:
    """Whether no settler but the newest is there any more."""
    return all(member.process is None for name, member in fleet.members.items() if name not in (newest, "worker"))
