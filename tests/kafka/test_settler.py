"""The settler: what it makes of the ledger, and what it makes of everything that can go wrong meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka_ledgers import Curation, ModelWorkers, estimates_at, many_rows, published_counts
from structlog.testing import capture_logs

from consumers.errors import KafkaProblem
from consumers.messages import position
from consumers.settings import KafkaSettings
from consumers.settler import Settlement, settle_from_kafka
from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.errors import ConfigError
from stream_curate.stop import StopRequest
from stream_curate.table.delta import DeltaLog
from stream_curate.table.view import TableView

pytestmark = pytest.mark.slow  # a real broker

LIMIT_S = 30.0


@pytest.fixture
def curation(topics: KafkaSettings, tmp_path: Path) -> Curation:
    return Curation(topics, tmp_path)


@pytest.fixture
def workers(curation: Curation) -> Iterator[ModelWorkers]:
    made = ModelWorkers(curation)
    yield made
    made.close()


def settle(curation: Curation, out: Path) -> Settlement:
    """Settle all that stands in `pairs` now, and see that the table is right."""
    settlement = settle_from_kafka(curation.settings, out, until_end=True)
    assert not settlement.stopped
    view = TableView(out)
    assert view.digest() == curation.offline_digest()
    assert view.n_pending == 0
    return settlement


class Running:
    """A settler in a thread of this process."""

    def __init__(self, curation: Curation, out: Path, before: Callable[[], Any] = lambda: None, **options: Any) -> None:
        self._before = before
        self.stop = StopRequest()
        self.error: BaseException | None = None
        self.settlement: Settlement | None = None
        self._thread = threading.Thread(target=self._run, args=(curation, out, options), daemon=True)
        self._thread.start()

    def _run(self, curation: Curation, out: Path, options: dict[str, Any]) -> None:
        self._before()
        try:
            self.settlement = settle_from_kafka(curation.settings, out, stop=self.stop, **options)
        except BaseException as error:
            self.error = error

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self.stop.request()
        self.wait()

    def wait(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@contextmanager
def running(curation: Curation, out: Path, **options: Any) -> Iterator[Running]:
    settler = Running(curation, out, **options)
    try:
        yield settler
    finally:
        settler.end()
    if settler.error is not None:
        raise settler.error


def wait_until(condition: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end_s, "it has not come to that"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("counter", [Counter("exact"), Counter("count-min", 2, 16)], ids=["exact", "count-min"])
def test_at_the_end_the_table_is_the_offline_subset(topics: KafkaSettings, tmp_path: Path, counter: Counter) -> None:
    curation = Curation(topics, tmp_path, counter=counter)
    curation.produce(many_rows(400))
    workers = ModelWorkers(curation)
    workers.work_on_all()

    settlement = settle(curation, tmp_path / "t")

    numbers = settlement.numbers
    assert numbers.n_read == 400
    assert numbers.n_duplicate > 0
    assert numbers.n_evicted > 0
    published = published_counts(topics)
    assert published is not None
    assert published.cut == tuple(position(len(rows)) for rows in curation.rows)
    assert published.n_unique == numbers.n_unique
    assert published.entry_counts.tolist() == estimates_at(curation, published.cut).tolist()

    # and it goes on from there
    curation.produce(many_rows(200, first=400))
    workers.look_at_counts()
    workers.work_on_all(n_rows=7, n_records=1)
    assert settle(curation, tmp_path / "t").numbers.n_read == 600
    # and is made again from nothing
    shutil.rmtree(tmp_path / "t")
    assert settle(curation, tmp_path / "t").numbers.n_read == 600
    workers.close()


def test_it_settles_by_growth_and_the_workers_get_the_counts(curation: Curation, workers: ModelWorkers) -> None:
    curation.pace = {"first_settle_records": 100, "settle_growth": 1.5}
    curation.kafka = curation.kafka.model_copy(update={"settle_idle_s": 600.0})
    out = curation.folder / "t"
    digests: dict[int, tuple[str, tuple[int, ...]]] = {}
    curation.produce(many_rows(400))

    def look(step: str) -> None:
        if step == "settle.committed":
            settled = TableView(out).settled
            digests[settled.version] = (TableView(out).digest(), cut_of(curation, settled.cut))

    with failpoints.listening(look), running(curation, out):
        for _ in range(12):
            for partition in range(3):
                workers.commit(partition, 15, 2)
            workers.look_at_counts()
        wait_until(lambda: len(digests) >= 3)
    for digest, cut in digests.values():
        assert digest == curation.offline_digest(cut)
    assert workers.look_at_counts() is not None


def cut_of(curation: Curation, cut: dict[str, int]) -> tuple[int, ...]:
    return tuple(cut[f"kafka:{curation.kafka.topics.pairs}/{p}"] for p in range(curation.kafka.partitions))


def published_up_to_all(curation: Curation) -> bool:
    published = published_counts(curation.kafka)
    return published is not None and published.cut == tuple(position(len(rows)) for rows in curation.rows)


def test_it_settles_when_nothing_comes_any_more(curation: Curation, workers: ModelWorkers) -> None:
    curation.kafka = curation.kafka.model_copy(update={"settle_idle_s": 0.5})
    curation.produce(many_rows(60))
    with running(curation, curation.folder / "t") as settler:
        workers.work_on_all()
        wait_until(lambda: published_up_to_all(curation))
        curation.produce(many_rows(60, first=60))
        workers.work_on_all()
        wait_until(lambda: published_up_to_all(curation))
        assert TableView(curation.folder / "t").digest() == curation.offline_digest()
    assert settler.settlement is not None
    assert settler.settlement.stopped


def test_a_commit_that_is_not_all_there_is_not_folded(curation: Curation, workers: ModelWorkers) -> None:
    """As a transaction is read at once this is never seen, unless a poll ends inside."""
    curation.kafka = curation.kafka.model_copy(update={"settle_idle_s": 0.5})
    curation.produce(many_rows(90))
    first, second = workers.records(0, 20, 2)
    with running(curation, curation.folder / "t"):
        workers.send([first])
        workers.commit(1, 10)
        wait_until(lambda: published_counts(curation.kafka))
        cut = cut_of(curation, TableView(curation.folder / "t").settled.cut)
        assert cut == (0, position(10), 0)
        assert TableView(curation.folder / "t").digest() == curation.offline_digest(cut)
    workers.send([second])
    workers.work_on_all()
    settle(curation, curation.folder / "t")


def test_an_aborted_transaction_is_not_folded(curation: Curation, workers: ModelWorkers) -> None:
    curation.produce(many_rows(90))
    workers.send(workers.records(0, 10), commits=False)
    workers.positions[0] = 0
    workers._seen[0].clear()
    workers._own[0].clear()
    workers.work_on_all()
    settle(curation, curation.folder / "t")


# --- a table that is lost, or older than what was published


def test_a_table_made_anew_is_not_settled_below_the_published_cut(curation: Curation, workers: ModelWorkers) -> None:
    out = curation.folder / "t"
    curation.produce(many_rows(200))
    workers.work_on_all()
    settle(curation, out)
    published = published_counts(curation.kafka)
    assert published is not None
    shutil.rmtree(out)
    curation.pace = {"first_settle_records": 10, "settle_growth": 1.01}
    cuts: list[tuple[int, ...]] = []

    def look(step: str) -> None:
        if step == "settle.committed":
            cuts.append(cut_of(curation, TableView(out).settled.cut))

    with failpoints.listening(look):
        settle(curation, out)
    assert cuts
    assert all(at >= known for cut in cuts for at, known in zip(cut, published.cut, strict=True))


def test_an_older_copy_of_the_table_is_gone_on_with(curation: Curation, workers: ModelWorkers) -> None:
    out, copy = curation.folder / "t", curation.folder / "copy"
    curation.produce(many_rows(100))
    workers.work_on_all()
    settle(curation, out)
    shutil.copytree(out, copy)
    curation.produce(many_rows(100, first=100))
    workers.look_at_counts()
    workers.work_on_all()
    settle(curation, out)
    published = published_counts(curation.kafka)
    assert published is not None

    seen: list[Any] = []

    def look(step: str) -> None:
        if step == "publish.begin":
            seen.append(TableView(copy).settled.cut)

    with failpoints.listening(look):
        settle(curation, copy)
    after = published_counts(curation.kafka)
    assert after is not None
    assert after.cut == published.cut
    assert not seen, "what is published already is not published again, nor is anything older"


# --- what must agree


def test_records_of_another_rule_are_refused_saying_where(curation: Curation, workers: ModelWorkers) -> None:
    curation.produce(many_rows(60))
    workers.work_on_all()
    curation.seed = 8
    with pytest.raises(ConfigError, match=r"ledger, partition \d, offset \d+ was written by .*\n.*seed_fingerprint"):
        settle_from_kafka(curation.settings, curation.folder / "t", until_end=True)
    assert nothing_was_committed(curation.folder / "t")


def nothing_was_committed(out: Path) -> bool:
    with pytest.raises(ConfigError, match="nothing has been committed"):
        TableView(out)
    return True


def test_settings_other_than_the_tables_are_refused(curation: Curation, workers: ModelWorkers) -> None:
    curation.produce(many_rows(30))
    workers.work_on_all()
    settle(curation, curation.folder / "t")
    curation.counter = Counter("count-min", 2, 16)
    with pytest.raises(ConfigError, match=r"counts was written by|made with other settings"):
        settle_from_kafka(curation.settings, curation.folder / "t", until_end=True)


def test_a_gap_in_the_ledger_is_refused_saying_where(curation: Curation, workers: ModelWorkers) -> None:
    curation.produce(many_rows(90))
    workers.commit(1, 5)
    workers.records(1, 5)  # never sent
    workers.commit(1, 5)
    with pytest.raises(KafkaProblem, match=r"partition 1, offset \d+ tells of the input from offset 10 to offset 15"):
        settle_from_kafka(curation.settings, curation.folder / "t", until_end=True)


def test_a_ledger_that_begins_where_retention_did_is_folded(curation: Curation, workers: ModelWorkers) -> None:
    curation.produce(many_rows(90))
    workers.positions[2] = 5
    workers.work_on_all()
    settle_from_kafka(curation.settings, curation.folder / "t", until_end=True)
    n_rows = sum(len(rows) for rows in curation.rows)
    assert TableView(curation.folder / "t").state.numbers.n_read == n_rows - 5


def test_a_lowered_t_holds_from_the_cut_on(curation: Curation, workers: ModelWorkers) -> None:
    """One worker has it already, the settler has it not; then it is the settler who has an older one."""
    out = curation.folder / "t"
    curation.produce(many_rows(200))
    workers.commit(0, 30)
    workers.header = workers.header.replace_threshold(2)
    workers.work_on_all()
    settle_from_kafka(curation.settings, out, until_end=True)
    view = TableView(out)
    assert view.settled.threshold == 2
    assert view.digest() == curation.offline_digest(threshold=2)
    published = published_counts(curation.kafka)
    assert published is not None
    assert published.header.rule.threshold == 2
    # the settler's own is lower still, and nothing new has come
    curation.threshold = 1
    settle(curation, out)
    assert TableView(out).settled.threshold == 1
    assert (published_counts(curation.kafka) or published).header.rule.threshold == 1


# --- stopped at any step


class Crash(BaseException):
    """Ends the settler as a power cut would: nothing on its way out handles it."""


def crash_at(step: str, nth: int = 1) -> Callable[[str], None]:
    n_left = nth

    def listener(heard: str) -> None:
        nonlocal n_left
        if heard == step:
            n_left -= 1
            if n_left == 0:
                raise Crash(step)

    return listener


STEPS = [
    "create.begin",
    "create.made",
    "takeover.begin",
    "takeover.committed",
    "fold.begin",
    "fold.commit_folded",
    "checkpoint.files_moved",
    "checkpoint.committed",
    "settle.begin",
    "settle.files_moved",
    "settle.committed",
    "settle.cleaned",
    "publish.begin",
    "publish.sent",
    "publish.committed",
]


@pytest.mark.parametrize("step", STEPS)
def test_stopped_at_any_step_it_comes_to_the_same(curation: Curation, workers: ModelWorkers, step: str) -> None:
    out = curation.folder / "t"
    curation.pace = {"first_settle_records": 40, "settle_growth": 1.5}
    curation.produce(many_rows(100))
    workers.work_on_all()
    nth = 1 if step.split(".", maxsplit=1)[0] in ("create", "takeover", "publish") else 2
    with failpoints.listening(crash_at(step, nth)), pytest.raises(Crash):
        settle_from_kafka(curation.settings, out, until_end=True)
    settle(curation, out)
    assert published_up_to_all(curation)


def raise_once(step: str, error: BaseException) -> Callable[[str], None]:
    is_done = False

    def listener(heard: str) -> None:
        nonlocal is_done
        if heard == step and not is_done:
            is_done = True
            raise error

    return listener


@pytest.mark.parametrize("step", [step for step in STEPS if step.split(".")[0] not in ("create", "takeover")])
def test_an_error_at_any_step_is_got_over(curation: Curation, workers: ModelWorkers, step: str) -> None:
    """A disk that is full, or brokers that are away, for a moment."""
    curation.produce(many_rows(100))
    workers.work_on_all()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with failpoints.listening(raise_once(step, full)), capture_logs() as logs:
        settle(curation, curation.folder / "t")
    assert published_up_to_all(curation)
    assert [line for line in logs if line["log_level"] == "warning" and "No space left" in str(line.get("error"))]


# --- two settlers


@pytest.mark.parametrize("step", ["checkpoint.files_moved", "settle.files_moved", "publish.sent", "fold.begin"])
def test_a_newer_settler_takes_over_and_the_older_one_ends(
    curation: Curation, workers: ModelWorkers, step: str
) -> None:
    """Whatever the older one was doing when it was stopped, it does not come to anything when it goes on."""
    out = curation.folder / "t"
    curation.produce(many_rows(100))
    workers.work_on_all()
    stands, goes_on = threading.Event(), threading.Event()
    older_thread: list[threading.Thread] = []

    def stand_still(heard: str) -> None:
        if heard == step and threading.current_thread() in older_thread and not stands.is_set():
            stands.set()
            assert goes_on.wait(LIMIT_S)

    with failpoints.listening(stand_still):
        older = Running(curation, out, before=lambda: older_thread.append(threading.current_thread()))
        assert stands.wait(LIMIT_S)
        curation.produce(many_rows(100, first=100))
        workers.work_on_all()
        settle(curation, out)
        published = published_counts(curation.kafka)
        goes_on.set()
        older.wait()
    assert isinstance(older.error, KafkaProblem), older.error
    assert "another settler has taken over" in str(older.error)
    assert TableView(out).digest() == curation.offline_digest()
    after = published_counts(curation.kafka)
    assert published is not None
    assert after is not None
    assert after.cut == published.cut
    settle(curation, out)


def test_an_older_settler_with_nothing_to_do_ends_soon(curation: Curation, workers: ModelWorkers) -> None:
    out = curation.folder / "t"
    curation.produce(many_rows(40))
    workers.work_on_all()
    settle(curation, out)
    older = Running(curation, out)
    wait_until(lambda: DeltaLog(out).version > TableView(out).settled.version)
    with running(curation, out):
        older.wait()
    assert isinstance(older.error, KafkaProblem)


def test_it_ends_soon_when_it_is_asked_to(curation: Curation) -> None:
    settler = Running(curation, curation.folder / "t")
    wait_until((curation.folder / "t" / "_delta_log").exists)
    start_s = time.monotonic()
    settler.end()
    assert time.monotonic() - start_s < 5
    assert settler.error is None
    assert settler.settlement is not None
    assert settler.settlement.stopped


def test_without_topics_it_says_so(kafka: Callable[..., KafkaSettings], tmp_path: Path) -> None:
    with pytest.raises(KafkaProblem, match=r"there is no topic .* stream-curate topics create"):
        settle_from_kafka(Curation(kafka(), tmp_path).settings, tmp_path / "t")
    assert not (tmp_path / "t").exists()
