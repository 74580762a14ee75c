"""What goes wrong with Kafka, as the user is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors

from consumers.settings import KafkaSettings
from stream_curate import exit_codes
from stream_curate.errors import StreamCurateError
from stream_curate.printable import printable

_AWAY = (
    errors.KafkaTimeoutError,
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
    errors.BrokerNotAvailableError,
)


class CertificateRefused(errors.KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """Whoever answers has a certificate that is not to be trusted."""


_HOPELESS = (
    CertificateRefused,
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
    errors.InvalidTopicError,
    errors.InvalidReplicationFactorError,
    errors.IncompatibleBrokerVersion,
    errors.FencedInstanceIdError,
    errors.GroupMaxSizeReachedError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidTransactionTimeoutError,
    errors.KafkaConfigurationError,
    errors.LogTruncationError,
    errors.MessageSizeTooLargeError,
    errors.PolicyViolationError,
    errors.RecordListTooLargeError,
)
_MAX_SHOWN_BYTES = 500


class KafkaProblem(StreamCurateError):
    """Kafka does not do what is needed. The message names the brokers, and says what to do."""

    exit_code = exit_codes.KAFKA


def is_hopeless(error: BaseException) -> bool:
    """Whether waiting and trying again would not help, so that the process must end and say so."""
    return isinstance(_cause(error), _HOPELESS)


def _cause(error: BaseException) -> BaseException:
    """What is hopeless about an error: itself, or what kafka-python wrapped into it; else the error itself.

    A producer tells of a right that is missing in a transaction so: `KafkaError("Cannot perform send ...", reason)`.
    """
    for each in (error, *error.args, error.__cause__):
        if isinstance(each, BaseException) and isinstance(each, _HOPELESS):
            return each
    return error


@contextmanager
def in_words(settings: KafkaSettings, doing: str) -> Iterator[None]:
    """Around calls of kafka-python: its errors come out as a `KafkaProblem` that says what was being done.

    Args:
        settings: which brokers they are.
        doing: what the calls are for, such as "producing into pairs".
    """
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise KafkaProblem(f"{doing}: {_words(error, settings)}") from error


def _words(error: BaseException, settings: KafkaSettings) -> str:
    error = _cause(error)
    brokers = printable(settings.bootstrap_servers)
    shown = printable(f"{type(error).__name__}: {error.args[0] if error.args else ''}".rstrip(": "), _MAX_SHOWN_BYTES)
    if isinstance(error, errors.SaslAuthenticationFailedError):
        return f"the brokers at {brokers} refused the login ({shown}). Look at kafka.sasl_* and kafka.security_protocol"
    if isinstance(error, CertificateRefused):
        return (
            f"the certificate of the brokers at {brokers} is not to be trusted ({shown}). Look at kafka.ssl_cafile, "
            "and whether kafka.bootstrap_servers has the names that stand in it"
        )
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"the brokers at {brokers} do not take this login ({shown}). Look at kafka.sasl_mechanism"
    if isinstance(error, errors.AuthorizationError):
        return f"the brokers at {brokers} do not allow it ({shown}). Give kafka.sasl_user the right to do so"
    if isinstance(error, errors.FencedInstanceIdError):
        return f"another worker has the same kafka.instance_id ({shown}). Give each one its own, or none"
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return (
            f"a topic refuses messages that are this large, at {brokers} ({shown}). See which one, and what to set: "
            "stream-curate topics check"
        )
    if isinstance(error, errors.LogTruncationError):
        return (
            f"a topic was cut off or made anew behind what was read of it, at {brokers} ({shown}). What was read is no "
            "longer what stands there: make new topics, all of them, and replay"
        )
    if isinstance(error, errors.KafkaConfigurationError):
        return f"the settings cannot be used: {shown}"
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return (
            f"a topic is not there, or not to be seen, at {brokers} ({shown}). Make it (stream-curate topics create), "
            "or give kafka.sasl_user the right to describe it"
        )
    if isinstance(error, (*_AWAY, OSError)):
        return (
            f"no broker answers in time at {brokers} ({shown}). Is it running, can it be reached from here, "
            "and are kafka.bootstrap_servers and kafka.security_protocol right?"
        )
    return f"the brokers at {brokers} said: {shown}"
