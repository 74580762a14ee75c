"""Topics are made as the protocol needs them, and what is wrong with those found is said in words."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from command_line import run
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka_topics import environment
from kafka_workers import wait_for

from consumers.clients import MAX_BATCH_BYTES, make_admin, make_producer
from consumers.dev_broker import free_port
from consumers.errors import KafkaProblem
from consumers.settings import KafkaSettings
from consumers.topics import check_partitions, check_topics, create_topics

pytestmark = pytest.mark.slow  # each starts or waits for a broker

Kafka = Callable[..., KafkaSettings]


def problems(settings: KafkaSettings) -> list[str]:
    with pytest.raises(KafkaProblem) as problem:
        check_topics(settings)
    return str(problem.value).splitlines()[1:]


def test_topics_are_made_once_and_are_as_they_should_be(kafka: Kafka) -> None:
    settings = kafka()
    names = settings.topics

    assert create_topics(settings) == [names.pairs, names.ledger, names.counts, names.dlq]
    assert create_topics(settings) == []
    check_topics(settings)
    check_partitions(settings, names.pairs)

    admin = make_admin(settings)
    made = [names.pairs, names.ledger, names.counts, names.dlq]
    described = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(made)}
    found = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in described], config_filter="all"
    )["topic"]
    admin.close()
    assert described == {names.pairs: 3, names.ledger: 3, names.counts: 1, names.dlq: 3}
    configs = {name: {key: each["value"] for key, each in keys.items()} for name, keys in found.items()}
    assert configs[names.ledger]["retention.ms"] == configs[names.ledger]["retention.bytes"] == "-1"
    assert configs[names.counts]["cleanup.policy"] == "compact"
    assert configs[names.counts]["max.message.bytes"] == str(MAX_BATCH_BYTES)
    assert configs[names.pairs]["retention.ms"] == str(7 * 24 * 3_600_000)
    assert {keys["unclean.leader.election.enable"] for keys in configs.values()} == {"false"}


def test_final_decisions_have_a_topic_of_accepted_pairs(kafka: Kafka) -> None:
    """It is never compacted; how long they stay there is up to those who read them."""
    settings = kafka()
    create_topics(settings)
    check_topics(settings)
    with pytest.raises(KafkaProblem, match=rf"{settings.topics.accepted}: there is no such topic"):
        check_topics(settings, "final")
    assert create_topics(settings, "final") == [settings.topics.accepted]
    check_topics(settings, "final")

    admin = make_admin(settings)
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.topics.accepted, {"retention.ms": "3600000"})
    admin.alter_configs([resource])
    wait_for(lambda: _accepts(settings))
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.topics.accepted, {"cleanup.policy": "compact"})
    admin.alter_configs([resource])
    admin.close()
    wait_for(lambda: not _accepts(settings))


def _accepts(settings: KafkaSettings) -> bool:
    try:
        check_topics(settings, "final")
    except KafkaProblem:
        return False
    return True


def test_each_topic_that_is_missing_is_named(kafka: Kafka) -> None:
    settings = kafka()

    assert problems(settings) == [
        f"  {name}: there is no such topic: stream-curate topics create makes it"
        for key, name in settings.topics.model_dump().items()
        if key != "accepted"
    ]
    with pytest.raises(KafkaProblem, match="Make it: stream-curate topics create"):
        check_partitions(settings, settings.topics.pairs)


@pytest.mark.parametrize(
    ("topic", "key", "value", "words"),
    [
        ("ledger", "retention.ms", "1000", "records are removed that are still needed"),
        ("ledger", "retention.bytes", "1000", "records are removed that are still needed"),
        ("ledger", "cleanup.policy", "compact", "records are removed while they are needed"),
        ("ledger", "max.message.bytes", "1000", "the record of a commit is refused"),
        ("counts", "cleanup.policy", "delete", "the last counts are removed"),
        ("pairs", "message.timestamp.type", "CreateTime", "LogAppendTime is wanted"),
        ("dlq", "retention.bytes", "1000", "-1 is wanted"),
        ("counts", "max.message.bytes", "1048588", "16842752 is wanted"),
        ("pairs", "retention.ms", "604799999", "input is removed earlier"),
        ("pairs", "unclean.leader.election.enable", "true", "records vanish"),
        ("dlq", "max.message.bytes", "1000", "messages of many pairs are refused"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(
    topic: str, key: str, value: str, words: str, topics: KafkaSettings
) -> None:
    name = getattr(topics.topics, topic)
    admin = make_admin(topics)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs={key: value})])
    admin.close()

    (problem,) = problems(topics)

    assert problem.startswith(f"  {name}: {key} is {value}, where ")
    assert words in problem
    assert f"--topic {name} --add-config {key}=" in problem


def test_what_is_better_than_needed_is_no_problem(topics: KafkaSettings) -> None:
    names = topics.topics
    admin = make_admin(topics)
    for name, key, value in [
        (names.pairs, "retention.ms", "-1"),
        (names.dlq, "retention.ms", str(10**15)),
        (names.pairs, "max.message.bytes", str(2**30)),
        (names.counts, "segment.bytes", str(2**30)),
    ]:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs={key: value})])
    admin.close()

    check_topics(topics)


def test_other_numbers_of_partitions_and_copies_are_named(topics: KafkaSettings, kafka: Kafka) -> None:
    found = problems(kafka(partitions=4, replication_factor=2))

    assert sum("3 partitions, where 4 are wanted" in each for each in found) == 3
    assert sum("1 copies of a partition, where 2 are wanted" in each for each in found) == 4
    with pytest.raises(KafkaProblem, match=r"has 3 partitions and kafka\.partitions is 4"):
        check_partitions(kafka(partitions=4), topics.topics.pairs)


def test_a_ledger_whose_beginning_is_gone_is_named(topics: KafkaSettings) -> None:
    ledger = topics.topics.ledger
    producer = make_producer(topics)
    for _ in range(2):
        producer.send(ledger, b"x", partition=1).get(timeout=10)
    producer.close()
    admin = make_admin(topics)
    admin.delete_records({TopicPartition(ledger, 1): 1})
    admin.close()

    (problem,) = problems(topics)

    assert problem.startswith(f"  {ledger}: partition 1 begins at offset 1, not at 0")


def test_more_copies_than_brokers_are_refused_with_advice(kafka: Kafka) -> None:
    with pytest.raises(KafkaProblem, match=r"set kafka\.replication_factor") as problem:
        create_topics(kafka(replication_factor=3))
    assert problem.value.exit_code == 6


def test_a_broker_that_is_away_is_told_in_time() -> None:
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", give_up_after_s=1)
    start_s = time.monotonic()

    with pytest.raises(KafkaProblem, match=f"no broker answers in time at {settings.bootstrap_servers}"):
        check_topics(settings)

    assert time.monotonic() - start_s < 5


def test_the_commands(kafka: Kafka) -> None:
    settings = kafka(replication_factor=3, partitions=8)
    of_test = environment(settings)

    assert "Start more brokers" in run("topics", "create", environment=of_test).ended(6).words
    flags = ["--replication-factor", 1, "--partitions", 2]
    assert "there is no such topic" in run("topics", "check", *flags, environment=of_test).ended(6).err
    made = run("topics", "create", *flags, environment=of_test).ended(0)
    assert f"{settings.topics.pairs}: made, with 2 partitions" in made.words
    assert made.words.count("made, with") == 4
    assert "as it should be" in run("topics", "create", *flags, environment=of_test).ended(0).words
    assert "as they should be" in run("topics", "check", *flags, environment=of_test).ended(0).words
    assert "2 partitions, where 8 are wanted" in run("topics", "check", environment=of_test).ended(6).words


def test_a_command_without_a_broker_ends_in_time_with_6_and_words() -> None:
    away = {
        "STREAM_CURATE_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "STREAM_CURATE_KAFKA__GIVE_UP_AFTER_S": "1",
    }
    outcome = run("topics", "check", environment=away).ended(6)
    assert "no broker answers in time" in outcome.err
    assert outcome.err.count("\n") == 1
