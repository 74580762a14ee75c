"""With the component for final decisions: its rights are what its curation needs, and no more.

As `test_security`, on a broker of its own, as a ledger is of one kind of decisions.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy.manifests import final_users
from deploy.roles import RULE, Roles, allows, can_commit, can_read, can_write
from deploy.secured_broker import ADMIN, SecuredBroker, grant

from consumers.topics import create_topics
from stream_curate import exit_codes

pytestmark = [
    pytest.mark.slow,  # a broker, and many starts of many clients
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

ROLES = final_users()
FINAL_RULE = RULE | {"STREAM_CURATE_DECISIONS": "final", "STREAM_CURATE_POOL_SIZE": "1000"}


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """kafka-python leaves a refused connection to the collector: here, where its warning is ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    """A curation of final decisions, with the rights of its component, that has come to its first end."""
    folder: Path = tmp_path_factory.mktemp("final")
    broker = SecuredBroker(folder / "broker", [f"stream-curate-{role}" for role in ROLES])
    try:
        broker.start()
        create_topics(broker.settings(ADMIN), "final")
        admin = broker.admin()
        for role, acls in ROLES.items():
            grant(admin, f"stream-curate-{role}", acls)
        admin.close()
        made = Roles(broker, folder, FINAL_RULE)
        made.crawler().ended(exit_codes.DONE)
        made.foreign()
        made.worker().ended(exit_codes.DONE)
        made.settler().ended(exit_codes.DONE)
        yield made
    finally:
        broker.remove()


def test_each_role_can_do_what_it_needs(roles: Roles) -> None:
    audited = roles.auditor().ended(exit_codes.DONE)
    assert "Audit: clean" in audited.words
    assert "topic of accepted pairs" in audited.words
    assert "accepted: as they should be" in roles.checker().ended(exit_codes.DONE).words


@pytest.mark.parametrize("role", ROLES)
def test_who_may_read_and_write_the_accepted_pairs(roles: Roles, role: str) -> None:
    settings = roles.settings(role)
    assert can_read(settings, "accepted") == allows(ROLES[role], "topic", "accepted", "Read")
    assert can_write(settings, "accepted") == allows(ROLES[role], "topic", "accepted", "Write")


def test_a_follower_reads_the_accepted_pairs_and_nothing_else(roles: Roles) -> None:
    settings = roles.settings("follower")
    for topic in ("pairs", "ledger", "counts", "pairs.dlq", "accepted"):
        assert can_read(settings, topic) == (topic == "accepted"), topic
        assert not can_write(settings, topic), topic
    assert can_commit(settings, "follower-1", "accepted")
    assert not can_commit(settings, "stream-curate", "accepted")


@pytest.mark.parametrize(
    ("role", "operation"), [("worker", "Write"), ("auditor", "Read"), ("auditor", "DescribeConfigs")]
)
def test_without_its_right_to_the_accepted_pairs_a_role_fails_closed(roles: Roles, role: str, operation: str) -> None:
    less = copy.deepcopy(ROLES[role])
    less[-1]["operations"].remove(operation)
    roles.foreign()
    admin = roles.broker.admin()
    try:
        grant(admin, f"stream-curate-{role}", [acl for acl in less if acl["operations"]])
        does = roles.checker if operation == "DescribeConfigs" else getattr(roles, role)
        ended = does().ended(exit_codes.KAFKA)
        assert any(
            told in ended.words for told in ("do not allow", "there is no topic", "not there, or not to be seen")
        )
    finally:
        grant(admin, f"stream-curate-{role}", ROLES[role])
        admin.close()
