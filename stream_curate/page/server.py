"""The server of the page: a few known paths, and a place for more of them.

It is meant for 127.0.0.1 and for a cluster's inside: it knows no users. What it answers is made from the table, and
from nothing else in the file system.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import structlog

from stream_curate import __version__
from stream_curate.errors import UsageError
from stream_curate.page.live import LivePicture

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 64
READ_TIMEOUT_S = 10.0
MAX_CONNECTION_S = 60.0
_MAX_BYTES_READ = 8 * MAX_BODY_BYTES
_MAX_LENGTH_DIGITS = 12

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

log = structlog.get_logger()


@dataclass(frozen=True)
class Request:
    """What a handler is given. `headers` have names in lower case; `body` is at most MAX_BODY_BYTES."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    """What a handler answers. `headers` are more than those that every answer has."""

    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


class PageServer:
    """A server in threads of its own. Handlers may be added while it runs.

    Attributes:
        url: where it answers.
        port: the port, also where any was asked for.
    """

    def __init__(self, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
        """Bind and begin to answer; every path is unknown until it is added.

        Args:
            host: the address to bind to.
            port: 0 for any that is free.

        Raises:
            UsageError: when the address cannot be bound.
        """
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._at_close: list[Callable[[], None]] = []
        try:
            address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._http = _Server(address[0], address[4], self._handlers)
        except (OSError, UnicodeError, OverflowError) as error:
            words = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot serve on {host}, port {port}: {words}") from error
        self.port = int(self._http.server_address[1])
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.2}, name="page-server", daemon=True
        )
        self._thread.start()

    def add(self, path: str, handler: Handler, method: str = "GET") -> None:
        """Answer `path` by `handler`; what it raises becomes an answer of status 500."""
        self._handlers[method, path] = handler

    def at_close(self, work: Callable[[], None]) -> None:
        """Also do `work` when the server is closed."""
        self._at_close.append(work)

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        while self._at_close:
            self._at_close.pop()()


def serve_page(root: Path, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> PageServer:
    """Serve the page of the table in `root` until the server is closed.

    Raises:
        ConfigError: when there is no table.
        UsageError: when the address cannot be bound.
    """
    live = LivePicture(root)
    try:
        server = PageServer(host, port)
    except UsageError as error:
        live.close()
        raise UsageError(f"{error}. Give another with --host and --port (0 is any free one)") from None
    server.at_close(live.close)
    add_page(server, live)
    return server


def add_page(server: PageServer, live: LivePicture) -> None:
    """Add the page's paths to a server."""
    for path, (name, content_type) in _FILES.items():
        server.add(path, _always(Response(page_file(name), content_type)))
    server.add("/picture", lambda request: _picture(live, request))
    server.add("/match", lambda request: _match(live, request), method="POST")


def page_file(name: str) -> bytes:
    """One of the page's own files."""
    return files("stream_curate.page").joinpath("files", name).read_bytes()


def _always(response: Response) -> Handler:
    return lambda request: response


def _picture(live: LivePicture, request: Request) -> Response:
    published = live.newest()
    tag = {"ETag": published.tag}
    if request.headers.get("if-none-match") == published.tag:
        return Response(status=HTTPStatus.NOT_MODIFIED, headers=tag)
    return Response(published.body, "application/json", headers=tag)


def _match(live: LivePicture, request: Request) -> Response:
    answer = live.table.answer(request.body)
    if answer is None:
        return Response(b"nothing has been committed yet\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
    return Response(orjson.dumps(answer), "application/json")


class _Server(ThreadingHTTPServer):
    """Threads up to a number, each for a limited time."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, family: int, address: Any, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self.address_family = socket.AddressFamily(family)
        self.handlers = handlers
        self._begun_s: dict[socket.socket, float] = {}  # the oldest first
        self._leaving: set[socket.socket] = set()
        self._begun_lock = threading.Lock()
        super().__init__(address, _RequestHandler)
        self.is_loopback = ipaddress.ip_address(str(self.server_address[0]).partition("%")[0]).is_loopback

    def server_bind(self) -> None:
        """As it is, but without asking for the name of the address, which can take seconds."""
        socket_address = self.server_address
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(socket_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let it in; for one too many the oldest goes, so that clients who hold their connections keep nobody out."""
        oldest = None
        with self._begun_lock:
            is_full = len(self._begun_s) + len(self._leaving) >= 2 * MAX_CONNECTIONS  # none of the old ones goes
            if not is_full:
                if len(self._begun_s) >= MAX_CONNECTIONS:
                    oldest = next(iter(self._begun_s))
                    del self._begun_s[oldest]
                    self._leaving.add(oldest)
                self._begun_s[request] = time.monotonic()
        if oldest is not None:
            _break_off(oldest)
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._begun_lock:
            self._begun_s.pop(request, None)
            self._leaving.discard(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Break off what takes too long, such as a client that sends a byte now and then."""
        now_s = time.monotonic()
        with self._begun_lock:
            late = [request for request, begun_s in self._begun_s.items() if now_s - begun_s > MAX_CONNECTION_S]
        for request in late:
            _break_off(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request was broken off", exc_info=True)


def _break_off(request: socket.socket) -> None:
    """Its thread then ends by itself."""
    with suppress(OSError):  # it has gone by itself
        request.shutdown(socket.SHUT_RDWR)


class _RequestHandler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: _Server
    timeout = READ_TIMEOUT_S
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(message)s\n"
    server_version = f"stream-curate/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET", has_body=False)

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str, *, has_body: bool = True) -> None:
        try:
            response = self._respond(method)
        except (TimeoutError, ConnectionError):
            raise  # nobody is there to be answered
        except Exception:
            log.warning("a request could not be answered", path=self.path[:200], exc_info=True)
            response = _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if has_body and response.status != HTTPStatus.NOT_MODIFIED:
            self.wfile.write(response.body)

    def _respond(self, method: str) -> Response:
        if not self._is_meant():
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST)
        path = self.path.partition("?")[0]
        handlers = self.server.handlers
        handler = handlers.get((method, path))
        if handler is None:
            is_known = any(known == path for _, known in list(handlers))
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED if is_known else HTTPStatus.NOT_FOUND)
        body = b""
        if method == "POST":
            origin = self.headers.get("Origin")
            if origin is not None and origin.partition("://")[2] != self.headers.get("Host"):
                return _refusal(HTTPStatus.FORBIDDEN)
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                return _refusal(HTTPStatus.LENGTH_REQUIRED)
            n_bytes = int(length[:_MAX_LENGTH_DIGITS])
            # what is only somewhat too large is read to its end: a client may look for no answer before
            body = self.rfile.read(n_bytes) if n_bytes <= _MAX_BYTES_READ else b""
            if n_bytes > MAX_BODY_BYTES:
                return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return handler(Request({name.lower(): value for name, value in self.headers.items()}, body))

    def _is_meant(self) -> bool:
        """On a loopback address only by its names: another name that points here is a trick (DNS rebinding)."""
        if not self.server.is_loopback:
            return True
        host = self.headers.get("Host", "")
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name.lower() == "localhost"

    def end_headers(self) -> None:
        """Also those of every answer."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page that is looked at asks every other second."""


def _refusal(status: HTTPStatus) -> Response:
    return Response(f"{status.phrase}\n".encode(), status=status)
