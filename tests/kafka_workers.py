"""What tests of the workers share: input in `pairs`, workers in threads, and the ledger folded plainly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from command_line import GOLDEN_METADATA
from hostile_messages import Message
from kafka_reference import check_ledger
from kafka_transactions import end_transaction
from million import real_pairs

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.decision import Decider
from consumers.ledger import LedgerRecord, RuleHeader
from consumers.messages import ARROW_HEADERS, MessageReader, ReadBatch, encode_arrow, encode_json, home
from consumers.owned_partition import OwnedPartition
from consumers.settings import AllSettings, KafkaSettings
from consumers.watchdog import Watchdog
from consumers.worker import Worked, work
from stream_curate.counting import Counter, empty_counts
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.offline import draw, siphash_2_4
from stream_curate.pairs import Records, validate
from stream_curate.rule import Dedup, Rule
from stream_curate.settings import load_settings_of
from stream_curate.stop import StopRequest

SEED = 7
THRESHOLD = 20
EXACT = Counter("exact")
RULE_FLAGS = ("--metadata", GOLDEN_METADATA, "-t", THRESHOLD, "--seed", SEED, "--counter", "exact")
ENTRIES = ["dog", "cat", "park", "blue", "hot dog"]

# fast enough for tests, and slow enough for a busy machine
QUICK = {"commit_interval_s": 0.5, "session_timeout_s": 6.0, "max_poll_interval_s": 30.0, "give_up_after_s": 15.0}


# --- pairs


def shard_pairs(n_pairs: int) -> pa.RecordBatch:
    """The first so many real pairs, valid, as they are; some come twice."""
    return valid_pairs(real_pairs().slice(0, n_pairs).to_pylist())


def made_pairs(n_pairs: int, first: int = 0) -> pa.RecordBatch:
    """Pairs with the entries of ENTRIES, frequent and rare, and with none."""
    texts = ["a dog in the park", "a blue cat", "hot dog", "a dog", "no match", "a dog"]
    return valid_pairs(
        [{"url": f"http://x.org/{i}", "text": texts[i * i % 11 % len(texts)]} for i in range(first, first + n_pairs)]
    )


def valid_pairs(rows: Sequence[dict[str, str]]) -> pa.RecordBatch:
    columns = (pa.array([row[name].encode() for row in rows], pa.binary()) for name in ("url", "text"))
    return validate(Records("made", 0, *columns))[0]


def made_metadata() -> Metadata:
    return Metadata.from_entries(ENTRIES)


# --- without a broker


def header_of(
    metadata: Metadata,
    *,
    threshold: int = 2,
    seed: int = SEED,
    dedup: Dedup = "exact",
    n_partitions: int = 2,
    kept: tuple[str, ...] = (),
    final: FinalDecisions | None = None,
) -> RuleHeader:
    rule = Rule.of(metadata, threshold=threshold, seed=seed, counter=EXACT, dedup=dedup, final=final)
    return RuleHeader(rule, n_partitions, kept)


def read_batch(messages: Iterable[Message], partition: int = 0, **columns: Any) -> ReadBatch:
    """Messages, decoded, all as one batch."""
    reader = MessageReader("pairs", partition, **columns)
    return next(reader.read(messages, 10**9), reader.nothing())


# --- in the broker


def send(
    settings: KafkaSettings,
    pairs: pa.RecordBatch,
    *,
    arrow: bool = False,
    to: int | None = None,
    rows_a_message: int = 500,
) -> None:
    """Put pairs into `pairs`: each at home, or all into the partition `to`."""
    homes = home(pairs.column("pair_id"), settings.partitions)
    for partition in range(settings.partitions):
        of_partition = pairs if to is not None else pairs.take(pa.array(np.flatnonzero(homes == partition)))
        place = partition if to is None else to
        if arrow:
            pieces = [of_partition.slice(k, rows_a_message) for k in range(0, len(of_partition), rows_a_message)]
            send_raw(settings, [(encode_arrow(piece), list(ARROW_HEADERS)) for piece in pieces], place)
        else:
            send_raw(settings, [(value, []) for value in encode_json(of_partition)], place)
        if to is not None:
            return


def send_raw(
    settings: KafkaSettings, messages: Sequence[tuple[bytes | None, list[tuple[str, bytes]]]], partition: int
) -> None:
    """Put messages into a partition of `pairs` as they are."""
    producer = make_producer(settings)
    try:
        futures = [
            producer.send(
                settings.topics.pairs,
                value,
                b"" if value is None else None,  # the client wants one of the two
                headers=headers,
                partition=partition,
            )
            for value, headers in messages
        ]
        for future in futures:
            future.get(timeout=30)
    finally:
        end_producer(producer)


@contextmanager
def transaction(settings: KafkaSettings, name: str = "test", *, commit: bool = True) -> Iterator[Any]:
    """A producer with a transaction of its own around the body."""
    producer = make_producer(settings, transactional_id=f"{settings.topics.pairs}-{name}")
    try:
        producer.init_transactions()
        producer.begin_transaction()
        yield producer
        producer.flush()
        end_transaction(producer, settings, commits=commit)
    finally:
        end_producer(producer)


def finish_transaction(settings: KafkaSettings, transactional_id: str) -> None:
    """Wait until the last transaction is seen by readers.

    A commit is answered before its markers are written. Who comes next with the same id has to wait for them.
    """
    producer = make_producer(settings, transactional_id=transactional_id)
    try:
        producer.init_transactions()
    finally:
        end_producer(producer)


def worker_settings(kafka: KafkaSettings, **changes: Any) -> AllSettings:
    """All that a worker needs, with the golden metadata."""
    flags = {"metadata": GOLDEN_METADATA, "threshold": THRESHOLD, "seed": str(SEED), "counter": "exact"} | changes
    settings = load_settings_of(AllSettings, None, {key: value for key, value in flags.items() if value is not None})
    return settings.model_copy(
        update={"kafka": KafkaSettings.model_validate(QUICK | kafka.model_dump(exclude_unset=True))}
    )


@contextmanager
def owner(settings: KafkaSettings, metadata: Metadata, partition: int = 0, **rule: Any) -> Iterator[OwnedPartition]:
    """A partition taken over and restored."""
    decider = Decider(header_of(metadata, n_partitions=settings.partitions, **rule), metadata, SEED)
    with (
        closing(Watchdog()) as watchdog,
        closing(OwnedPartition(settings, partition, decider, None, watchdog)) as owned,
    ):
        restored(settings, owned)
        yield owned
    finish_transaction(settings, f"{settings.topics.ledger}-{partition}")


def commit_now(owned: OwnedPartition, batch: ReadBatch, next_position: int) -> dict[int, int]:
    """A whole commit; returns what it has reached."""
    prepared = owned.prepare(batch, next_position)
    owned.write(prepared)
    owned.take_note(prepared)
    return prepared.reached


def restored(settings: KafkaSettings, owned: OwnedPartition, slice_s: float = 10.0) -> int:
    """Restore it; returns in how many slices."""
    consumer = make_consumer(settings)
    n_slices = 1
    try:
        while not owned.restore(consumer, slice_s):
            n_slices += 1
            assert n_slices < 10_000
    finally:
        consumer.close()
    if owned.state.next < 0:
        owned.state.next = 0
    return n_slices


class WorkerThread:
    """A worker in this process, until it ends or is stopped. An error of its own comes out of `join`."""

    def __init__(self, settings: AllSettings, **how: Any) -> None:
        self._stop = StopRequest()
        self._result: Worked | None = None
        self._error: BaseException | None = None
        self.n_read = 0
        self._watchdog = Watchdog()
        self._thread = threading.Thread(target=self._run, args=(settings, how), daemon=True, name="worker")
        self._thread.start()

    def _run(self, settings: AllSettings, how: dict[str, Any]) -> None:
        def count(numbers: Any) -> None:
            self.n_read = numbers.n_read

        try:
            self._result = work(settings, stop=self._stop, watchdog=self._watchdog, on_commit=count, **how)
        except BaseException as error:
            self._error = error
        finally:
            self._watchdog.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def request_stop(self) -> None:
        self._stop.request()

    def join(self, timeout_s: float = 60) -> Worked:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the worker does not end within {timeout_s} s"
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def stop(self, timeout_s: float = 30) -> Worked:
        self.request_stop()
        return self.join(timeout_s)


@contextmanager
def running(settings: AllSettings, n_workers: int = 1, **how: Any) -> Iterator[list[WorkerThread]]:
    """Workers that are stopped in the end, however that comes."""
    workers = [WorkerThread(settings, **how) for _ in range(n_workers)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.request_stop()
        for worker in workers:
            worker._thread.join(30)


def wait_for(condition: Callable[[], object], timeout_s: float = 30, workers: Iterable[WorkerThread] = ()) -> None:
    """Wait until it holds; a worker that ends meanwhile, and the limit, are failures."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        for worker in workers:
            if not worker.is_alive:
                worker.join()
                raise AssertionError("a worker has ended")
        assert time.monotonic() < end_s, f"not within {timeout_s} s"
        time.sleep(0.02)


