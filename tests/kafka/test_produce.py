"""Files into the topic: every valid pair once, at home, whatever the messages are."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import N_SHARD_ROWS, SHARDS, crawl, outcome_of, run, start, wait_until, write_csv
from kafka import TopicPartition
from kafka_topics import environment, read_partition

from consumers.clients import make_consumer
from consumers.dev_broker import DevBroker
from consumers.errors import KafkaProblem
from consumers.messages import MessageReader, home
from consumers.produce import produce
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.pairs import validate
from stream_curate.sources import ColumnChoice, open_sources

pytestmark = pytest.mark.slow  # each starts or waits for a broker

FORMATS = pytest.mark.parametrize("format", ["json", "arrow"])


def pairs_of_files(*sources: object, **choice: Any) -> list[tuple[bytes, str, str]]:
    """pair_id, url, text of the valid pairs in files."""
    found = []
    for source in open_sources([str(each) for each in sources], ColumnChoice(**choice)):
        for records in source.read(0, 65_536):
            found += _rows(validate(records)[0])
    return sorted(found)


def pairs_of_topic(settings: KafkaSettings) -> list[tuple[bytes, str, str]]:
    """The same of what stands in `pairs`; each must be at home, under its key."""
    found = []
    for partition in range(settings.partitions):
        messages = read_partition(settings, settings.topics.pairs, partition)
        for batch in MessageReader(settings.topics.pairs, partition).read(messages):
            pairs, rejections = batch.validate()
            assert not rejections
            assert set(home(pairs.column("pair_id"), settings.partitions).tolist()) == {partition}
            found += _rows(pairs)
        keys = [message.key for message in messages]
        if keys[0] is not None:
            assert keys == [row[0] for row in found[-len(keys) :]]
    return sorted(found)


def _rows(pairs: Any) -> list[tuple[bytes, str, str]]:
    return list(zip(*(pairs.column(name).to_pylist() for name in ("pair_id", "url", "text")), strict=True))


@FORMATS
def test_the_shards_are_in_the_topic_as_in_the_files(topics: KafkaSettings, format: Any) -> None:
    flags = ["--columns", "caption,url", "--format", format, "--json"]
    report = run("produce", SHARDS, *flags, environment=environment(topics)).ended(0).json

    expected = pairs_of_files(SHARDS, headerless=("caption", "url"))
    assert pairs_of_topic(topics) == expected
    assert report["n_read"] == N_SHARD_ROWS
    assert report["n_sent"] == len(expected) == N_SHARD_ROWS - report["n_rejected"]
    assert report["rejected"] == {"url_scheme": 1}
    assert (report["n_messages"] == len(expected)) == (format == "json")


@FORMATS
def test_kept_columns_come_along(topics: KafkaSettings, tmp_path: Path, format: Any) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"url": "http://x.org/1", "text": "a\\u0000\\u202e", "uid": "u1", "lang": "en"}\n'
        '{"url": "http://x.org/2", "lang": 1.50}\n'
    )
    flags = ["--keep-columns", "lang", "--format", format]
    run("produce", path, *flags, environment=environment(topics)).ended(0)

    found = []
    for partition in range(topics.partitions):
        reader = MessageReader(topics.topics.pairs, partition, ColumnChoice(keep=("lang",)))
        for batch in reader.read(read_partition(topics, topics.topics.pairs, partition)):
            pairs, _ = batch.validate()
            found += pairs.select(["url", "text", "uid", "lang"]).to_pylist()
    assert sorted(found, key=lambda row: row["url"]) == [
        {"url": "http://x.org/1", "text": "a\0\u202e", "uid": "u1", "lang": "en"},
        {"url": "http://x.org/2", "text": "", "uid": None, "lang": "1.50"},
    ]


@FORMATS
def test_large_pairs_are_sent_too(topics: KafkaSettings, tmp_path: Path, format: Any) -> None:
    path = write_csv(tmp_path / "x.csv", [(f"http://x.org/{i}", "\0" * 65_536) for i in range(300)])
    produce(open_sources([str(path)], ColumnChoice()), topics, format=format)

    assert pairs_of_topic(topics) == pairs_of_files(path)


def test_what_is_no_valid_pair_is_counted_and_not_sent(topics: KafkaSettings, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [*crawl(5), ("ftp://x.org/1", "a"), ("", "b"), ("http://x.org/\x01", "c")])
    outcome = run("produce", path, environment=environment(topics)).ended(0)

    assert len(pairs_of_topic(topics)) == 5
    for words in ("read 8", "sent 5", "rejected 3", "url_missing 1", "url_malformed 1", "url_scheme 1"):
        assert words in outcome.words


def test_a_bad_file_stops_or_is_skipped(topics: KafkaSettings, tmp_path: Path) -> None:
    good = write_csv(tmp_path / "good.csv", crawl(5))
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 no")
    of_test = environment(topics)

    assert "bad.parquet" in run("produce", bad, good, environment=of_test).ended(3).err
    skipping = run("produce", bad, good, "--on-bad-file", "skip", "--json", environment=of_test).ended(4).json
    assert skipping["n_sent"] == 5
    assert "bad.parquet" in skipping["skipped"][0]["source"]


def test_what_cannot_be_done_is_told_at_once_in_words(kafka: Callable[..., KafkaSettings], tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", crawl(5))
    settings = kafka(give_up_after_s=30)
    start_s = time.monotonic()

    missing = run("produce", path, environment=environment(settings)).ended(6)
    assert f"there is no topic {settings.topics.pairs}" in missing.words
    create_topics(settings)
    other = run("produce", path, environment=environment(kafka(partitions=4))).ended(6)
    assert "has 3 partitions and kafka.partitions is 4" in other.words
    kept = run("produce", path, "--keep-columns", "alt", environment=environment(settings)).ended(2)
    assert "the name of the url or the text" in kept.words
    assert time.monotonic() - start_s < 10


def test_a_broker_that_dies_meanwhile_ends_it_in_time_or_is_waited_for(tmp_path: Path) -> None:
    own = DevBroker(tmp_path / "broker")
    source = open_sources([str(write_csv(tmp_path / "x.csv", crawl(3_000)))], ColumnChoice())
    try:
        own.start()
        settings = KafkaSettings(
            bootstrap_servers=own.bootstrap, partitions=2, replication_factor=1, give_up_after_s=20
        )
        create_topics(settings)
        n_batches = 0

        def crash_once(*_: object) -> None:
            nonlocal n_batches
            n_batches += 1
            if n_batches == 3:
                own.kill()
                own.start()

        assert produce(source, settings, batch_size=100, on_batch=crash_once).n_sent == 3_000
        assert pairs_of_topic(settings) == pairs_of_files(tmp_path / "x.csv")

        soon = settings.model_copy(update={"give_up_after_s": 4.0})
        start_s = time.monotonic()
        with pytest.raises(KafkaProblem, match="no broker answers in time"):
            produce(source, soon, batch_size=100, on_batch=lambda *_: own.kill())
        assert time.monotonic() - start_s < 15
    finally:
        own.remove()


def test_a_run_that_is_asked_to_stop_says_what_was_sent(topics: KafkaSettings) -> None:
    variables = os.environ | environment(topics)
    process = start("produce", "-", "--input-format", "csv", "--json", stdin=subprocess.PIPE, env=variables)
    assert process.stdin is not None
    process.stdin.write(b"url,text\n" + b"".join(b"http://x.org/%d,a dog\n" % i for i in range(10)))
    process.stdin.flush()  # and nothing more comes
    wait_until(lambda: n_messages(topics) == 10, process)
    process.send_signal(signal.SIGTERM)
    outcome = outcome_of(process).ended(8)

    assert outcome.json["n_sent"] == 10
    assert outcome.json["stopped"]
    assert "interrupted" in outcome.err


def n_messages(settings: KafkaSettings) -> int:
    """Those in `pairs`."""
    consumer = make_consumer(settings)
    try:
        places = [TopicPartition(settings.topics.pairs, p) for p in range(settings.partitions)]
        return sum(consumer.end_offsets(places).values())
    finally:
        consumer.close()
