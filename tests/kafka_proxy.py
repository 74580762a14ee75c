"""A proxy before a broker that knows where requests begin and end, and holds back those that it is told to.

Clients must reach it as the advertised address of the broker's second listener:

    proxy = KafkaProxy()
    broker = DevBroker(folder, proxy_port=proxy.port)
    broker.start()
    proxy.forward_to(broker.behind_proxy)

A request in Kafka's protocol is `size int32, api_key int16, api_version int16, correlation_id int32, client_id`
(an int16 length, -1 for none, and as many bytes), and then what depends on the api_key.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

PRODUCE = 0
INIT_PRODUCER_ID = 22
ADD_PARTITIONS_TO_TXN = 24
END_TXN = 26

_MAX_REQUEST_BYTES = 64 * 1024 * 1024
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Request:
    """One request of a client.

    Attributes:
        connection: the number of the connection it came on, from 0 in the order they were made.
        frame: all its bytes, the size before it included.
    """

    connection: int
    frame: bytes = field(repr=False)

    @property
    def api_key(self) -> int:
        return int(struct.unpack_from(">h", self.frame, 4)[0])

    @property
    def correlation_id(self) -> int:
        return int(struct.unpack_from(">i", self.frame, 8)[0])

    @property
    def client_id(self) -> str | None:
        (length,) = struct.unpack_from(">h", self.frame, 12)
        return None if length < 0 else self.frame[14 : 14 + length].decode()

    def names(self, text: str) -> bool:
        """Whether a text, such as a transactional id, stands in it; what is compressed is not looked into."""
        return text.encode() in self.frame

    @property
    def commits(self) -> bool:
        """Of an EndTxn: whether it is to commit, not to abort.

        From version 3 on an (empty) list of tags follows the flag.
        """
        (version,) = struct.unpack_from(">h", self.frame, 6)
        return bool(self.frame[-2 if version >= 3 else -1])


class Hold:
    """One request to hold back, once it comes: what to do with it is then said by `release` or `forget`."""

    def __init__(self, matches: Callable[[Request], bool]) -> None:
        self._matches = matches
        self._caught = threading.Event()
        self._lock = threading.Lock()
        self._request: Request | None = None
        self._connection: _Connection | None = None

    def wait(self, timeout_s: float) -> Request:
        """Wait until the request has come."""
        assert self._caught.wait(timeout_s), f"no such request came within {timeout_s} s"
        assert self._request is not None
        return self._request

    @property
    def has_caught(self) -> bool:
        return self._caught.is_set()

    def release(self) -> None:
        """Send it to the broker now, also when the client has gone by then."""
        connection = self._held_by()
        assert self._request is not None
        connection.to_broker(self._request.frame)
        connection.go_on()

    def break_off(self) -> None:
        """Break the client's connection off; what is held back stays so."""
        self._held_by().break_off_client()

    def forget(self) -> None:
        """The broker never gets it, and what else came on this connection neither."""
        self.break_off()
        self._held_by().go_on()

    def _held_by(self) -> _Connection:
        assert self._connection is not None, "no request has been caught"
        return self._connection

    def _take(self, request: Request, connection: _Connection) -> bool:
        with self._lock:
            if self.has_caught or not self._matches(request):
                return False
            self._request, self._connection = request, connection
            connection.hold()
            self._caught.set()
            return True


