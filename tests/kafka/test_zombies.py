"""Those who should be dead and are not: they write nothing that anybody reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from kafka_curation import RULE, SETTLER_PACE, finish, short_times
from kafka_feed import Feed, distinct_pairs
from kafka_fleet import Fleet
from kafka_proxy import END_TXN, PRODUCE, KafkaProxy
from kafka_reference import read_ledger

from consumers.clients import end_producer, make_producer
from consumers.dev_broker import DevBroker
from consumers.messages import ARROW_HEADERS, encode_arrow, home
from consumers.settings import KafkaSettings
from consumers.topics import create_topics

pytestmark = pytest.mark.slow

PARTITION = 1


@pytest.fixture(scope="module")
def proxy() -> Iterator[KafkaProxy]:
    made = KafkaProxy()
    yield made
    made.close()


@pytest.fixture(scope="module")
def broker(proxy: KafkaProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevBroker]:
    """A broker whose second listener is reached through the proxy."""
    made = DevBroker(tmp_path_factory.mktemp("zombies") / "broker", proxy_port=proxy.port)
    try:
        made.start()
        assert made.behind_proxy is not None
        proxy.forward_to(made.behind_proxy)
        yield made
    finally:
        made.remove()


@pytest.fixture
def settings(broker: DevBroker) -> KafkaSettings:
    made = short_times(broker.bootstrap, partitions=3)
    create_topics(made)
    return made


def send(settings: KafkaSettings, partition: int, pairs: pa.RecordBatch) -> None:
    """One Arrow message of these pairs, to this partition, whatever their home."""
    producer = make_producer(settings)
    try:
        producer.send(settings.topics.pairs, encode_arrow(pairs), headers=list(ARROW_HEADERS), partition=partition).get(
            timeout=30
        )
    finally:
        end_producer(producer)


def n_commits(settings: KafkaSettings, partition: int) -> int:
    return sum(record.is_last for record in read_ledger(settings)[partition])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("step", ["commit.ending", "commit.ledger_sent"])
def test_an_owner_that_stalls_in_a_transaction_writes_nothing_once_another_has_restored(
    settings: KafkaSettings, tmp_path: Path, step: str
) -> None:
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=1, pairs_per_s=500, n_pairs=20_000) as feed,
    ):
        zombie = fleet.worker("zombie", failpoints=[f"{step}:9:stop"])
        fleet.wait_for(zombie.is_stopped, 60, "the first owner to stall")
        stalled = [len(records) for records in read_ledger(settings)]
        heir = fleet.worker("heir")

        def all_go_on() -> bool:
            return all(n > before + 1 for n, before in zip(map(len, read_ledger(settings)), stalled, strict=True))

        fleet.wait_for(all_go_on, 60, "the heir to have restored and gone on with all partitions", every_s=0.5)
        before = zombie.steps.mark()
        fleet.go_on("zombie")
        fleet.wait_for(lambda: zombie.steps.has("restore.sought", before), 60, "the zombie to own something again")
        names = [each.name for each in zombie.steps.steps]
        # other partitions' commits may have been with the broker when all of the process stood still
        n_asked = names[:before].count("commit.ending") - (step == "commit.ending")
        n_done = names[: names.index("restore.sought", before)].count("commit.done")
        assert n_done <= n_asked, "a late commit was taken for done"
        assert heir.n_starts == 1
        feed.stop()
        finish(fleet, tmp_path / "table", feed.pair_ids())


@pytest.mark.timeout(240)
def test_of_two_settlers_on_one_folder_the_newer_one_goes_on(settings: KafkaSettings, tmp_path: Path) -> None:
    out = tmp_path / "table"
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=2, pairs_per_s=500, n_pairs=20_000) as feed,
    ):
        fleet.worker("worker")
        older = fleet.settler("older", out, **SETTLER_PACE)
        fleet.wait_for(lambda: older.steps.has("settle.committed"), 60, "a settle")
        older.restarts = False
        newer = fleet.settler("newer", out, **SETTLER_PACE)
        fleet.wait_for(lambda: older.process is None, 60, "the older settler to end")
        fleet.wait_for(lambda: newer.steps.has("settle.committed"), 60, "a settle")
        assert newer.n_starts == 1
        feed.stop()
        finish(fleet, out, feed.pair_ids())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", ["checkpoint.state_written", "settle.files_moved", "publish.sent"])
def test_a_settler_that_stalls_in_a_write_does_no_harm_once_another_has_taken_over(
    settings: KafkaSettings, tmp_path: Path, step: str
) -> None:
    out = tmp_path / "table"
    with (
        Fleet(tmp_path / "fleet", settings, RULE) as fleet,
        Feed(settings, seed=3, pairs_per_s=500, n_pairs=20_000) as feed,
    ):
        fleet.worker("worker")
        zombie = fleet.settler("zombie", out, failpoints=[f"{step}:2:stop"], **SETTLER_PACE)
        fleet.wait_for(zombie.is_stopped, 60, "the first settler to stall")
        zombie.restarts = False
        heir = fleet.settler("heir", out, **SETTLER_PACE)
        fleet.wait_for(lambda: heir.steps.has("publish.committed"), 60, "the heir")
        fleet.go_on("zombie")
        fleet.wait_for(lambda: zombie.process is None, 60, "the zombie to end")
        before = heir.steps.mark()
        fleet.wait_for(lambda: heir.steps.has("publish.committed", before), 60, "the heir to go on")
        assert heir.n_starts == 1
        feed.stop()
        finish(fleet, out, feed.pair_ids())


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["late", "broken off and late", "broken off", "broken off and lost"])
def test_a_torn_transaction_is_read_whole_or_not_at_all(
    broker: DevBroker, proxy: KafkaProxy, tmp_path: Path, way: str
) -> None:
    """The EndTxn of one commit is held back, and comes when the next transaction is half written.

    The next commit forwards so many pairs that they go out in several requests; the second is held back while the late
    EndTxn arrives.
    """
    settings = short_times(broker.bootstrap, partitions=3, commit_records=20_000)
    create_topics(settings)
    pairs = distinct_pairs(12_300)
    homes = home(pairs.column("pair_id"), settings.partitions)
    at_home = pairs.filter(pa.array(homes == PARTITION))
    first = at_home.slice(0, 100)
    second = pairs.filter(pa.array(homes != PARTITION))
    third = at_home.slice(100, 100)
    name = f"{settings.topics.ledger}-{PARTITION}"
    end_txn = proxy.hold(END_TXN, naming=name, commits=True)
    with Fleet(tmp_path / "fleet", settings, RULE) as fleet:
        fleet.worker("worker", KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{proxy.port}")
        send(settings, PARTITION, first)
        fleet.wait_for(lambda: end_txn.has_caught, 60, "the EndTxn")
        if way.startswith("broken off"):
            end_txn.break_off()  # the client knows of that at once
        if way == "broken off":
            end_txn.release()
        if way == "broken off and lost":
            end_txn.forget()
        # whoever has the partition then, the first range is in the ledger at some time
        fleet.wait_for(lambda: n_commits(settings, PARTITION) >= 1, 60, "the first commit", every_s=0.2)
        produce = proxy.hold(PRODUCE, naming=name, after=1)
        send(settings, PARTITION, second)
        fleet.wait_for(lambda: produce.has_caught, 60, "the second request of the next transaction")
        if way.endswith("late"):
            end_txn.release()
            time.sleep(0.5)  # it has been answered by then, or it has not: both must do
        produce.release()
        send(settings, PARTITION, third)
        sent = [pair_id for part in (first, second, third) for pair_id in part.column("pair_id").to_pylist()]
        finish(fleet, tmp_path / "table", sent, timeout_s=60)
