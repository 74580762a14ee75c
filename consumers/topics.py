"""The topics as the protocol needs them: made, and checked, with what is wrong said in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError, TopicAuthorizationFailedError

from consumers.clients import MAX_BATCH_BYTES, make_admin
from consumers.errors import KafkaProblem, in_words
from consumers.settings import KafkaSettings
from stream_curate.printable import printable
from stream_curate.rule import Decisions

FOR_EVER = -1
_MS_IN_HOUR = 3_600_000
_COUNTS_SEGMENT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Needed:
    """One setting of a topic: what `create` gives, and what `check` accepts.

    Attributes:
        value: as Kafka writes it.
        accepts: whether another value found there is as good.
        why: what goes wrong otherwise.
    """

    value: str
    accepts: Callable[[str], bool]
    why: str


@dataclass(frozen=True)
class Topic:
    """What one topic has to be."""

    name: str
    n_partitions: int
    replication_factor: int
    configs: dict[str, Needed]


def topics_of(settings: KafkaSettings, decisions: Decisions = "provisional") -> list[Topic]:
    """The topics, in the order pairs, ledger, counts, dead letters; then accepted pairs, where decisions are final."""
    names = settings.topics
    copies = settings.replication_factor
    everywhere = {
        "unclean.leader.election.enable": _exactly("false", "a broker that lags can become the leader: records vanish"),
        "min.insync.replicas": _at_least(
            max(1, copies - 1), "a record can be acknowledged that only one broker has, and vanish with it"
        ),
    }
    deleted = {"cleanup.policy": _exactly("delete", "records are removed while they are needed")}
    large = _at_least(MAX_BATCH_BYTES, "messages of many pairs are refused by the broker")
    lost = "records are removed that are still needed"
    on_arrival = _exactly(
        "LogAppendTime", "retention goes by the times that producers give, and removes at once what they date back"
    )
    topics = [
        Topic(
            names.pairs,
            settings.partitions,
            copies,
            everywhere
            | deleted
            | {
                "retention.ms": _retention(
                    settings.pairs_retention_h, "input is removed earlier than the settings say"
                ),
                "retention.bytes": _exactly(str(FOR_EVER), "input is removed before its time is over"),
                "message.timestamp.type": on_arrival,
                "max.message.bytes": large,
            },
        ),
        Topic(
            names.ledger,
            settings.partitions,
            copies,
            everywhere
            | deleted
            | {
                "retention.ms": _exactly(str(FOR_EVER), lost),
                "retention.bytes": _exactly(str(FOR_EVER), lost),
                "max.message.bytes": _at_least(MAX_BATCH_BYTES, "the record of a commit is refused by the broker"),
            },
        ),
        Topic(
            names.counts,
            1,
            copies,
            everywhere
            | {
                "cleanup.policy": _exactly("compact", "the last counts are removed, or all that ever were are kept"),
                "max.message.bytes": _at_least(MAX_BATCH_BYTES, "the counts of many entries are refused by the broker"),
                # what is in the newest segment is never compacted, and every worker reads it when it starts
                "segment.bytes": Needed(str(_COUNTS_SEGMENT_BYTES), lambda found: True, ""),
            },
        ),
        Topic(
            names.dlq,
            settings.partitions,
            copies,
            everywhere
            | deleted
            | {
                "retention.ms": _retention(
                    settings.dlq_retention_h, "dead letters are removed earlier than the settings say"
                ),
                "retention.bytes": _exactly(str(FOR_EVER), "dead letters are removed before their time is over"),
                "message.timestamp.type": on_arrival,
                "max.message.bytes": large,
            },
        ),
    ]
    if decisions == "final":
        topics.append(
            Topic(
                names.accepted,
                settings.partitions,
                copies,
                everywhere
                | {
                    "cleanup.policy": _exactly("delete", "accepted pairs are removed before anybody has read them"),
                    # for how long is a matter of whoever follows: all of them stand in the ledger and in the table
                    "retention.ms": Needed(str(FOR_EVER), lambda found: True, ""),
                    "max.message.bytes": large,
                },
            )
        )
    return topics


def create_topics(settings: KafkaSettings, decisions: Decisions = "provisional") -> list[str]:
    """Make the topics that are not there, and check all that these decisions need.

    Returns:
        The names of those that were made.

    Raises:
        KafkaProblem: one cannot be made, or is not as it has to be.
    """
    with in_words(settings, "making the topics"):
        admin = make_admin(settings)
        try:
            found = set(admin.list_topics())
            missing = [topic for topic in topics_of(settings, decisions) if topic.name not in found]
            for topic in missing:
                _create(admin, topic, settings)
            if missing:
                admin.wait_for_topics(
                    [topic.name for topic in missing], timeout_ms=round(settings.give_up_after_s * 1e3)
                )
            _raise_if_wrong(_problems(admin, settings, decisions), settings)
            return [topic.name for topic in missing]
        finally:
            admin.close()


def check_topics(settings: KafkaSettings, decisions: Decisions = "provisional") -> None:
    """Look at all the topics that these decisions need.

    Raises:
        KafkaProblem: saying of each topic what is wrong with it.
    """
    with in_words(settings, "looking at the topics"):
        admin = make_admin(settings)
        try:
            _raise_if_wrong(_problems(admin, settings, decisions), settings)
        finally:
            admin.close()


def check_partitions(settings: KafkaSettings, name: str) -> str:
    """See that a topic is there with as many partitions as the settings say, before anything is sent or read.

    Returns:
        Kafka's own id of the topic.

    Raises:
        KafkaProblem: when it is not.
    """
    with in_words(settings, f"looking at the topic {name}"):
        admin = make_admin(settings)
        try:
            (described,) = admin.describe_topics([name])
        finally:
            admin.close()
    n_partitions = len(described["partitions"])
    if described["error_code"] == TopicAuthorizationFailedError.errno:
        raise KafkaProblem(
            f"the brokers at {printable(settings.bootstrap_servers)} do not allow to look at the topic {name}. "
            "Give kafka.sasl_user the right to describe it"
        )
    if described["error_code"]:
        raise KafkaProblem(
            f"there is no topic {name} at {printable(settings.bootstrap_servers)}. Make it: stream-curate topics create"
            + (" --decisions final" if name == settings.topics.accepted else "")
        )
    if n_partitions != settings.partitions:
        raise KafkaProblem(
            f"the topic {name} has {n_partitions} partitions and kafka.partitions is {settings.partitions}: pairs "
            "would not find their home. Set kafka.partitions to what the topic has"
        )
    return str(described["topic_id"])


def _create(admin: KafkaAdminClient, topic: Topic, settings: KafkaSettings) -> None:
    wanted = {
        "num_partitions": topic.n_partitions,
        "replication_factor": topic.replication_factor,
        "configs": {key: needed.value for key, needed in topic.configs.items()},
    }
    timeout_ms = round(settings.give_up_after_s * 1_000)
    answer = admin.create_topics({topic.name: wanted}, timeout_ms=timeout_ms, raise_errors=False)
    (made,) = answer["topics"]
    if made["error_code"] and made["error_code"] != TopicAlreadyExistsError.errno:  # another may have been faster
        advice = ""
        if made["error_code"] == 38:  # INVALID_REPLICATION_FACTOR
            advice = " Start more brokers, or set kafka.replication_factor (--replication-factor) to how many there are"
        raise KafkaProblem(
            f"the topic {topic.name} cannot be made at {printable(settings.bootstrap_servers)}: "
            f"{printable(str(made['error_message']), 500).rstrip('.')}.{advice}"
        )


def _problems(admin: KafkaAdminClient, settings: KafkaSettings, decisions: Decisions) -> list[str]:
    topics = topics_of(settings, decisions)
    described = {each["name"]: each for each in admin.describe_topics([topic.name for topic in topics])}
    is_there = {name for name, each in described.items() if not each["error_code"]}
    problems: list[str] = []
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics if topic.name in is_there]
    found = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    for topic in topics:
        if topic.name not in is_there:
            problems.append(f"{topic.name}: there is no such topic: stream-curate topics create makes it")
            continue
        partitions = described[topic.name]["partitions"]
        if len(partitions) != topic.n_partitions:
            problems.append(
                f"{topic.name}: {len(partitions)} partitions, where {topic.n_partitions} are wanted. It is fixed "
                "for the life of a ledger: set kafka.partitions to it, or make new topics and replay"
            )
        n_copies = min(len(partition["replica_nodes"]) for partition in partitions)
        if n_copies < topic.replication_factor:
            problems.append(
                f"{topic.name}: {n_copies} copies of a partition, where {topic.replication_factor} are wanted: with "
                "too few, records vanish with a broker. Reassign the partitions, or set kafka.replication_factor"
            )
        if not found[topic.name]:
            problems.append(
                f"{topic.name}: the brokers do not allow to look at its settings. Give kafka.sasl_user the right to "
                "describe them (DescribeConfigs)"
            )
            continue
        for key, needed in topic.configs.items():
            value = str(found[topic.name][key]["value"])
            if not needed.accepts(value):
                problems.append(
                    f"{topic.name}: {key} is {printable(value)}, where {needed.value} is wanted: {needed.why}. "
                    f"Set it with kafka-configs.sh --alter --topic {topic.name} --add-config {key}={needed.value}"
                )
    if settings.topics.ledger in is_there:
        problems += _ledger_start(admin, settings.topics.ledger, len(described[settings.topics.ledger]["partitions"]))
    return problems


def _ledger_start(admin: KafkaAdminClient, ledger: str, n_partitions: int) -> list[str]:
    """A ledger whose beginning is gone cannot be restored from."""
    specs = {TopicPartition(ledger, p): OffsetSpec.EARLIEST for p in range(n_partitions)}
    starts = admin.list_partition_offsets(specs, isolation_level=IsolationLevel.READ_UNCOMMITTED)
    return [
        f"{ledger}: partition {partition.partition} begins at offset {start.offset}, not at 0: what came of the first "
        "input is gone, and no worker can know it again. Make new topics and replay"
        for partition, start in sorted(starts.items())
        if start.offset != 0
    ]


def _raise_if_wrong(problems: list[str], settings: KafkaSettings) -> None:
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise KafkaProblem(
            f"the topics at {printable(settings.bootstrap_servers)} are not as they have to be:\n{listed}"
        )


def _exactly(value: str, why: str) -> Needed:
    return Needed(value, lambda found: found == value, why)


def _at_least(value: int, why: str) -> Needed:
    return Needed(str(value), lambda found: int(found) >= value, why)


def _retention(hours: float, why: str) -> Needed:
    wanted_ms = round(hours * _MS_IN_HOUR)
    return Needed(str(wanted_ms), lambda found: int(found) == FOR_EVER or int(found) >= wanted_ms, why)
