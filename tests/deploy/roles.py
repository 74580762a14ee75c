"""Each role of a curation at work, as its user on a broker that looks at rights; and what a user can do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from command_line import GOLDEN_METADATA, Outcome, outcome_of, run, start
from deploy.secured_broker import ADMIN, SecuredBroker
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
)
from kafka_topics import environment

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.settings import KafkaSettings

POLL_MS = 5_000
RULE = {
    "STREAM_CURATE_METADATA": str(GOLDEN_METADATA),
    "STREAM_CURATE_THRESHOLD": "20",
    "STREAM_CURATE_SEED": "7",
    "STREAM_CURATE_COUNTER": "exact",
}


class Roles:
    """Runs the command of each role as its user.

    Attributes:
        table: the settler's folder.
    """

    def __init__(self, broker: SecuredBroker, folder: Path, rule: Mapping[str, str] = RULE) -> None:
        self.broker = broker
        self._rule = rule
        self.table = folder / "table"
        self._pairs = folder / "pairs.jsonl"
        self._n_sent = 0

    def settings(self, role: str, **changes: Any) -> KafkaSettings:
        return self.broker.settings(role if role == ADMIN else f"stream-curate-{role}", **changes)

    def command(self, role: str, *words: object, **changes: Any) -> Outcome:
        outcome = run(*words, environment=dict(self._rule) | dict(environment(self.settings(role, **changes))))
        for password in self.broker.passwords.values():
            assert password not in outcome.out + outcome.err
        return outcome

    def crawler(self) -> Outcome:
        """New pairs."""
        self._n_sent += 1
        self._pairs.write_text(
            "".join(f'{{"url": "http://x.org/{self._n_sent}/{i}", "caption": "a dog"}}\n' for i in range(20))
        )
        return self.command("crawler", "produce", self._pairs)

    def foreign(self) -> None:
        """What a crawler of somebody else sends: no valid pair, and pairs that are not at home."""
        self._n_sent += 1
        producer = make_producer(self.settings(ADMIN))
        for partition in range(2):
            producer.send("pairs", b"no pair", partition=partition)
            for i in range(10):
                value = b'{"url": "http://y.org/%d/%d", "text": "a cat"}' % (self._n_sent, i)
                producer.send("pairs", value, partition=partition)
        producer.flush()
        assert end_producer(producer)

    def worker(self) -> Outcome:
        return self.command("worker", "worker", "--until", "end")

    def settler(self) -> Outcome:
        """As it is deployed, until it has settled and published; with `--until end` it would look into the input."""
        given = dict(self._rule) | dict(environment(self.settings("settler")))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
        log = self.table.with_suffix(".log")
        with open(log, "wb") as stderr:
            process = start("settler", "--out", self.table, env=clean | given, stderr=stderr)
        end_s = time.monotonic() + 60
        while process.poll() is None and b"counts published" not in log.read_bytes():
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(0.05)
        process.terminate()
        ended = outcome_of(process)
        return Outcome(ended.code, ended.out, log.read_text())

    def auditor(self) -> Outcome:
        return self.command("auditor", "audit", "--out", self.table)

    def checker(self) -> Outcome:
        return self.command("auditor", "topics", "check")

    def mender(self) -> Outcome:
        return self.command("mender", "produce", "--from-dlq")


def allows(acls: Iterable[Mapping[str, Any]], kind: str, name: str, operation: str) -> bool:
    """Whether these rights, as a manifest has them, include this one."""
    for acl in acls:
        resource = acl["resource"]
        is_it = name.startswith(resource["name"]) if resource["patternType"] == "prefix" else name == resource["name"]
        if resource["type"] == kind and is_it and operation in acl["operations"]:
            return True
    return False


def can_read(settings: KafkaSettings, topic: str) -> bool:
    """Whether this user gets at the records of a topic."""
    consumer: KafkaConsumer = make_consumer(settings)
    place = TopicPartition(topic, 0)
    try:
        consumer.assign([place])
        consumer.seek(place, 0)
        return bool(consumer.poll(timeout_ms=POLL_MS, max_records=1))
    except TopicAuthorizationFailedError:
        return False
    finally:
        consumer.close(autocommit=False)


def can_write(settings: KafkaSettings, topic: str) -> bool:
    """Whether this user could add a record to a topic. What it sends is larger than the broker takes.

    The broker looks at the right first, and then refuses.
    """
    producer: KafkaProducer = make_producer(settings)
    try:
        producer.config["max_request_size"] = 1 << 30
        producer.send(topic, os.urandom(17 << 20), b"key", partition=0).get(timeout=POLL_MS / 1_000)
    except (MessageSizeTooLargeError, RecordListTooLargeError):
        return True
    except (KafkaTimeoutError, AuthorizationError):
        return False
    except KafkaError as error:
        # who may write to no topic at all gets no number of a producer, and is told so in words only
        if "ClusterAuthorizationFailedError" not in str(error):
            raise
        return False
    finally:
        end_producer(producer)
    raise AssertionError("a message that no topic takes was taken")


def can_begin(settings: KafkaSettings, name: str) -> bool:
    """Whether this user could end the transactions of another, and begin some in its name."""
    producer: KafkaProducer = make_producer(settings, transactional_id=name)
    try:
        producer.init_transactions()
    except TransactionalIdAuthorizationFailedError:
        return False
    finally:
        end_producer(producer)
    return True


def can_commit(settings: KafkaSettings, group: str, topic: str = "pairs") -> bool:
    """Whether this user could join a group."""
    changed = settings.model_copy(update={"group_id": group})
    consumer: KafkaConsumer = make_consumer(changed, in_group=True)
    try:
        consumer.subscribe([topic])
        consumer.poll(timeout_ms=3_000)
    except (GroupAuthorizationFailedError, TopicAuthorizationFailedError):
        return False
    finally:
        consumer.close(autocommit=False)
    return True
