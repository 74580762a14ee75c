"""What the tests of the deployment share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from deploy.manifests import users
from deploy.secured_broker import ADMIN, SecuredBroker, grant

from consumers.topics import create_topics


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker with the topics, and with the users of the manifests and their rights."""
    roles = users()
    broker = SecuredBroker(tmp_path_factory.mktemp("secured") / "broker", [f"stream-curate-{role}" for role in roles])
    try:
        broker.start()
        create_topics(broker.settings(ADMIN))
        admin = broker.admin()
        for role, acls in roles.items():
            grant(admin, f"stream-curate-{role}", acls)
        admin.close()
        yield broker
    finally:
        broker.remove()
