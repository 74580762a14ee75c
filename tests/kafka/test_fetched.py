"""What was fetched is what others wrote, the odd and the damaged included."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_messages import GOOD, HOSTILE, LARGE, ODD, RawKey, hostile_messages, odd_messages
from kafka import KafkaConsumer, TopicPartition, codec
from kafka.record import MemoryRecords, util
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka_topics import read_partition

from consumers import clients, fetched
from consumers.clients import end_producer, make_consumer, make_producer
from consumers.dead_letters import DeadLetter, dead_letters, read_dead_letter
from consumers.dev_broker import DevBroker
from consumers.errors import KafkaProblem
from consumers.fetched import FetchedRecords
from consumers.messages import NOT_UNPACKED, MessageReader
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.reasons import Reason

of_broker = pytest.mark.slow  # each starts or waits for a broker
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
PLACE = TopicPartition("pairs", 3)


# --- from a broker


@contextmanager
def consuming(settings: KafkaSettings, offset: int = 0) -> Iterator[KafkaConsumer]:
    """A consumer of partition 0 of `pairs`, from an offset on."""
    consumer = make_consumer(settings)
    place = TopicPartition(settings.topics.pairs, 0)
    try:
        consumer.assign([place])
        consumer.seek(place, offset)
        yield consumer
    finally:
        consumer.close()


@of_broker
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_headers_that_are_not_utf8_stop_nothing(topics: KafkaSettings, compression: str) -> None:
    settings = topics.model_copy(update={"compression": compression})
    pairs = settings.topics.pairs
    bad = [(RawKey(b"\xffab\xfe"), b"\xff"), ("fine \u00e9", b"1"), (RawKey(b"\x80" * 300), b"")]
    producer = make_producer(settings)
    for value, headers in ((b"0", []), (b"1", bad), (b"2", [("x", b"y")]), (None, bad[:1])):
        producer.send(pairs, value, b"\xff\0", headers, partition=0)
    producer.flush()
    assert end_producer(producer)

    found = read_partition(settings, pairs, 0)

    assert [(record.offset, record.key, record.value) for record in found] == [
        (0, b"\xff\0", b"0"),
        (1, b"\xff\0", b"1"),
        (2, b"\xff\0", b"2"),
        (3, b"\xff\0", None),
    ]
    assert found[1].headers == [("?ab?", b"\xff"), ("fine \u00e9", b"1"), ("?" * 300, b"")]
    assert found[2].headers == [("x", b"y")]


@of_broker
@pytest.mark.parametrize("compression", ["gzip", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_too_much_is_one_record(
    topics: KafkaSettings, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = topics.model_copy(update={"compression": compression})
    pairs = settings.topics.pairs
    monkeypatch.setattr(fetched, "MAX_UNPACKED_BYTES", 1024 * 1024)
    monkeypatch.setattr(clients, "_BATCH_BYTES", 8 * 1024 * 1024)
    monkeypatch.setattr(clients, "_LINGER_MS", 1_000)
    producer = make_producer(settings)
    for batch in ([GOOD], [bytes(600_000)] * 4, [GOOD]):
        for value in batch:
            producer.send(pairs, value, partition=0)
        producer.flush()
    assert end_producer(producer)

    found = read_partition(settings, pairs, 0)

    assert [record.offset for record in found] == [0, 4, 5]
    assert found[1].headers == [(NOT_UNPACKED, b"")]
    assert len(found[1].value) < 100_000
    (read,) = MessageReader(pairs, 0).read(found)
    assert read.records.rejected == {1: Reason.TOO_LARGE}
    with consuming(settings, 3) as consumer:  # as one that begins inside it
        (records,) = consumer.poll(timeout_ms=10_000).values()
        assert [record.offset for record in records] == [4, 5]


@of_broker
def test_everything_hostile_comes_through_and_so_do_its_letters(
    topics: KafkaSettings, rng: np.random.Generator
) -> None:
    sent = hostile_messages(rng, len(HOSTILE) + len(LARGE)) + odd_messages(rng, len(ODD))
    producer = make_producer(topics)
    for each in sent:
        producer.send(topics.topics.pairs, each.value, each.key, each.headers, 0)
    letters: list[DeadLetter] = []
    producer.flush()
    n_records = 0
    for batch in MessageReader(topics.topics.pairs, 0).read(read_partition(topics, topics.topics.pairs, 0)):
        n_records += len(batch)
        letters += dead_letters(batch, batch.validate()[1], 0)
    for letter in letters:
        producer.send(topics.topics.dlq, letter.value, letter.key, letter.headers, letter.partition)
    producer.flush()
    assert end_producer(producer)

    assert n_records == sum(each.n_records for each in sent)
    found = [read_dead_letter(record) for record in read_partition(topics, topics.topics.dlq, 0)]
    assert found == letters
    assert Counter(letter.reason for letter in letters) == sum((each.reasons for each in sent), Counter())


@of_broker
def test_records_damaged_on_disk_are_an_error_in_words_each_time(tmp_path: Path) -> None:
    own = DevBroker(tmp_path / "broker")
    try:
        own.start()
        settings = KafkaSettings(bootstrap_servers=own.bootstrap, partitions=1, replication_factor=1)
        settings = settings.model_copy(update={"compression": "none"})
        create_topics(settings)
        pairs = settings.topics.pairs
        producer = make_producer(settings)
        for value in (b"first", b"damaged", b"last"):
            producer.send(pairs, value, partition=0).get(timeout=10)  # each is a batch
        assert end_producer(producer)
        (log,) = (tmp_path / "broker").rglob(f"{pairs}-0/*.log")
        log.write_bytes(log.read_bytes().replace(b"damaged", b"DAMAGED"))

        with consuming(settings) as consumer:
            (records,) = consumer.poll(timeout_ms=10_000).values()
            assert [record.value for record in records] == [b"first"]
            for _ in range(3):
                with pytest.raises(KafkaProblem, match=r"records of pairs, partition 0, .* offset 1 on .*crc check"):
                    consumer.poll(timeout_ms=10_000)
            assert consumer.position(TopicPartition(pairs, 0)) == 1
            consumer.seek(TopicPartition(pairs, 0), 2)
            (records,) = consumer.poll(timeout_ms=10_000).values()
            assert [record.value for record in records] == [b"last"]
    finally:
        own.remove()


# --- as bytes


def batch_of(*records: tuple[bytes | None, list[tuple[str, Any]]], offset: int = 0, compression: int = 0) -> bytes:
    """Records of message format 2, from an offset on."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 30)
    for i, (value, headers) in enumerate(records):
        builder.append(i, 1_000, b"\xff\0", value, headers)
    packed = bytearray(builder.build())
    struct.pack_into(">q", packed, 0, offset)
    return bytes(packed)


