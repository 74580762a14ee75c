"""What the Kafka tests share: a real broker, and names of their own.

KAFKA_BOOTSTRAP=host:port takes another broker than the one started here; tests that stop a broker start their own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.clients import make_admin
from consumers.dev_broker import OUT, DevBroker
from consumers.settings import KafkaSettings, TopicNames
from consumers.topics import create_topics

BOOTSTRAP = "KAFKA_BOOTSTRAP"
ENDING_S = 10.0


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """The address of a broker that stays up for the whole session."""
    given = os.environ.get(BOOTSTRAP)
    if given:
        yield given
        return
    _remove_left_behind()
    started = DevBroker(OUT / f"test-{os.getpid()}")
    try:
        started.start()
        yield started.bootstrap
    finally:
        started.remove()


@pytest.fixture(autouse=True)
def _clients_are_closed() -> Iterator[None]:
    """No client outlives its test: it would go on asking for topics that are gone, and take the machine's time."""
    before = set(threading.enumerate())
    yield
    end_s = time.monotonic() + ENDING_S
    while left := [thread.name for thread in threading.enumerate() if thread not in before and _is_a_client(thread)]:
        assert time.monotonic() < end_s, f"clients that were not closed: {left}"
        time.sleep(0.05)


@pytest.fixture
def kafka(broker: str) -> Iterator[Callable[..., KafkaSettings]]:
    """Makes settings for this broker, with topic names and a group that only this test has; its topics are deleted."""
    prefix = f"t{secrets.token_hex(6)}"
    names = TopicNames(
        pairs=f"{prefix}.pairs",
        ledger=f"{prefix}.ledger",
        counts=f"{prefix}.counts",
        dlq=f"{prefix}.dlq",
        accepted=f"{prefix}.accepted",
    )
    base = KafkaSettings(bootstrap_servers=broker, topics=names, group_id=prefix, partitions=3, replication_factor=1)

    def settings(**changes: Any) -> KafkaSettings:
        return KafkaSettings.model_validate(base.model_dump() | changes)

    yield settings
    admin = make_admin(base)
    left = sorted(name for name in admin.list_topics() if name.startswith(prefix))
    if left:
        admin.delete_topics(left)
    admin.close()


@pytest.fixture
def topics(kafka: Callable[..., KafkaSettings]) -> KafkaSettings:
    """Settings whose topics are there, with 3 partitions."""
    settings = kafka()
    create_topics(settings)
    return settings


def _is_a_client(thread: threading.Thread) -> bool:
    """Whether it is one of kafka-python's threads: those that read and write, and those that send for a producer."""
    return type(thread).__module__.startswith("kafka.") or thread.name.startswith("kafka-")


def _remove_left_behind() -> None:
    """Brokers of sessions that were killed."""
    for folder in OUT.glob("test-*"):
        if not Path(f"/proc/{folder.name.removeprefix('test-')}").exists():
            if (folder / "server.properties").exists():
                DevBroker(folder).remove()
            shutil.rmtree(folder, ignore_errors=True)
