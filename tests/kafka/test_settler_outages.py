"""The settler while brokers, the disk, or its own process are away for a while: it goes on, and comes to the same."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from kafka_fleet import Fleet
from kafka_ledgers import Curation, ModelWorkers, estimates_at, many_rows, published_counts
from kafka_topics import environment, read_partition
from kafka_transactions import has_open_transaction
from structlog.testing import capture_logs

from consumers import settler as settler_module
from consumers.dev_broker import DevBroker
from consumers.messages import position
from consumers.settings import KafkaSettings
from consumers.settler import Settlement, settle_from_kafka
from consumers.topics import create_topics
from stream_curate import failpoints
from stream_curate.counting import Counter
from stream_curate.errors import OutputError
from stream_curate.rule import Dedup
from stream_curate.stop import StopRequest
from stream_curate.table.view import TableView

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LIMIT_S = 60.0  # to come to something, on a busy machine
OUTAGE_S = 6.0
TRANSACTION_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevBroker]:
    made = DevBroker(tmp_path_factory.mktemp("outages") / "broker")
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def broker(own_broker: DevBroker) -> str:
    """The one that the fixture `kafka` has its topics at."""
    return own_broker.bootstrap


@pytest.fixture
def short(own_broker: DevBroker, kafka: Callable[..., KafkaSettings]) -> Iterator[KafkaSettings]:
    """Short times; the topics are there."""
    made = kafka(
        transaction_timeout_s=TRANSACTION_TIMEOUT_S, request_timeout_s=1.0, give_up_after_s=20.0, settle_idle_s=1.0
    )
    create_topics(made.model_copy(update={"request_timeout_s": 10.0}))
    yield made
    own_broker.start()  # if the test has failed while it was away


@pytest.fixture
def curation(short: KafkaSettings, tmp_path: Path) -> Curation:
    return Curation(short, tmp_path)


@pytest.fixture
def workers(curation: Curation) -> Iterator[ModelWorkers]:
    made = ModelWorkers(curation)
    yield made
    made.close()


def wait_until(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come to that"
        time.sleep(0.05)


@contextmanager
def settling(curation: Curation, out: Path) -> Iterator[Future[Settlement]]:
    """A settler in a thread, until all that stands in `pairs` now is settled."""
    stop = StopRequest()
    with ThreadPoolExecutor(1) as pool:
        settler = pool.submit(settle_from_kafka, curation.settings, out, until_end=True, stop=stop)
        try:
            yield settler
        finally:
            stop.request()


def come_to(settler: Future[Settlement], condition: Callable[[], Any]) -> None:
    """Wait until the settler has come to something, and not to its end."""
    wait_until(lambda: settler.done() or condition())
    if settler.done():
        raise AssertionError(f"the settler has ended: {settler.result()}")


def check(curation: Curation, out: Path) -> None:
    """Every record is in the table and in the published counts, once."""
    everything = tuple(position(len(rows)) for rows in curation.rows)
    view = TableView(out)
    assert view.digest() == curation.offline_digest()
    assert view.n_pending == 0
    assert view.state.numbers.n_read == sum(map(len, curation.rows))
    published = published_counts(curation.kafka)
    assert published is not None
    assert published.cut == everything
    assert published.n_unique == view.state.numbers.n_unique
    assert published.entry_counts.tolist() == estimates_at(curation, everything).tolist()


def published_up_to_all(curation: Curation) -> bool:
    published = published_counts(curation.kafka)
    return published is not None and published.cut == tuple(position(len(rows)) for rows in curation.rows)


def work_at_random(workers: ModelWorkers, rng: np.random.Generator, n_commits: int) -> None:
    for _ in range(n_commits):
        workers.commit(int(rng.integers(3)), int(rng.integers(1, 20)), int(rng.integers(1, 4)))


# --- the broker is away


def test_the_broker_dies_while_it_folds(
    own_broker: DevBroker, curation: Curation, workers: ModelWorkers, rng: np.random.Generator
) -> None:
    out = curation.folder / "t"
    curation.pace = {"first_settle_records": 40, "settle_growth": 1.5}
    curation.produce(many_rows(400))
    n_until_it_dies = int(rng.integers(1, 12))
    n_folded = 0

    def count(step: str) -> None:
        nonlocal n_folded
        n_folded += step == "fold.commit_folded"

    with failpoints.listening(count), settling(curation, out) as settler:
        work_at_random(workers, rng, 12)
        come_to(settler, lambda: n_folded >= n_until_it_dies)
        own_broker.kill()
        time.sleep(OUTAGE_S)
        assert not settler.done()
        own_broker.start()
        workers.look_at_counts()
        workers.work_on_all()
        settlement = settler.result(LIMIT_S)
    assert not settlement.stopped
    check(curation, out)


@pytest.mark.parametrize("step", ["publish.begin", "publish.sent"])
def test_the_broker_dies_while_it_publishes(
    own_broker: DevBroker, curation: Curation, workers: ModelWorkers, step: str
) -> None:
    out = curation.folder / "t"
    curation.kafka = curation.kafka.model_copy(update={"give_up_after_s": 6.0})
    curation.produce(many_rows(100))
    workers.work_on_all()
    dead = threading.Event()

    def kill(heard: str) -> None:
        if heard == step and not dead.is_set():
            own_broker.kill()
            dead.set()

    with capture_logs() as logs, failpoints.listening(kill), settling(curation, out) as settler:
        come_to(settler, dead.is_set)
        come_to(settler, lambda: any("the counts could not be published" in line["event"] for line in logs))
        own_broker.start()
        settler.result(LIMIT_S)
    check(curation, out)
    assert len(read_partition(curation.kafka, curation.kafka.topics.counts, 0)) == 1


def test_disk_and_broker_are_away_at_once(own_broker: DevBroker, curation: Curation, workers: ModelWorkers) -> None:
    """To open the table again it has to ask the broker, and that takes as long as it takes."""
    out = curation.folder / "t"
    curation.kafka = curation.kafka.model_copy(update={"give_up_after_s": 6.0})
    curation.produce(many_rows(100))
    workers.work_on_all()
    n_folded = 0

    def fail(heard: str) -> None:
        nonlocal n_folded
        n_folded += heard == "fold.begin"
        if heard == "fold.begin" and n_folded == 3:
            own_broker.kill()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with capture_logs() as logs, failpoints.listening(fail), settling(curation, out) as settler:
        come_to(settler, lambda: any("the table still cannot be written" in line["event"] for line in logs))
        own_broker.start()
        settler.result(LIMIT_S)
    check(curation, out)


def test_it_ends_when_asked_to_while_the_broker_is_away(
    own_broker: DevBroker, curation: Curation, workers: ModelWorkers
) -> None:
    out = curation.folder / "t"
    curation.produce(many_rows(60))
    stop = StopRequest()
    with ThreadPoolExecutor(1) as pool:
        settler = pool.submit(settle_from_kafka, curation.settings, out, stop=stop)
        workers.work_on_all()
        come_to(settler, lambda: published_up_to_all(curation))
        own_broker.kill()
        stop.request()
        start_s = time.monotonic()
        assert settler.result(LIMIT_S).stopped
        assert time.monotonic() - start_s < 5
    own_broker.start()
    settle_from_kafka(curation.settings, out, until_end=True)
    check(curation, out)


# --- the disk is full

# What fills the disk leaves room for a few commits. The mount goes away with the process.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=4m tmpfs "$DISK" && head -c 3700k /dev/zero >"$DISK/ballast" && exec "$@"
"""


