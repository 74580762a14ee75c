"""Clients that end their first contact with the brokers at once when they are refused, or must not trust who answers.

kafka-python 3.0.12 tries a refused login or an untrusted certificate again until its time is up, and then says that
nobody answered: what went wrong is told to the connection's `init_future` alone (net/connection.py), and the loop
around it (net/manager.py, `_do_bootstrap`) takes any error for a reason to wait. Nor does it look at what came just
before a connection was closed (net/transport.py, `_read_from_sock`), which is where brokers say that they refuse.
And a client whose constructor fails leaves its thread and its sockets behind: one more for each try of an outage.
"""

from __future__ import annotations

from typing import Any

from kafka.errors import SaslAuthenticationFailedError, UnsupportedSaslMechanismError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from consumers.errors import CertificateRefused

_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # as OpenSSL says it; kafka-python passes the words on, not the error


class FirstContactClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """For the setting `kafka_client` of kafka-python's clients.

    Making such a client then raises SaslAuthenticationFailedError, UnsupportedSaslMechanismError or CertificateRefused
    as soon as one broker gives reason to. Once it is made, later connections are tried again as ever.
    """

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self._manager.__class__ = _Manager


class _ReadToTheEnd:
    """Of a connection that was closed, gives what came before; the end is found again by the next look."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()  # type: ignore[misc]
        return data, None if data else error


class _PlainToTheEnd(_ReadToTheEnd, KafkaTCPTransport):  # type: ignore[misc]
    pass


class _EncryptedToTheEnd(_ReadToTheEnd, KafkaSSLTransport):  # type: ignore[misc]
    pass


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    _refusal: Exception | None = None

    def bootstrap(self, timeout_ms: float | None = None, refresh: bool = True) -> None:
        try:
            super().bootstrap(timeout_ms, refresh)
        except BaseException:
            # the client is never made, so that nobody else could end its thread
            self.close()
            self._net.close()
            raise

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        if self.bootstrapped:
            return super().get_connection(node_id, **options)
        if self._refusal is not None:
            raise self._refusal
        connection = super().get_connection(node_id, **options)
        connection.init_future.add_errback(self._take_note)
        return connection

    async def _build_transport(self, *given: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*given, **options)
        is_encrypted = isinstance(transport, KafkaSSLTransport)
        transport.__class__ = _EncryptedToTheEnd if is_encrypted else _PlainToTheEnd
        return transport

    def _take_note(self, error: BaseException) -> None:
        if isinstance(error, SaslAuthenticationFailedError | UnsupportedSaslMechanismError):
            self._refusal = error
        elif _UNTRUSTED in str(error):
            self._refusal = CertificateRefused(str(error))
