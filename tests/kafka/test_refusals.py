"""A client that is refused says so at once; `tests/deploy/test_security.py` tries it on a real broker."""

from __future__ import annotations

import gc
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kafka.net.transport import KafkaTCPTransport

from consumers.clients import make_admin, make_consumer, make_producer
from consumers.errors import CertificateRefused, KafkaProblem, in_words, is_hopeless
from consumers.refusals import _PlainToTheEnd
from consumers.settings import KafkaSettings

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """kafka-python leaves a refused connection to the collector: here, where its warning is ignored."""
    yield
    gc.collect()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key, and a certificate for 127.0.0.1 that it has signed itself."""
    key, made = folder / f"{name}.key", folder / f"{name}.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        capture_output=True,
        check=True,
    )
    return key, made


@pytest.fixture
def somebody_else(tmp_path: Path) -> Iterator[KafkaSettings]:
    """Settings for an address where somebody answers whose certificate is not the one to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key, its_own = certificate(tmp_path, "somebody")
    context.load_cert_chain(its_own, key)
    _, trusted = certificate(tmp_path, "broker")
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(10)
                context.wrap_socket(connection, server_side=True).close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield KafkaSettings(
        bootstrap_servers=f"127.0.0.1:{listening.getsockname()[1]}", security_protocol="SSL", ssl_cafile=trusted
    )
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)


def test_a_certificate_that_is_not_trusted_is_told_at_once(somebody_else: KafkaSettings) -> None:
    for make in (make_admin, make_consumer, make_producer):
        begun_s = time.monotonic()
        with (
            pytest.raises(KafkaProblem, match=r"looking: the certificate of .* is not to be trusted .*ssl_cafile"),
            in_words(somebody_else, "looking"),
        ):
            make(somebody_else)
        assert time.monotonic() - begun_s < 10
    assert is_hopeless(CertificateRefused("no"))


@pytest.mark.parametrize("transport_class", [_PlainToTheEnd, KafkaTCPTransport])
def test_what_came_before_the_end_is_read(transport_class: type[KafkaTCPTransport]) -> None:
    """As kafka-python has it an error comes with it, and what was read is thrown away."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"refused")
        theirs.close()
        ours.setblocking(False)
        transport = transport_class(None, ours)
        data, error = transport._sock_recv()
        assert data == b"refused"
        assert (error is None) == (transport_class is _PlainToTheEnd)
        data, error = transport._sock_recv()
        assert data == b""
        assert error is not None
