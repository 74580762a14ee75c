"""One record in a hundred is bad, in every way there is: nothing crashes, and the dead letters are exact."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hostile_messages import HostileMessage, hostile_messages, odd_messages
from kafka_topics import read_partition
from million import write_repeated

from consumers.audit import audit
from consumers.clients import make_producer
from consumers.dead_letters import read_dead_letter
from consumers.settings import AllSettings, KafkaSettings
from consumers.settler import settle_from_kafka
from consumers.topics import create_topics
from consumers.worker import work
from stream_curate.reasons import Reason

pytestmark = pytest.mark.slow

N_RECORDS = 100_000
N_BAD = N_RECORDS // 100
N_ODD = 500


def test_one_percent_of_bad_records(
    kafka: Callable[..., KafkaSettings], rng: np.random.Generator, tmp_path: Path
) -> None:
    settings = AllSettings(
        threshold=20, seed="7", counter="exact", kafka=kafka(partitions=4), first_settle_records=50_000
    )
    create_topics(settings.kafka)
    bad, odd = hostile_messages(rng, N_BAD), odd_messages(rng, N_ODD)
    send(settings.kafka, good_messages(tmp_path, N_RECORDS - N_BAD - N_ODD), [*bad, *odd], rng)
    expected: Counter[Reason] = sum((message.reasons for message in bad), Counter())

    worked = work(settings, until_end=True)
    settle_from_kafka(settings, tmp_path / "table", until_end=True)

    assert worked.numbers.rejected == {reason.value: n for reason, n in expected.items()}
    letters = [
        letter
        for partition in range(settings.kafka.partitions)
        for letter in map(read_dead_letter, read_partition(settings.kafka, settings.kafka.topics.dlq, partition))
    ]
    assert Counter(letter.reason if letter else None for letter in letters) == expected
    whole = [letter for letter in letters if letter is not None and letter.truncated_from is None]
    assert all(hashlib.sha256(letter.value or b"").hexdigest() == letter.sha256 for letter in whole)
    report = audit(settings, tmp_path / "table")
    assert report.n_problems == 0, report.problems


def good_messages(tmp_path: Path, n: int) -> list[bytes]:
    path = tmp_path / "repeated.parquet"
    write_repeated(path, n)
    table = pq.read_table(path)
    columns = (table.column(name).to_pylist() for name in ("url", "text"))
    return [orjson.dumps({"url": url, "text": text}) for url, text in zip(*columns, strict=True)]


def send(settings: KafkaSettings, good: list[bytes], others: list[HostileMessage], rng: np.random.Generator) -> None:
    """All of them in any order, to any partition."""
    producer = make_producer(settings)
    messages = [*((value, None, []) for value in good), *((other.value, other.key, other.headers) for other in others)]
    partitions = rng.integers(settings.partitions, size=len(messages)).tolist()
    for i in rng.permutation(len(messages)).tolist():
        producer.send(settings.topics.pairs, *messages[i], partition=partitions[i])
    producer.flush(timeout=60)
    producer.close()