class KafkaProxy:
    """Listens on a port of 127.0.0.1 from the moment it is made; `close` ends it and all connections.

    Attributes:
        port: where it listens.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._to_port: int | None = None
        self._lock = threading.Lock()
        self._holds: list[Hold] = []
        self._connections: list[_Connection] = []
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="kafka-proxy")
        self._thread.start()

    def forward_to(self, port: int) -> None:
        """Where connections go from now on."""
        self._to_port = port

    def hold(
        self,
        api_key: int,
        *,
        naming: str = "",
        client_id: str | None = None,
        commits: bool | None = None,
        after: int = 0,
    ) -> Hold:
        """Hold back the next request of this kind.

        Args:
            api_key: of the request.
            naming: a text that stands in it, such as a transactional id.
            client_id: of the client.
            commits: of an EndTxn, whether it commits.
            after: let so many of them pass before.
        """
        n_passed = 0

        def matches(request: Request) -> bool:
            nonlocal n_passed
            is_one = (
                request.api_key == api_key
                and request.names(naming)
                and client_id in (None, request.client_id)
                and commits in (None, request.commits)
            )
            n_passed += is_one
            return is_one and n_passed > after

        made = Hold(matches)
        with self._lock:
            self._holds.append(made)
        return made

    def cancel(self, hold: Hold) -> None:
        """Hold nothing back for it any more."""
        with self._lock:
            self._holds.remove(hold)

    def break_all(self) -> int:
        """Break all clients' connections off; new ones can be made at once. Returns how many there were."""
        with self._lock:
            broken = [each for each in self._connections if not each.is_over]
        for each in broken:
            each.break_off_client()
        return len(broken)

    def close(self) -> None:
        """End all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._connections:
            connection.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    assert self._to_port is not None, "forward_to was not called"
                    broker = socket.create_connection(("127.0.0.1", self._to_port), timeout=10)
                    broker.settimeout(None)
                except OSError:
                    client.close()  # as if nobody listened
                    continue
                self._start(_Connection(next(self._numbers), client, broker, self._on_request))

    def _start(self, connection: _Connection) -> None:
        """Start and remember it, as one, and close those that are over: a test of hours makes many."""
        with self._lock:
            over = [each for each in self._connections if each.is_over]
            for each in over:
                each.close()
                self._connections.remove(each)
            connection.start()
            self._connections.append(connection)

    def _on_request(self, request: Request, connection: _Connection) -> bool:
        """Whether it may pass."""
        with self._lock:
            holds = list(self._holds)
        return not any(hold._take(request, connection) for hold in holds)


class _Connection:
    """One client's connection and the one to the broker that belongs to it."""

    def __init__(
        self,
        number: int,
        client: socket.socket,
        broker: socket.socket,
        on_request: Callable[[Request, _Connection], bool],
    ) -> None:
        self._number = number
        self._client = client
        self._broker = broker
        self._on_request = on_request
        self._passes = threading.Event()
        self._passes.set()
        self._answered = threading.Event()
        self._answered.set()
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f"kafka-proxy-{number}")
            for target in (self._pass_requests, self._pass_answers)
        ]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    @property
    def is_over(self) -> bool:
        """Whether nothing passes any more, in either direction."""
        return not any(each.is_alive() for each in self._threads)

    def hold(self) -> None:
        """Let no request of this connection pass, until `go_on`: a broker answers them in their order."""
        self._passes.clear()

    def go_on(self) -> None:
        self._passes.set()

    def to_broker(self, frame: bytes) -> None:
        self._answered.clear()
        self._broker.sendall(frame)

    def break_off_client(self) -> None:
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._passes.set()
        self._answered.set()
        for each in (self._client, self._broker):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _pass_requests(self) -> None:
        with contextlib.suppress(OSError):
            while frame := self._next_frame():
                if self._on_request(Request(self._number, frame), self):
                    self.to_broker(frame)
                self._passes.wait()
        self._passes.wait()  # what is held back may still be sent when the client has gone
        self._answered.wait(_ANSWER_S)  # a broker may pass over a request of a connection that is closed already
        with contextlib.suppress(OSError):
            self._broker.shutdown(socket.SHUT_WR)

    def _pass_answers(self) -> None:
        try:
            while data := self._broker.recv(65_536):
                self._answered.set()
                with contextlib.suppress(OSError):  # the broker goes on when the client has gone
                    self._client.sendall(data)
        except OSError:
            pass
        self._answered.set()
        self.break_off_client()

    def _next_frame(self) -> bytes | None:
        """The next request, None at the end."""
        size = self._receive(4)
        if size is None:
            return None
        (n_bytes,) = struct.unpack(">i", size)
        assert 0 < n_bytes <= _MAX_REQUEST_BYTES, f"a request of {n_bytes} bytes"
        rest = self._receive(n_bytes)
        return None if rest is None else size + rest

    def _receive(self, n_bytes: int) -> bytes | None:
        received = bytearray()
        while len(received) < n_bytes:
            data = self._client.recv(min(n_bytes - len(received), 1_048_576))
            if not data:
                return None
            received += data
        return bytes(received)
