"""One digest, whatever the workers, partitions, commits, order, partitioner, messages; and it is offline's."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumers.clients import make_producer
from consumers.messages import ARROW_HEADERS, encode_arrow
from consumers.produce import produce
from consumers.settings import AllSettings, KafkaSettings
from consumers.settler import settle_from_kafka
from consumers.topics import create_topics
from consumers.worker import work
from stream_curate.counting import Counter
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest, records_of
from stream_curate.pairs import Records, make_pairs
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.table.view import TableView

pytestmark = pytest.mark.slow

SHARDS = Path(__file__).parents[1] / "shards"
THRESHOLD, SEED = 20, 7
COUNT_MIN = {"num_hashes": 4, "num_buckets": 2**14}  # small enough to be wrong now and then
N_REPEATED = 5_000
ARROW_ROWS = 700

VALUES: Mapping[str, Sequence[Any]] = {
    "workers": [1, 2, 3, 4],
    "partitions": [1, 3, 8],
    "commit_records": [100, 1_000, 20_000],
    "order": ["as it is", "reversed", "shuffled", "repeated"],
    "partitioner": ["home", "another"],
    "counter": ["exact", "count-min"],
    "message": ["json", "arrow"],
}


def combinations() -> list[dict[str, Any]]:
    """Few combinations in which every pair of values occurs: each time the one with the most pairs that are missing."""
    names = list(VALUES)
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product(*VALUES.values())]
    missing = set().union(*map(pairs_of, everything))
    chosen = []
    while missing:
        best = max(everything, key=lambda each: len(pairs_of(each) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


def pairs_of(combination: Mapping[str, Any]) -> set[Any]:
    return set(itertools.combinations(combination.items(), 2))


COMBINATIONS = combinations()


def test_the_combinations_cover_every_pair_of_values() -> None:
    assert len(COMBINATIONS) >= 16
    covered = set().union(*map(pairs_of, COMBINATIONS))
    for (name, values), (other, others) in itertools.combinations(VALUES.items(), 2):
        for pair in itertools.product(values, others):
            assert ((name, pair[0]), (other, pair[1])) in covered


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    """The valid pairs of the shipped shards."""
    sources = open_sources([str(SHARDS)], ColumnChoice(headerless=("caption", "url")))
    batches = list(records_of(sources))
    urls = [url for batch in batches for url in batch.urls.to_pylist()]
    texts = [text for batch in batches for text in batch.texts.to_pylist()]
    return [(u.decode(), (t or b"").decode()) for u, t in zip(urls, texts, strict=True) if u.startswith(b"http")]


@pytest.fixture(scope="module")
def offline_digests() -> dict[str, str]:
    """By counter, what offline MetaCLIP gives."""
    sources = open_sources([str(SHARDS)], ColumnChoice(headerless=("caption", "url")))
    pool = OfflinePool.read(records_of(sources), Metadata.default())
    counters = {"exact": Counter("exact"), "count-min": Counter("count-min", **COUNT_MIN)}
    kept = {name: pool.kept(pool.entry_counts(counter), THRESHOLD, SEED) for name, counter in counters.items()}
    digests = {name: digest(pool.pair_ids[index] for index in indices) for name, indices in kept.items()}
    assert digests["exact"] != digests["count-min"]
    return digests


@pytest.mark.parametrize(
    "combination", COMBINATIONS, ids=["-".join(map(str, each.values())).replace(" ", "_") for each in COMBINATIONS]
)
def test_one_digest(
    combination: dict[str, Any],
    kafka: Callable[..., KafkaSettings],
    rows: list[tuple[str, str]],
    offline_digests: dict[str, str],
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    settings = AllSettings(
        threshold=THRESHOLD,
        seed=str(SEED),
        counter=combination["counter"],
        count_min=COUNT_MIN,
        checkpoint_interval_s=1.0,
        first_settle_records=4_000,
        kafka=kafka(partitions=combination["partitions"], commit_records=combination["commit_records"]),
    )
    create_topics(settings.kafka)
    send(in_order(rows, combination["order"], rng), settings.kafka, combination, tmp_path)

    run_to_the_end(settings, combination["workers"], tmp_path / "table")

    assert TableView(tmp_path / "table").digest() == offline_digests[combination["counter"]]


def test_without_dedup_every_record_counts(
    kafka: Callable[..., KafkaSettings], rows: list[tuple[str, str]], rng: np.random.Generator, tmp_path: Path
) -> None:
    settings = AllSettings(
        threshold=THRESHOLD,
        seed=str(SEED),
        counter="exact",
        dedup="none",
        kafka=kafka(partitions=3, commit_records=2_000),
    )
    create_topics(settings.kafka)
    repeated = in_order(rows, "repeated", rng)
    send(repeated, settings.kafka, {"partitioner": "another", "message": "json"}, tmp_path)

    run_to_the_end(settings, 2, tmp_path / "table")

    records = Records("memory:", 0, *(pa.array(column, pa.binary()) for column in zip(*repeated, strict=True)))
    pool = OfflinePool.read([records], Metadata.default(), "none")
    kept = pool.kept(pool.entry_counts(Counter("exact")), THRESHOLD, SEED)
    assert TableView(tmp_path / "table").digest() == digest(pool.pair_ids[index] for index in kept)


def in_order(rows: list[tuple[str, str]], order: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    if order == "as it is":
        return rows
    if order == "reversed":
        return rows[::-1]
    again = [rows[i] for i in rng.integers(len(rows), size=N_REPEATED)] if order == "repeated" else []
    both = rows + again
    return [both[i] for i in rng.permutation(len(both))]


def send(rows: list[tuple[str, str]], settings: KafkaSettings, combination: Mapping[str, Any], tmp_path: Path) -> None:
    if combination["partitioner"] == "home":
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table({"url": [url for url, _ in rows], "text": [text for _, text in rows]}), path)
        produce(open_sources([str(path)], ColumnChoice()), settings, format=combination["message"])
        return
    producer = make_producer(settings)
    topic, n = settings.topics.pairs, settings.partitions
    if combination["message"] == "json":
        for i, (url, text) in enumerate(rows):
            producer.send(topic, orjson.dumps({"url": url, "caption": text}), partition=i % n)
    else:
        for i in range(0, len(rows), ARROW_ROWS):
            urls, texts = zip(*rows[i : i + ARROW_ROWS], strict=True)
            message = encode_arrow(make_pairs(urls, texts))
            producer.send(topic, message, headers=ARROW_HEADERS, partition=i // ARROW_ROWS % n)
    producer.flush(timeout=60)
    producer.close()


def run_to_the_end(settings: AllSettings, n_workers: int, out: Path) -> None:
    """Workers and a settler, all at the same time, each until the end of what is there."""
    errors: list[BaseException] = []

    def run(task: Callable[[], Any]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    tasks: list[Callable[[], Any]] = [lambda: work(settings, until_end=True)] * n_workers
    tasks.append(lambda: settle_from_kafka(settings, out, until_end=True))
    threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "not ended in time"
    assert not errors, errors