# --- the ledger, folded


def fold(
    settings: KafkaSettings, metadata: Metadata, *, threshold: int = THRESHOLD, counter: Counter = EXACT
) -> set[bytes]:
    """What the settler would keep at the end of the ledger: the admitted pairs, by the plain rule at the sum of deltas.

    Fails where ranges do not tile, or a pair is seen or admitted twice.
    """
    return fold_records(check_ledger(settings), metadata, threshold=threshold, counter=counter)


def fold_records(
    ledger: Iterable[Iterable[LedgerRecord]], metadata: Metadata, *, threshold: int, counter: Counter = EXACT
) -> set[bytes]:
    counts = empty_counts(counter, len(metadata))
    admitted: list[tuple[bytes, list[int]]] = []
    for records in ledger:
        for record in records:
            counts.add(record.entry_ids, record.increments)
            columns = (record.admitted.column(name).to_pylist() for name in ("pair_id", "entry_ids"))
            admitted += zip(*columns, strict=True)
    entry_counts = counts.estimates(np.arange(len(metadata), dtype=np.int32))
    key = SEED.to_bytes(16, "little")
    return {
        pair_id
        for pair_id, entry_ids in admitted
        if any(draw(siphash_2_4(key, pair_id), metadata.entry(e)) * int(entry_counts[e]) < threshold for e in entry_ids)
    }
