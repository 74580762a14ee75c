"""The development broker: starts, is killed, comes back on the same port with the same data."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from consumers.clients import make_admin
from consumers.dev_broker import DevBroker, DevBrokerError, free_port
from consumers.settings import KafkaSettings

pytestmark = pytest.mark.slow  # each starts or waits for a broker


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DevBroker]:
    broker = DevBroker(tmp_path / "broker")
    yield broker
    broker.remove()


def topic_names(broker: DevBroker) -> set[str]:
    admin = make_admin(KafkaSettings(bootstrap_servers=broker.bootstrap, give_up_after_s=10))
    try:
        return {name for name in admin.list_topics() if not name.startswith("__")}
    finally:
        admin.close()


def test_it_comes_back_after_a_crash_and_a_stop_with_its_port_and_data(own: DevBroker) -> None:
    own.start()
    admin = make_admin(KafkaSettings(bootstrap_servers=own.bootstrap))
    admin.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    port = own.port

    own.kill()
    assert not own.is_running()
    own.start()
    assert topic_names(own) == {"kept"}

    again = DevBroker(own.folder)  # as another process would see it
    assert again.is_running()
    assert again.port == port
    again.restart()
    assert topic_names(again) == {"kept"}
    again.stop()
    assert not again.is_running()


@contextmanager
def proxy(listener: socket.socket, to_port: int) -> Iterator[None]:
    """Passes what comes to `listener` on to a port of this machine, and back."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", to_port))
                sockets.extend([near, far])
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    sockets = [listener]
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_a_second_listener_sends_clients_to_a_proxy(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    proxy_port = listener.getsockname()[1]
    broker = DevBroker(tmp_path / "broker", proxy_port=proxy_port)
    assert broker.behind_proxy is not None
    assert DevBroker(broker.folder).behind_proxy == broker.behind_proxy
    try:
        broker.start()
        with proxy(listener, broker.behind_proxy):
            admin = make_admin(KafkaSettings(bootstrap_servers=f"127.0.0.1:{proxy_port}"))
            assert [each["port"] for each in admin.describe_cluster()["brokers"]] == [proxy_port]
            admin.close()
        admin = make_admin(KafkaSettings(bootstrap_servers=broker.bootstrap))
        assert [each["port"] for each in admin.describe_cluster()["brokers"]] == [broker.port]
        admin.close()
    finally:
        broker.remove()


def test_a_broker_that_cannot_start_says_what_it_logged(own: DevBroker) -> None:
    properties = own.folder / "server.properties"
    properties.write_text(properties.read_text() + "log.retention.ms=never\n")

    with pytest.raises(DevBrokerError, match=r"log\.retention\.ms"):
        own.start()
    assert not own.is_running()


def test_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "consumers.dev_broker"]
    folder = ["--folder", str(tmp_path / "b"), "--port", str(free_port())]
    try:
        started = subprocess.run([*command, "start", *folder], capture_output=True, text=True, check=True)
        address = (tmp_path / "b" / "bootstrap").read_text().strip()
        assert f"Kafka runs at {address}" in started.stdout
        assert f"export STREAM_CURATE_KAFKA__BOOTSTRAP_SERVERS={address}" in started.stdout
        subprocess.run([*command, "start", *folder], capture_output=True, check=True)  # runs already
        assert topic_names(DevBroker(tmp_path / "b")) == set()
    finally:
        subprocess.run([*command, "stop", *folder], check=True)
    assert not DevBroker(tmp_path / "b").is_running()
    subprocess.run([*command, "stop", "--folder", str(tmp_path / "never")], check=True)
