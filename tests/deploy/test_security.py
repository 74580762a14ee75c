"""Each role can do what it needs and no more, and whoever is not trusted is told so at once.

The rights are read from the KafkaUser manifests and given to the users of a real broker (SASL_SSL, StandardAuthorizer).
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import Outcome
from deploy.manifests import users
from deploy.roles import Roles, allows, can_begin, can_commit, can_read, can_write
from deploy.secured_broker import SecuredBroker, grant
from kafka.errors import (
    AuthorizationError,
)

from consumers.clients import make_admin
from stream_curate import exit_codes

pytestmark = [
    pytest.mark.slow,  # a broker, and many starts of many clients
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

WITHIN_S = 10.0
TOPICS = ("pairs", "ledger", "counts", "pairs.dlq")
ROLES = users()
Resource = Mapping[str, Any]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """kafka-python leaves a refused connection to the collector: here, where its warning is ignored."""
    yield
    gc.collect()


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
    return allows(ROLES[role], kind, name, operation)


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