def rule(curation: Curation) -> Mapping[str, str]:
    """As the environment of a command has it, but for the prefix."""
    settings = curation.settings  # which writes the entries
    return {
        "METADATA": str(settings.metadata),
        "THRESHOLD": str(curation.threshold),
        "SEED": str(curation.seed),
        "COUNTER": "exact",
        "CHECKPOINT_INTERVAL_S": "0",
        "FIRST_SETTLE_RECORDS": "100",
        "SETTLE_GROWTH": "1.5",
    }


def test_the_disk_is_full_until_there_is_room_again(curation: Curation, workers: ModelWorkers, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    log = tmp_path / "log"
    curation.produce(many_rows(600))
    workers.work_on_all(n_rows=10)
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    command = [sys.executable, "-m", "stream_curate", "settler", "--out", str(disk / "t")]
    variables = {f"STREAM_CURATE_{key}": value for key, value in rule(curation).items()}
    with open(log, "wb") as written:
        settler = subprocess.Popen(
            [*namespace, "sh", "-c", ON_A_SMALL_DISK, "sh", *command],
            env=os.environ | variables | environment(curation.kafka) | {"DISK": str(disk)},
            stdout=written,
            stderr=written,
        )
    seen_from_there = Path(f"/proc/{settler.pid}/root{disk}")

    def comes_to(condition: Callable[[], Any]) -> None:
        wait_until(lambda: settler.poll() is not None or condition())
        assert settler.poll() is None, log.read_text()

    try:
        comes_to(lambda: "the table cannot be written: paused" in log.read_text())
        assert "No space left on device" in log.read_text()
        # it tries again and again, and meanwhile the workers go on
        n_tries = log.read_text().count(" wait_s=")
        curation.produce(many_rows(60, first=600))
        workers.work_on_all()
        comes_to(lambda: log.read_text().count(" wait_s=") >= n_tries + 3)
        (seen_from_there / "ballast").unlink()
        comes_to(lambda: published_up_to_all(curation))
        copytree(seen_from_there / "t", tmp_path / "copy")
        settler.send_signal(signal.SIGTERM)
        assert settler.wait(LIMIT_S) == 0, log.read_text()
    finally:
        with suppress(ProcessLookupError):
            settler.kill()
        settler.wait()
        print(log.read_text())
    words = log.read_text()
    assert "Traceback" not in words
    assert "going on with the table" in words
    check(curation, tmp_path / "copy")


def test_a_settle_that_never_works_is_given_up(
    curation: Curation, workers: ModelWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for commits, and none for a settle: it tries later and later, and then says that somebody has to look."""
    monkeypatch.setattr(settler_module, "TABLE_GIVE_UP_S", 4.0)
    out = curation.folder / "t"
    curation.produce(many_rows(60))
    workers.work_on_all()
    n_tries = 0

    def fail(heard: str) -> None:
        nonlocal n_tries
        if heard == "settle.begin":
            n_tries += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with failpoints.listening(fail), settling(curation, out) as settler, pytest.raises(OutputError, match="No space"):
        settler.result(LIMIT_S)
    assert 3 <= n_tries <= 8
    settle_from_kafka(curation.settings, out, until_end=True)
    check(curation, out)


# --- it is stopped, and continued


def test_stopped_for_longer_than_a_transaction_lasts_it_goes_on(
    curation: Curation, workers: ModelWorkers, tmp_path: Path
) -> None:
    """In a commit of the table, in a settle, and while publishing, with no other settler to take over."""
    out = tmp_path / "t"
    curation.produce(many_rows(300))
    workers.work_on_all()
    steps = ["checkpoint.files_moved", "settle.files_moved", "publish.sent"]
    with Fleet(tmp_path / "fleet", curation.kafka, rule(curation)) as fleet:
        settler = fleet.settler("settler", out, failpoints=[",".join(f"{step}:1:stop" for step in steps)])
        for n, step in enumerate(steps):
            fleet.wait_for(settler.is_stopped, LIMIT_S, f"it to stop at {step}")
            assert settler.last_step() == step
            if step == "publish.sent":
                assert has_open_transaction(curation.kafka)
                assert published_counts(curation.kafka) is None
                fleet.wait_for(lambda: not has_open_transaction(curation.kafka), LIMIT_S, "the broker to abort it")
            else:
                time.sleep(TRANSACTION_TIMEOUT_S + 1)
            curation.produce(many_rows(20, first=300 + 20 * n))
            workers.work_on_all()
            fleet.go_on("settler")
            fleet.wait_for(lambda step=step: settler.last_step() != step, LIMIT_S, "it to go on")
        fleet.wait_for(lambda: published_up_to_all(curation), LIMIT_S, "all to be published", every_s=0.2)
        assert fleet.terminate("settler") == 0
        assert settler.n_starts == 1
        assert "the counts could not be published, trying again" in settler.log.read_text()
    check(curation, out)


# --- other rules, with interruptions


@pytest.mark.parametrize(
    ("dedup", "counter"),
    [
        ("none", Counter("exact")),
        ("none", Counter("count-min", 2, 4)),
        ("exact", Counter("count-min", 1, 3)),
    ],
    ids=["no dedup", "no dedup, small sketch", "tiny sketch"],
)
def test_other_rules(
    short: KafkaSettings, tmp_path: Path, rng: np.random.Generator, dedup: Dedup, counter: Counter
) -> None:
    """At each settled version, of a settler that is asked to end now and then."""
    out = tmp_path / "t"
    pace = {"first_settle_records": 40, "settle_growth": 1.2}
    curation = Curation(short, tmp_path, counter=counter, dedup=dedup, pace=pace)
    curation.produce(many_rows(400))
    workers = ModelWorkers(curation)
    n_settled = 0
    stop = StopRequest()

    def look(step: str) -> None:
        nonlocal n_settled
        if step == "settle.committed":
            n_settled += 1
            view = TableView(out)
            cut = tuple(view.settled.cut[f"kafka:{short.topics.pairs}/{partition}"] for partition in range(3))
            assert view.digest() == curation.offline_digest(cut)
        if step == "fold.commit_folded" and rng.random() < 0.1:
            stop.request()

    with failpoints.listening(look):
        for _ in range(3):
            work_at_random(workers, rng, 8)
            workers.look_at_counts()
            stop = StopRequest()
            timer = threading.Timer(0.7, stop.request)
            timer.start()
            assert settle_from_kafka(curation.settings, out, stop=stop).stopped
            timer.cancel()
        workers.work_on_all()
        workers.close()
        stop = StopRequest()
        assert not settle_from_kafka(curation.settings, out, until_end=True).stopped
    assert n_settled >= 1
    check(curation, out)
    numbers = TableView(out).state.numbers
    assert (numbers.n_duplicate == 0) == (dedup == "none")
