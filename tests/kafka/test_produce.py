"""Files into the topic: every valid pair once, at home, whatever the messages are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from command_line import N_SHARD_ROWS, SHARDS, crawl, outcome_of, run, start, wait_until, write_csv
from hostile_messages import GOOD, URL, Message, arrow
from kafka import TopicPartition
from kafka_topics import environment, read_partition
from kafka_transactions import end_transaction

from consumers.clients import MAX_MESSAGE_BYTES, end_producer, make_consumer, make_producer
from consumers.dead_letters import dead_letters, read_dead_letters
from consumers.dev_broker import DevBroker
from consumers.errors import KafkaProblem
from consumers.messages import FORMAT_VERSION, MessageReader, home
from consumers.produce import produce, resend
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.pairs import validate
from stream_curate.sources import ColumnChoice, open_sources
from stream_curate.stop import StopRequest

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
        if keys and keys[0] is not None:
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
        # a broker can take long to start on a busy machine, and its records wait meanwhile
        settings = KafkaSettings(
            bootstrap_servers=own.bootstrap, partitions=2, replication_factor=1, give_up_after_s=120
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


# --- dead letters


def put_letters(settings: KafkaSettings, *messages: Message, partition: int = 0) -> None:
    """Reject these messages as a worker does, in a transaction, and another one that comes to nothing."""
    reader = MessageReader(settings.topics.pairs, partition)
    (batch,) = reader.read(messages)
    letters = dead_letters(batch, batch.validate()[1], partition)
    producer = make_producer(settings, transactional_id=f"{settings.topics.ledger}-{partition}")
    producer.init_transactions()
    for commits in (False, True):
        producer.begin_transaction()
        for letter in letters:
            producer.send(settings.topics.dlq, letter.value, letter.key, letter.headers, letter.partition)
        end_transaction(producer, settings, commits=commits)
    assert end_producer(producer)


def json_of(**members: Any) -> bytes:
    return json.dumps(members).encode()


BAD = [
    Message(0, None),
    Message(1, b"{\xff"),
    Message(2, b'{"url": '),
    Message(3, json_of(url="ftp://x.org/3", text="a\0\u202e", uid="u3")),
    Message(5, arrow(url=[URL, None], text=["a", "missing"])),
    Message(6, arrow(url=pa.array([b"http://x.org/6"]), text=pa.array([b"\xff dog"]))),
]


def test_the_letters_come_back_from_the_topic(topics: KafkaSettings) -> None:
    put_letters(topics, *BAD, partition=1)
    put_letters(topics, Message(9, b"[]"), Message(10, os.urandom(MAX_MESSAGE_BYTES + 10)), partition=2)
    found = [(partition, letter) for partition, letters in read_dead_letters(topics) for letter in letters]

    assert [(partition, letter and (letter.offset, letter.row, letter.reason)) for partition, letter in found] == [
        (1, (0, 0, "null_value")),
        (1, (1, 0, "bad_json")),
        (1, (2, 0, "bad_json")),
        (1, (3, 0, "url_scheme")),
        (1, (5, 1, "url_missing")),
        (1, (6, 0, "invalid_utf8")),
        (2, (9, 0, "json_not_object")),
        (2, (10, 0, "too_large")),
    ]
    assert [letter and letter.value for _, letter in found[:3]] == [None, b"{\xff", b'{"url": ']
    assert found[-1][1] is not None
    assert found[-1][1].truncated_from == MAX_MESSAGE_BYTES + 10


@FORMATS
def test_what_is_valid_by_now_is_sent_and_the_rest_counted(topics: KafkaSettings, format: Any) -> None:
    put_letters(topics, *BAD)
    # these were of another version of this program, which had another validator
    producer = make_producer(topics)
    many = [URL.replace("1", str(i)) for i in range(50)]
    for i, value in enumerate([json_of(url=URL, text="mended", uid="u"), arrow(url=[*many, ""], text=["a"] * 51)]):
        headers = letter_headers("text_too_long", offset=i + 20)
        producer.send(topics.topics.dlq, value, headers=headers, partition=i + 1)
    version = [*letter_headers("bad_schema", offset=30), (FORMAT_VERSION, b"2")]
    producer.send(topics.topics.dlq, GOOD, headers=version, partition=1)
    producer.send(topics.topics.dlq, b"no letter", partition=1)
    cut = [*letter_headers("too_large", offset=31), ("truncated-from", b"%d" % (MAX_MESSAGE_BYTES + 1))]
    producer.send(topics.topics.dlq, GOOD, headers=cut, partition=1)
    producer.flush()
    assert end_producer(producer)
    flags = ["produce", "--from-dlq", "--format", format]

    report = run(*flags, "--json", environment=environment(topics)).ended(0).json

    expected = sorted([(URL, "mended"), *((url, "a") for url in many)])
    assert sorted(row[1:] for row in pairs_of_topic(topics)) == expected
    left = {
        "null_value": 1,
        "bad_json": 2,
        "url_scheme": 1,
        "url_missing": 2,
        "invalid_utf8": 1,
        "bad_schema": 1,
        "too_large": 1,
    }
    assert report["rejected"] == left
    assert (report["n_letters"], report["n_foreign"]) == (10, 1)
    assert report["n_read"] == report["n_sent"] + sum(left.values())
    assert report["n_sent"] == 51

    again = run(*flags, "--reason", "text_too_long", "--reason", "bad_json", environment=environment(topics)).ended(0)
    for words in (
        "4 letters",
        "read 54",
        "sent 51",
        "rejected 3",
        "bad_json 2",
        "url_missing 1",
        "left out: 1 records",
    ):
        assert words in again.words
    assert sorted(row[1:] for row in pairs_of_topic(topics)) == sorted(expected * 2)


def letter_headers(reason: str, offset: int) -> list[tuple[str, bytes]]:
    """As a letter of the only format there is has them."""
    said = {"dead-letter-format": 1, "reason": reason, "source": "kafka:pairs/1", "offset": offset, "row": 0}
    return [(key, str(value).encode()) for key, value in (said | {"sha256": "0" * 64, "preview": "x"}).items()]


def test_letters_are_exported_mended_and_sent(topics: KafkaSettings, tmp_path: Path) -> None:
    put_letters(topics, *BAD)
    out = tmp_path / "letters.jsonl"
    of_test = environment(topics)

    told = run("produce", "--from-dlq", "--export", out, environment=of_test).ended(0)

    assert "6 letters" in told.words
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    facts = [line.pop("dead_letter") for line in lines]
    assert lines == [
        *[{"url": None, "text": None}] * 3,
        {"url": "ftp://x.org/3", "text": "a\0\u202e", "uid": "u3"},
        {"url": "", "text": "missing"},
        {"url": None, "text": None},
    ]
    assert [fact["reason"] for fact in facts] == [
        "null_value",
        "bad_json",
        "bad_json",
        "url_scheme",
        "url_missing",
        "invalid_utf8",
    ]
    assert [fact.get("raw", "-") for fact in facts] == [None, "-", '{"url": ', "-", "-", "-"]
    assert facts[1]["raw_base64"] == "e/8="
    assert {key: facts[4][key] for key in ("source", "offset", "row", "truncated_from")} == {
        "source": f"kafka:{topics.topics.pairs}/0",
        "offset": 5,
        "row": 1,
        "truncated_from": None,
    }
    # as it stands, all of it is rejected once more
    unmended = run("produce", out, "--json", environment=of_test).ended(0).json
    assert (unmended["n_sent"], unmended["rejected"]) == (0, {"url_missing": 5, "url_scheme": 1})

    text = out.read_text().replace("ftp://", "http://").replace('"url":"","text"', '"url":"http://x.org/5","text"')
    out.write_text(text)
    assert run("produce", out, "--json", environment=of_test).ended(0).json["n_sent"] == 2
    assert sorted(row[1:] for row in pairs_of_topic(topics)) == [
        ("http://x.org/3", "a\0\u202e"),
        ("http://x.org/5", "missing"),
    ]

    there = run("produce", "--from-dlq", "--export", out, environment=of_test).ended(7)
    assert "is there already" in there.words
    assert out.read_text() == text
    run("produce", "--from-dlq", "--export", tmp_path / "no" / "x.jsonl", environment=of_test).ended(7)
    few = run(
        "produce",
        "--from-dlq",
        "--reason",
        "url_scheme",
        "--export",
        tmp_path / "few.jsonl",
        "--json",
        environment=of_test,
    )
    assert few.ended(0).json["n_letters"] == 1


def test_no_letters_are_no_error(topics: KafkaSettings) -> None:
    report = run("produce", "--from-dlq", "--json", environment=environment(topics)).ended(0).json
    assert (report["n_letters"], report["n_sent"]) == (0, 0)


def test_words_that_do_not_go_together_are_told(kafka: Callable[..., KafkaSettings], tmp_path: Path) -> None:
    of_test = environment(kafka())
    path = write_csv(tmp_path / "x.csv", crawl(5))
    for words, told in (
        ([], "nothing to send"),
        ([path, "--from-dlq"], "it is one or the other"),
        ([path, "--reason", "bad_json"], "give --from-dlq with them"),
        ([path, "--export", "x"], "give --from-dlq with them"),
        (["--from-dlq", "--url-column", "x"], "no file is read"),
        (["--from-dlq", "--reason", "unmatched"], "There are: null_value, too_large"),
    ):
        assert told in run("produce", *words, environment=of_test).ended(2).words
    missing = run("produce", "--from-dlq", environment=of_test).ended(6)
    assert "there is no topic" in missing.words


def test_resending_that_is_asked_to_stop_says_what_was_sent(topics: KafkaSettings) -> None:
    put_letters(topics, *BAD)
    stop = StopRequest()

    read = resend(topics, stop=stop, on_batch=lambda partition, read: stop.request())

    assert read.stopped
    assert read.n_read == read.n_letters == 6
