"""Consumers, producers and admin clients of kafka-python, with every setting that matters said aloud.

kafka-python is pinned exactly, since much here rests on how that version behaves. Its clients are not for several
threads. Make and use them inside `errors.in_words`.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.codec import has_lz4, has_snappy, has_zstd
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.record import util

from consumers.fetched import FetchedRecords
from consumers.refusals import FirstContactClient
from consumers.settings import KafkaSettings
from stream_curate.errors import ConfigError

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# a message is wrapped in a batch, and a dead letter has headers besides
MAX_BATCH_BYTES = MAX_MESSAGE_BYTES + 64 * 1024

_LINGER_MS = 20
_BATCH_BYTES = 256 * 1024
_TRANSACTION_BACKOFF_MS = 20
_FETCH_WAIT_MS = 250
_FETCH_BYTES = 32 * 1024 * 1024
_PARTITION_FETCH_BYTES = 4 * 1024 * 1024

log = structlog.get_logger()


def check_installation() -> None:
    """Refuse to run on the slow or incomplete parts of kafka-python.

    Raises:
        ConfigError: when a compiled package is missing: without crc32c all is 5 to 20 times slower, without a codec the
            messages compressed with it cannot be read.
    """
    found = {"crc32c": util.crc32c_c is not None, "lz4": has_lz4(), "snappy": has_snappy(), "zstd": has_zstd()}
    missing = sorted(name for name, is_there in found.items() if not is_there)
    if missing:
        raise ConfigError(
            f"kafka-python finds no {', '.join(missing)}: install them all with pip install 'stream-curate[kafka]'"
        )


def make_consumer(settings: KafkaSettings, *, in_group: bool = False) -> KafkaConsumer:
    """A consumer that sees committed transactions only, commits nothing by itself, and never jumps to another offset.

    Args:
        settings: the brokers, and the limits.
        in_group: whether it is a member of the group, so that `subscribe` shares partitions with others; else it is
            for `assign`. With `in_group`, call `poll` at least every `max_poll_interval_s`.

    Raises:
        ConfigError: a certificate or a password cannot be read, or a compiled package is missing.
        KafkaError: no broker answers within `give_up_after_s`.
    """
    membership: dict[str, Any] = {}
    if in_group:
        membership = {
            "group_id": settings.group_id,
            "group_instance_id": settings.instance_id,
            "session_timeout_ms": _ms(settings.session_timeout_s),
            # also how soon a member hears that partitions are to move
            "heartbeat_interval_ms": _ms(min(1.0, settings.session_timeout_s / 4)),
            "max_poll_interval_ms": _ms(settings.max_poll_interval_s),
            # the partitions that a member keeps go on while others move; never mixed with an eager assignor
            "partition_assignment_strategy": (CooperativeStickyAssignor,),
        }
    # a member of the group reads nothing itself (see `membership.py`): the little that comes before it is told so
    fetch_bytes, partition_fetch_bytes = (1, 1) if in_group else (_FETCH_BYTES, _PARTITION_FETCH_BYTES)
    consumer = KafkaConsumer(
        **_common(settings),
        **membership,
        enable_auto_commit=False,
        # nor must it trip over having no position
        auto_offset_reset="earliest" if in_group else "none",
        isolation_level="read_committed",
        allow_auto_create_topics=False,
        check_crcs=True,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        fetch_max_bytes=fetch_bytes,
        max_partition_fetch_bytes=partition_fetch_bytes,
        metrics_enabled=False,
    )
    consumer._fetcher.PartitionRecords = FetchedRecords
    return consumer


def fetch_ahead(consumer: KafkaConsumer) -> None:
    """Ask the brokers for what comes next, if all that they sent was taken: it comes while that is worked on.

    `poll` does so by itself, but not when it had to wait for what it returns. The next call then asks, and waits again,
    and so does each one after it.
    """
    fetcher = consumer._fetcher
    if not fetcher._completed_fetches and not fetcher._next_partition_records:
        fetcher.send_fetches()


def make_producer(settings: KafkaSettings, *, transactional_id: str | None = None) -> KafkaProducer:
    """An idempotent producer: what it is given stands in the topic once, in order, on all replicas in sync.

    It has no limit on what it holds in memory: whoever sends much waits for it.

    Args:
        settings: the brokers, and the limits.
        transactional_id: for a producer of transactions; `init_transactions` then ends those of any producer before it
            with the same id.

    Raises:
        ConfigError: a certificate or a password cannot be read, or a compiled package is missing.
        KafkaError: no broker answers within `give_up_after_s`.
    """
    common = _common(settings)
    if transactional_id is not None:
        # a coordinator that still ends the transaction of the producer before answers within milliseconds
        common["retry_backoff_ms"] = _TRANSACTION_BACKOFF_MS
    return KafkaProducer(
        **common,
        acks="all",
        enable_idempotence=True,
        transactional_id=transactional_id,
        transaction_timeout_ms=_ms(settings.transaction_timeout_s),
        # the client wants more than one request's time
        delivery_timeout_ms=_ms(max(settings.give_up_after_s, settings.request_timeout_s + 1)),
        max_block_ms=_ms(settings.give_up_after_s),
        max_in_flight_requests_per_connection=5,
        # what goes into a transaction is given at once and then waited for: nothing more is to come
        linger_ms=_LINGER_MS if transactional_id is None else 0,
        batch_size=_BATCH_BYTES,
        max_request_size=MAX_BATCH_BYTES,
        compression_type=None if settings.compression == "none" else settings.compression,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )


def end_producer(producer: KafkaProducer, timeout_s: float = 5.0) -> bool:
    """Close a producer for good: what it was given and is not acknowledged by now is given up, and not sent later.

    `KafkaProducer.close` raises an error instead when something is not acknowledged, and its thread goes on sending.

    Returns:
        Whether its thread has ended within `timeout_s`. If not, only the end of the process keeps it from sending.
    """
    sender = producer._sender
    sender.force_close()
    sender.join(timeout_s)
    has_ended = not sender.is_alive()
    if has_ended:
        producer.close(timeout=0)
    return has_ended


class NotEnded(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """A producer that was given up goes on sending: only the end of the process stops it."""


def give_up(producer: KafkaProducer, whose: str) -> None:
    """`end_producer`, for one that must not send anything more.

    Raises:
        NotEnded: when that cannot be made sure.
    """
    if not end_producer(producer):
        raise NotEnded(f"the producer of {whose} does not end")


def make_admin(settings: KafkaSettings) -> KafkaAdminClient:
    """A client that makes and describes topics.

    Raises:
        ConfigError: a certificate or a password cannot be read, or a compiled package is missing.
        KafkaError: no broker answers within `give_up_after_s`.
    """
    return KafkaAdminClient(**_common(settings))


def _common(settings: KafkaSettings) -> dict[str, Any]:
    check_installation()
    _route_log()
    return {
        "bootstrap_servers": [server.strip() for server in settings.bootstrap_servers.split(",")],
        "client_id": settings.client_id,
        "request_timeout_ms": _ms(settings.request_timeout_s),
        "bootstrap_timeout_ms": _ms(settings.give_up_after_s),
        "retry_backoff_ms": 100,
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 1_000,
        "metadata_max_age_ms": 30_000,
        "kafka_client": FirstContactClient,
        **_security(settings),
    }


def _security(settings: KafkaSettings) -> dict[str, Any]:
    protocol = settings.security_protocol
    found: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        found["ssl_context"] = _ssl_context(settings)
    if protocol.startswith("SASL"):
        found["sasl_mechanism"] = settings.sasl_mechanism
        found["sasl_plain_username"] = settings.sasl_user
        found["sasl_plain_password"] = settings.read_sasl_password()
    return found


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Made here, because kafka-python's own trusts no certificate of the system."""
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        context.check_hostname = settings.ssl_check_hostname
        if settings.ssl_certfile is not None:
            password = settings.read_ssl_key_password() or ""  # without one, ssl would ask at the terminal
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password)
    except OSError as error:
        raise ConfigError(
            "kafka.ssl_cafile, ssl_certfile, ssl_keyfile (or the key's password) cannot be used: "
            f"{error.strerror or type(error).__name__}"
        ) from None
    return context


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)


class _ToStructlog(logging.Handler):
    """kafka-python's log, one step quieter: it tells of each try to connect as an error."""

    def emit(self, record: logging.LogRecord) -> None:
        tell = log.warning if record.levelno >= logging.CRITICAL else log.debug
        tell("kafka-python: " + record.getMessage())


def _route_log() -> None:
    logger = logging.getLogger("kafka")
    if not any(isinstance(handler, _ToStructlog) for handler in logger.handlers):
        logger.addHandler(_ToStructlog(logging.WARNING))
        logger.propagate = False