def with_checksum(batch: bytearray) -> bytes:
    struct.pack_into(">I", batch, DefaultRecordBatch.CRC_OFFSET, util.calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


def fetch(data: bytes, offset: int = 0) -> FetchedRecords:
    return FetchedRecords(offset, PLACE, MemoryRecords(data))


def test_odd_records_are_read() -> None:
    odd = [(b"a", []), (None, [("x", None), ("x", b"1"), ("x", b"1"), ("", b"")]), (b"", [(RawKey(b"\xff"), None)])]
    found = fetch(batch_of(*odd, offset=7)).take()

    assert [(record.offset, record.key, record.value) for record in found] == [
        (7, b"\xff\0", b"a"),
        (8, b"\xff\0", None),
        (9, b"\xff\0", b""),
    ]
    assert [record.headers for record in found] == [[], odd[1][1], [("?", None)]]


def test_a_record_without_a_time_is_read() -> None:
    batch = bytearray(batch_of((b"a", [])))
    struct.pack_into(">qq", batch, 27, -1, -1)
    (record,) = fetch(with_checksum(batch)).take()
    assert (record.timestamp, record.value) == (-1, b"a")


def test_a_batch_without_records_is_passed() -> None:
    empty = bytearray(batch_of((b"a", []), (b"b", []))[: DefaultRecordBatch.HEADER_STRUCT.size])
    struct.pack_into(">i", empty, 8, len(empty) - 12)
    struct.pack_into(">i", empty, len(empty) - 4, 0)
    whole = fetch(with_checksum(empty) + batch_of((b"c", []), offset=2))
    assert [(record.offset, record.value) for record in whole.take()] == [(2, b"c")]

    alone = fetch(with_checksum(empty))
    assert alone.take() == []
    assert alone.next_fetch_offset == 2


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("compression", [0, GZIP])
def test_old_message_formats_are_read(magic: int, compression: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, compression, 1 << 20)
    for offset, value in enumerate((GOOD, None, b"")):
        builder.append(offset, 1_000, None, value)
    found = fetch(bytes(builder.build())).take()
    assert [(record.offset, record.value, record.headers) for record in found] == [
        (0, GOOD, []),
        (1, None, []),
        (2, b"", []),
    ]


@pytest.mark.parametrize("compression", [GZIP, LZ4, ZSTD])
def test_what_unpacks_to_too_much_is_never_unpacked(compression: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1024 * 1024
    monkeypatch.setattr(fetched, "MAX_UNPACKED_BYTES", size)
    for n_bytes, is_read in ((size // 2, True), (size - 100, True), (size + 1, False), (50 * size, False)):
        batch = batch_of((b"x" * n_bytes, []), (b"b", []), offset=5, compression=compression)
        records = fetch(batch + batch_of((b"c", []), offset=7))
        found = records.take()
        assert found[-1].value == b"c"
        assert [record.offset for record in found] == ([5, 6, 7] if is_read else [6, 7])
        if is_read:
            continue
        assert found[0].headers == [(NOT_UNPACKED, b"")]
        assert found[0].value == batch[DefaultRecordBatch.HEADER_STRUCT.size :]
        for offset in (5, 6):  # as one that begins inside it
            assert [record.offset for record in fetch(batch, offset).take()] == [6]


def test_streams_of_several_parts_are_unpacked() -> None:
    parts = [b"a" * 3_000_000, b"b" * 5]
    for compression, pack in ((GZIP, gzip.compress), (LZ4, codec.lz4.compress), (ZSTD, codec.zstd.compress)):
        packed = b"".join(pack(part) for part in parts)
        assert fetched._unpacked(compression, packed, 1 << 30) == b"".join(parts)
        assert fetched._unpacked(compression, packed, 3_000_005) == b"".join(parts)
        assert fetched._unpacked(compression, packed, 3_000_004) is None


def _damaged(make: Callable[[bytearray], None], *, compression: int = 0) -> bytes:
    batch = bytearray(batch_of((GOOD * 20, [("x", b"y")]), offset=4, compression=compression))
    make(batch)
    return with_checksum(batch)


def _end(batch: bytearray) -> None:
    batch[-1:] = b""
    struct.pack_into(">i", batch, 8, len(batch) - 12)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(batch_of((GOOD, []), offset=4)[:-1] + b"\xff", id="checksum"),
        pytest.param(_damaged(lambda batch: batch.__setitem__(22, 7)), id="codec that nobody knows"),
        *(
            pytest.param(
                _damaged(lambda batch: batch.__setitem__(slice(70, None), b"\xff" * len(batch[70:])), compression=each),
                id=f"codec {each}",
            )
            for each in (GZIP, SNAPPY, LZ4, ZSTD)
        ),
        pytest.param(_damaged(_end, compression=ZSTD), id="zstd cut short"),
        pytest.param(_damaged(lambda batch: batch.__setitem__(slice(57, 61), b"\xff" * 4)), id="a negative number"),
    ],
)
def test_what_cannot_be_read_is_an_error_in_words(data: bytes) -> None:
    records = fetch(batch_of((b"before", []), offset=3) + data, 3)
    assert [record.value for record in records.take(1)] == [b"before"]
    with pytest.raises(KafkaProblem, match="records of pairs, partition 3, cannot be read from offset 4 on"):
        records.take()
    assert not records  # so that it is fetched again
    assert records.next_fetch_offset == 4
