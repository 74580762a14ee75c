"""What deploy/README.md tells to do after something was lost or changed, done with the commands that it names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import GOLDEN_METADATA, SHARDS, Outcome, offline_digest, run, write_metadata
from kafka import TopicPartition
from kafka_curation import RULE
from kafka_topics import environment, read_partition
from kafka_workers import made_pairs, running, send, wait_for, worker_settings

from consumers.clients import make_admin, make_consumer
from consumers.settings import KafkaSettings, TopicNames
from stream_curate import exit_codes
from stream_curate.table.view import TableView

pytestmark = pytest.mark.slow

FIRST, SECOND = SHARDS / "gcc-validation.jsonl", SHARDS / "gcc-validation.tsv"
WITHIN_S = 60.0


class Curation:
    """The commands of one curation, each of which has to end well."""

    def __init__(self, settings: KafkaSettings, out: Path, metadata: Path = GOLDEN_METADATA) -> None:
        self.settings = settings
        self.out = out
        self.metadata = metadata

    def command(self, *words: object) -> Outcome:
        rule = {f"STREAM_CURATE_{key}": str(value) for key, value in (RULE | {"METADATA": self.metadata}).items()}
        return run(*words, environment=rule | dict(environment(self.settings)))

    def make_topics(self) -> None:
        self.command("topics", "create").ended(exit_codes.DONE)
        self.command("topics", "check").ended(exit_codes.DONE)

    def produce(self, *sources: Path) -> None:
        self.command("produce", *sources, "--columns", "caption,url", "--format", "arrow").ended(exit_codes.DONE)

    def work(self) -> None:
        self.command("worker", "--until", "end").ended(exit_codes.DONE)

    def settle(self) -> None:
        self.command("settler", "--out", self.out, "--until", "end").ended(exit_codes.DONE)

    def check(self, *sources: Path) -> None:
        """The table is what offline makes of these files, and the audit finds nothing."""
        self.command("audit", "--out", self.out).ended(exit_codes.DONE)
        rule = ["-t", RULE["THRESHOLD"], "--seed", RULE["SEED"], "--counter", "exact", "--metadata", self.metadata]
        folder = self.out.with_name(f"{self.out.name}-offline")
        expected = offline_digest(sources, "--columns", "caption,url", *rule, out=folder)
        assert TableView(self.out).digest() == expected


@pytest.fixture
def curation(kafka: Callable[..., KafkaSettings], tmp_path: Path) -> Curation:
    """One that has come to its first end."""
    made = Curation(kafka(), tmp_path / "table")
    made.make_topics()
    made.produce(FIRST)
    made.work()
    made.settle()
    return made


def delete(curation: Curation, topic: str) -> None:
    """Delete a topic, and wait until `topics check` misses it."""
    with admin(curation.settings) as made:
        made.delete_topics([topic])
    end_s = time.monotonic() + WITHIN_S
    while topic not in (told := curation.command("topics", "check")).words:
        assert time.monotonic() < end_s, told
    told.ended(exit_codes.KAFKA)


@contextmanager
def admin(settings: KafkaSettings) -> Iterator[Any]:
    made = make_admin(settings)
    try:
        yield made
    finally:
        made.close()


def beside(settings: KafkaSettings) -> KafkaSettings:
    """The settings of another curation: other names for all four topics, and for the group."""
    names = {key: f"{name}.2" for key, name in settings.topics.model_dump().items()}
    changes = {"topics": TopicNames.model_validate(names), "group_id": f"{settings.group_id}.2"}
    return settings.model_copy(update=changes)


def test_lost_counts_are_published_anew(curation: Curation) -> None:
    counts = curation.settings.topics.counts
    delete(curation, counts)
    curation.make_topics()
    assert not read_partition(curation.settings, counts, 0)
    curation.produce(SECOND)
    curation.work()
    curation.settle()
    assert read_partition(curation.settings, counts, 0)
    curation.check(FIRST, SECOND)


@pytest.mark.parametrize("which", ["pairs", "ledger"])
def test_after_pairs_or_the_ledger_were_lost_it_begins_anew_under_new_names(
    curation: Curation, which: str, tmp_path: Path
) -> None:
    delete(curation, getattr(curation.settings.topics, which))
    curation.make_topics()
    curation.produce(SECOND)
    words = {"pairs": ["worker"], "ledger": ["settler", "--out", curation.out]}[which]
    refused = curation.command(*words, "--until", "end").ended(exit_codes.KAFKA)
    assert ("made anew" if which == "pairs" else "it is not the ledger that the table was made from") in refused.words

    new = Curation(beside(curation.settings), tmp_path / "new")
    new.make_topics()
    new.produce(FIRST, SECOND)
    new.work()
    new.settle()
    new.check(FIRST, SECOND)


def test_other_metadata_are_another_curation_beside_the_old_one(curation: Curation, tmp_path: Path) -> None:
    other = write_metadata(tmp_path / "entries.txt", ["dog", "person", "in the", "the", "red"])
    changed = Curation(curation.settings, curation.out, other)
    curation.produce(SECOND)
    refused = changed.command("worker", "--until", "end").ended(exit_codes.BAD_INPUT)
    assert "metadata" in refused.words

    new = Curation(beside(curation.settings), tmp_path / "new", other)
    new.make_topics()
    new.produce(FIRST, SECOND)
    new.work()
    new.settle()
    new.check(FIRST, SECOND)
    curation.work()  # the old one goes on meanwhile
    curation.settle()
    curation.check(FIRST, SECOND)


def test_lag_grows_while_nobody_works_and_goes_when_workers_come(topics: KafkaSettings) -> None:
    """As KEDA and whatever else displays lag see it: by the offsets of the group."""
    places = [TopicPartition(topics.topics.pairs, partition) for partition in range(topics.partitions)]

    def lag() -> int:
        with admin(topics) as made:
            offsets = made.list_group_offsets([topics.group_id])[topics.group_id]
        consumer = make_consumer(topics)
        try:
            ends = consumer.end_offsets(places)
        finally:
            consumer.close()
        return sum(ends[place] - (max(offsets[place].offset, 0) if place in offsets else 0) for place in places)

    settings = worker_settings(topics)
    send(topics, made_pairs(100))
    with running(settings) as workers:
        wait_for(lambda: lag() == 0, WITHIN_S, workers)
    send(topics, made_pairs(300, 100))
    assert lag() == 300
    with running(settings, 2) as workers:
        wait_for(lambda: lag() == 0, WITHIN_S, workers)
