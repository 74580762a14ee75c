"""Each role can do what it needs and no more, and whoever is not trusted is told so at once.

The rights are read from the KafkaUser manifests and given to the users of a real broker (SASL_SSL, StandardAuthorizer).
"""

from __future__ import annotations

import copy
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import GOLDEN_METADATA, Outcome, outcome_of, run, start
from deploy.manifests import users
from deploy.secured_broker import ADMIN, SecuredBroker, grant
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

from consumers.clients import end_producer, make_admin, make_consumer, make_producer
from consumers.settings import KafkaSettings
from stream_curate import exit_codes

pytestmark = [
    pytest.mark.slow,  # a broker, and many starts of many clients
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

WITHIN_S = 10.0
POLL_MS = 5_000
TOPICS = ("pairs", "ledger", "counts", "pairs.dlq")
ROLES = users()
RULE = {
    "STREAM_CURATE_METADATA": str(GOLDEN_METADATA),
    "STREAM_CURATE_THRESHOLD": "20",
    "STREAM_CURATE_SEED": "7",
    "STREAM_CURATE_COUNTER": "exact",
}

Resource = Mapping[str, Any]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """kafka-python leaves a refused connection to the collector: here, where its warning is ignored."""
    yield
    gc.collect()


class Roles:
    """Runs the command of each role as its user.

    Attributes:
        table: the settler's folder.
    """

    def __init__(self, broker: SecuredBroker, folder: Path) -> None:
        self.broker = broker
        self.table = folder / "table"
        self._pairs = folder / "pairs.jsonl"
        self._n_sent = 0

    def settings(self, role: str, **changes: Any) -> KafkaSettings:
        return self.broker.settings(role if role == ADMIN else f"stream-curate-{role}", **changes)

    def command(self, role: str, *words: object, **changes: Any) -> Outcome:
        outcome = run(*words, environment=RULE | dict(environment(self.settings(role, **changes))))
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
        given = RULE | dict(environment(self.settings("settler")))
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


@pytest.fixture(scope="module")
def roles(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Roles:
    """A curation that has come to its first end, each step by the user for it."""
    roles = Roles(secured, tmp_path_factory.mktemp("roles"))
    roles.crawler().ended(exit_codes.DONE)
    roles.foreign()
    roles.worker().ended(exit_codes.DONE)
    roles.settler().ended(exit_codes.DONE)
    return roles


@contextmanager
def rights(broker: SecuredBroker, role: str, acls: list[Resource]) -> Iterator[None]:
    """Other rights for a while."""
    admin = broker.admin()
    try:
        grant(admin, f"stream-curate-{role}", acls)
        yield
    finally:
        grant(admin, f"stream-curate-{role}", ROLES[role])
        admin.close()


def test_each_role_can_do_what_it_needs(roles: Roles) -> None:
    roles.crawler().ended(exit_codes.DONE)
    roles.foreign()
    worked = roles.worker().ended(exit_codes.DONE)
    assert "forwarded" in worked.words
    roles.settler().ended(exit_codes.DONE)
    assert "Audit: clean" in roles.auditor().ended(exit_codes.DONE).words
    roles.checker().ended(exit_codes.DONE)
    assert "letters of pairs.dlq tried again" in roles.mender().ended(exit_codes.DONE).words


def lacking() -> list[Any]:
    """Each right of each role that its command cannot do without."""
    found = []
    for role, acls in ROLES.items():
        for n, acl in enumerate(acls):
            for operation in acl["operations"]:
                resource = acl["resource"]
                # looked at by nobody but KEDA; and transactions that may not be seen are none to audit's eyes
                if role == "scaler" or (role, resource["type"]) == ("auditor", "transactionalId"):
                    continue
                found.append(pytest.param(role, n, operation, id=f"{role}-{resource['name']}-{operation}"))
    return found


@pytest.mark.parametrize(("role", "n", "operation"), lacking())
def test_without_any_one_right_a_role_fails_closed(roles: Roles, role: str, n: int, operation: str) -> None:
    less = copy.deepcopy(ROLES[role])
    less[n]["operations"].remove(operation)
    if role in ("worker", "settler"):
        roles.foreign()
    if role == "settler":
        roles.worker().ended(exit_codes.DONE)
    does: Callable[[], Outcome] = roles.checker if operation == "DescribeConfigs" else getattr(roles, role)
    with rights(roles.broker, role, [acl for acl in less if acl["operations"]]):
        begin_s = time.monotonic()
        ended = does()
        took_s = time.monotonic() - begin_s

    ended.ended(exit_codes.KAFKA)
    assert any(told in ended.words for told in ("do not allow", "there is no topic", "not there, or not to be seen"))
    assert took_s < WITHIN_S


def allowed(role: str, kind: str, name: str, operation: str) -> bool:
    """Whether the manifests give this right."""
    for acl in ROLES[role]:
        resource = acl["resource"]
        is_it = name.startswith(resource["name"]) if resource["patternType"] == "prefix" else name == resource["name"]
        if resource["type"] == kind and is_it and operation in acl["operations"]:
            return True
    return False


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_do_more(roles: Roles, role: str) -> None:
    settings = roles.settings(role)
    for topic in TOPICS:
        assert can_read(settings, topic) == allowed(role, "topic", topic, "Read"), topic
        assert can_write(settings, topic) == allowed(role, "topic", topic, "Write"), topic
    for name in ("ledger-0", "counts-settler", "other"):
        assert can_begin(settings, name) == allowed(role, "transactionalId", name, "Write"), name
    for group in ("stream-curate", "other"):
        assert can_commit(settings, group) == (
            allowed(role, "group", group, "Read") and allowed(role, "topic", "pairs", "Read")
        ), group
    admin = make_admin(settings)
    try:
        for change in (
            lambda: admin.create_topics({"other": {"num_partitions": 1, "replication_factor": 1}}),
            lambda: admin.delete_topics(["counts"]),
            lambda: admin.create_partitions({"pairs": 3}),
        ):
            with pytest.raises(AuthorizationError):
                change()
    finally:
        admin.close()


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


def can_commit(settings: KafkaSettings, group: str) -> bool:
    """Whether this user could join a group."""
    changed = settings.model_copy(update={"group_id": group})
    consumer: KafkaConsumer = make_consumer(changed, in_group=True)
    try:
        consumer.subscribe(["pairs"])
        consumer.poll(timeout_ms=3_000)
    except (GroupAuthorizationFailedError, TopicAuthorizationFailedError):
        return False
    finally:
        consumer.close(autocommit=False)
    return True


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("certificate", "certificate"),
        ("host name", "certificate"),
        ("password", "refused the login"),
        ("user", "refused the login"),
        ("no login", "no broker answers in time"),
        ("no encryption", "no broker answers in time"),
    ],
)
def test_what_is_not_trusted_fails_closed(roles: Roles, what: str, words: str, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("guessed")
    changes: dict[str, dict[str, Any]] = {
        "certificate": {"ssl_cafile": roles.broker.other_certificate},
        "host name": {"bootstrap_servers": f"localhost:{roles.broker.port}"},
        "password": {"sasl_password_file": wrong},
        "user": {"sasl_user": "nobody"},
        # brokers hang up without a word, which a broker that starts does, too
        "no login": {
            "security_protocol": "SSL",
            "sasl_mechanism": None,
            "sasl_user": None,
            "sasl_password_file": None,
            "give_up_after_s": 3,
        },
        "no encryption": {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": None, "give_up_after_s": 3},
    }
    begin_s = time.monotonic()
    ended = roles.command("worker", "worker", "--until", "end", **changes[what])
    took_s = time.monotonic() - begin_s

    ended.ended(exit_codes.KAFKA)
    assert words in ended.words
    assert took_s < WITHIN_S
