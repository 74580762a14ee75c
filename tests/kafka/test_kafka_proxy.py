"""The proxy of the Kafka tests: what it holds back, and that all else passes as it came."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from kafka_proxy import END_TXN, PRODUCE, KafkaProxy, Request


def frame(api_key: int, version: int, correlation_id: int, client_id: str | None, body: bytes = b"") -> bytes:
    name = struct.pack(">h", -1) if client_id is None else struct.pack(">h", len(client_id)) + client_id.encode()
    request = struct.pack(">hhi", api_key, version, correlation_id) + name + body
    return struct.pack(">i", len(request)) + request


class Server:
    """Takes what comes, and answers each read with `ok`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.received: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(near,), daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            while data := near.recv(65_536):
                self.received.put(data)
                near.sendall(b"ok")
            self.received.put(b"")

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def next(self) -> bytes:
        return self.received.get(timeout=10)

    def has_nothing(self) -> bool:
        try:
            self.received.get(timeout=0.2)
        except queue.Empty:
            return True
        return False


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[KafkaProxy]:
    made = KafkaProxy()
    made.forward_to(server.port)
    yield made
    made.close()


def connect(proxy: KafkaProxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port))
    client.settimeout(10)
    return client


def test_the_head_of_a_request_is_read() -> None:
    request = Request(3, frame(END_TXN, 3, 77, "worker", b"\x04abc" + bytes(10) + b"\x01\x00"))
    assert (request.api_key, request.correlation_id, request.client_id) == (END_TXN, 77, "worker")
    assert request.names("abc")
    assert not request.names("abd")
    assert request.commits
    assert not Request(0, frame(END_TXN, 2, 1, None, b"\x00\x01a" + bytes(10) + b"\x00")).commits
    assert Request(0, frame(END_TXN, 2, 1, None, b"\x00\x01a" + bytes(10) + b"\x01")).commits
    assert Request(0, frame(PRODUCE, 9, 1, None)).client_id is None


def test_what_is_not_held_back_passes_as_it_came_and_so_do_the_answers(proxy: KafkaProxy, server: Server) -> None:
    hold = proxy.hold(END_TXN)
    with connect(proxy) as client:
        whole = frame(PRODUCE, 9, 1, "c", b"x" * 1_000)
        client.sendall(whole[:3])
        client.sendall(whole[3:500])
        client.sendall(whole[500:])
        assert server.next() == whole
        assert client.recv(10) == b"ok"
    assert not hold.has_caught


def test_one_request_is_held_back_and_others_of_its_connection_with_it(proxy: KafkaProxy, server: Server) -> None:
    hold = proxy.hold(END_TXN, naming="ledger-3", client_id="c", commits=True)
    others = [
        frame(END_TXN, 3, 1, "c", b"ledger-2\x01\x00"),
        frame(END_TXN, 3, 2, "d", b"ledger-3\x01\x00"),
        frame(END_TXN, 3, 3, "c", b"ledger-3\x00\x00"),
    ]
    held = frame(END_TXN, 3, 4, "c", b"ledger-3\x01\x00")
    behind = frame(PRODUCE, 9, 5, "c")
    with connect(proxy) as client, connect(proxy) as other:
        for each in others:
            client.sendall(each)
            assert server.next() == each
        client.sendall(held + behind)
        assert hold.wait(10).correlation_id == 4
        assert server.has_nothing()
        other.sendall(held)  # one only: the next passes
        assert server.next() == held

        hold.release()
        arrived = server.next()
        while len(arrived) < len(held + behind):
            arrived += server.next()
        assert arrived == held + behind


@pytest.mark.parametrize("deliver", [True, False])
def test_a_connection_breaks_off_while_a_request_is_in_flight(proxy: KafkaProxy, server: Server, deliver: bool) -> None:
    hold = proxy.hold(END_TXN)
    with connect(proxy) as client:
        client.sendall(frame(END_TXN, 3, 1, "c"))
        hold.wait(10)
        hold.break_off()
        assert client.recv(10) == b""
        assert server.has_nothing()
        hold.release() if deliver else hold.forget()
    if deliver:
        assert server.next() == frame(END_TXN, 3, 1, "c")
    assert server.next() == b""


def test_what_is_held_back_reaches_the_broker_also_when_its_client_has_gone(proxy: KafkaProxy, server: Server) -> None:
    hold = proxy.hold(END_TXN)
    with connect(proxy) as client:
        client.sendall(frame(END_TXN, 3, 1, "c"))
        hold.wait(10)
    assert server.has_nothing()
    hold.release()
    assert server.next() == frame(END_TXN, 3, 1, "c")


def test_a_hold_that_is_forgotten_holds_nothing(proxy: KafkaProxy, server: Server) -> None:
    proxy.cancel(proxy.hold(END_TXN))
    with connect(proxy) as client:
        client.sendall(frame(END_TXN, 3, 1, "c"))
        assert server.next() == frame(END_TXN, 3, 1, "c")


def test_all_connections_break_off_and_new_ones_can_be_made(proxy: KafkaProxy, server: Server) -> None:
    request = frame(PRODUCE, 9, 1, "c")
    for _ in range(3):
        clients = [connect(proxy) for _ in range(4)]
        for client in clients:
            client.sendall(request)
            assert server.next() == request
        assert proxy.break_all() >= len(clients)  # those of the round before may just be ending
        for client in clients:
            with client:
                while client.recv(10):
                    pass
            assert server.next() == b""


def test_without_a_broker_a_client_is_turned_away() -> None:
    proxy = KafkaProxy()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    proxy.forward_to(port)
    try:
        with connect(proxy) as client:
            assert client.recv(10) == b""
    finally:
        proxy.close()
