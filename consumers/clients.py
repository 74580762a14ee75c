"""Consumers, producers and admin clients of kafka-python, with every setting that matters said aloud.

kafka-python is pinned exactly, since much here rests on how that version behaves. Its clients are not for several
threads. Make and use them inside `errors.in_words`.

What other producers may write, and kafka-python does not read, consumers made here do:

- A record with a header whose key is not UTF-8 comes with each such key's bytes above 0x7F as question marks.
- A batch that would take more than MAX_UNPACKED_BYTES when it is unpacked is not: it comes as one record, the offset
  of which is the last of the batch. Its value is the batch as it is packed, and its header `NOT_UNPACKED`, with which
  `messages` rejects it as too large. There is no such limit for snappy, with which one byte becomes 22 at most, and
  for the message formats 0 and 1, which Kafka 4 does not have any more.
- What cannot be read at all is an error in words, the same with each `poll`, at the offset where it is.
"""

from __future__ import annotations

import gzip
import io
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, codec
from kafka.codec import has_lz4, has_snappy, has_zstd
from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.record import MemoryRecords, util
from kafka.record.default_records import DefaultRecordBatch

from consumers.errors import KafkaProblem
from consumers.messages import NOT_UNPACKED
from consumers.settings import KafkaSettings
from stream_curate.errors import ConfigError
from stream_curate.printable import printable

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# a message is wrapped in a batch, and a dead letter has headers besides
MAX_BATCH_BYTES = MAX_MESSAGE_BYTES + 64 * 1024
# of one batch of messages, which producers compress together; it is in memory as a whole
MAX_UNPACKED_BYTES = 256 * 1024 * 1024

_LINGER_MS = 20
_BATCH_BYTES = 256 * 1024
_TRANSACTION_BACKOFF_MS = 20
_FETCH_WAIT_MS = 250
_FETCH_BYTES = 32 * 1024 * 1024
_PARTITION_FETCH_BYTES = 4 * 1024 * 1024
_MAX_SHOWN_BYTES = 500

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


# --- reading what others wrote


class FetchedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """What a consumer fetched of one partition; see the module.

    After an error kafka-python's own keeps what it can no longer read, and the next `poll` never comes back.
    """

    def take(self, n: int | None = None) -> list[Any]:
        """The next records, at most `n`.

        Raises:
            KafkaProblem: they cannot be read; the consumer then fetches them once more.
        """
        try:
            records: list[Any] = super().take(n)
        except KafkaProblem:
            self.drain()
            raise
        return records

    def _unpack_records(
        self, place: Any, records: MemoryRecords, key_deserializer: Any, value_deserializer: Any
    ) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(place, _Batches(records), key_deserializer, value_deserializer)
        except Exception as error:  # from many places: checksums, codecs, damaged lengths
            raise KafkaProblem(
                f"the records of {place.topic}, partition {place.partition}, cannot be read from offset "
                f"{self.next_fetch_offset} on ({printable(f'{type(error).__name__}: {error}', _MAX_SHOWN_BYTES)}): "
                "they were damaged on their way or on the broker's disk. Try again; if it stays so, restore the "
                "partition from another replica"
            ) from error


class _Batches:
    """The batches of records in what was fetched, as far as `_unpack_records` needs it."""

    def __init__(self, records: MemoryRecords) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if type(batch) is DefaultRecordBatch:
            batch.__class__ = _Batch  # it adds no state, and its bytes need not be copied
        return batch


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch of records, the odd ones included."""

    __slots__ = ()

    def _maybe_uncompress(self: Any) -> None:
        packed = memoryview(self._buffer)[self._pos :]
        at_most = len(packed) * _MOST_UNPACKED.get(self.compression_type, 1)
        if self._decompressed or at_most <= MAX_UNPACKED_BYTES:
            super()._maybe_uncompress()
            return
        unpacked = _unpacked(self.compression_type, packed, MAX_UNPACKED_BYTES)
        if unpacked is None:
            unpacked = _one_record(self.last_offset_delta, bytes(packed), [(NOT_UNPACKED.encode(), b"")])
            self._num_records = 1
        del packed
        self._buffer, self._pos, self._decompressed = unpacked, 0, True

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:  # it has not moved on
            _make_header_keys_ascii(self._buffer, self._pos)
            return super()._read_msg()


_GZIP, _LZ4, _ZSTD = 1, 3, 4

# how many bytes one byte can become, as the formats have it; with zstd, as many as somebody likes
_MOST_UNPACKED = {_GZIP: 1_032, _LZ4: 255, _ZSTD: MAX_UNPACKED_BYTES}
_PIECE_BYTES = 1024 * 1024


def _unpacked(compression: int, packed: memoryview, max_bytes: int) -> bytearray | None:
    """What was packed, None if it is more than `max_bytes`."""
    file = io.BytesIO(packed)
    reader: Any
    if compression == _GZIP:
        reader = gzip.GzipFile(fileobj=file)
    elif compression == _LZ4:
        reader = codec.lz4.LZ4FrameFile(file)
    else:
        reader = codec.zstd.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    unpacked = bytearray()
    with reader:
        while piece := reader.read(_PIECE_BYTES):
            unpacked += piece
            if len(unpacked) > max_bytes:
                return None
    return unpacked


def _one_record(offset_delta: int, value: bytes, headers: list[tuple[bytes, bytes]]) -> bytearray:
    """A record as it stands in a batch of message format 2, without a key, of the batch's first timestamp."""
    record = bytearray(1)  # no attributes
    for number in (0, offset_delta, -1, len(value)):
        util.encode_varint(number, record.append)
    record += value
    util.encode_varint(len(headers), record.append)
    for header in headers:
        for piece in header:
            util.encode_varint(len(piece), record.append)
            record += piece
    sized = bytearray()
    util.encode_varint(len(record), sized.append)
    return sized + record


def _make_header_keys_ascii(buffer: bytearray, place: int) -> None:
    """In the record at `place`, put a question mark for each byte above 0x7F in header keys that are not UTF-8."""
    _, place = util.decode_varint(buffer, place)  # the size
    for _ in ("attributes", "timestamp", "offset"):
        _, place = util.decode_varint(buffer, place)
    for _ in ("key", "value"):
        n_bytes, place = util.decode_varint(buffer, place)
        place += max(n_bytes, 0)
    n_headers, place = util.decode_varint(buffer, place)
    for _ in range(n_headers):
        n_bytes, place = util.decode_varint(buffer, place)
        key = buffer[place : place + n_bytes]
        try:
            key.decode()
        except UnicodeDecodeError:
            buffer[place : place + n_bytes] = bytes(byte if byte < 0x80 else 0x3F for byte in key)
        place += n_bytes
        n_bytes, place = util.decode_varint(buffer, place)
        place += max(n_bytes, 0)
