"""The server: its paths, its limits, and whom it answers."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stream_curate.errors import ConfigError, UsageError
from stream_curate.page import LivePicture, PageServer, Request, Response, add_page, serve_page
from stream_curate.page import server as module


@pytest.fixture
def server(table: Path) -> Iterator[PageServer]:
    started = serve_page(table, port=0)
    yield started
    started.close()


Answer = tuple[int, dict[str, str], bytes]


def ask(
    server: PageServer, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def ask_raw(server: PageServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        pieces = []
        while piece := connection.recv(65_536):
            pieces.append(piece)
        return b"".join(pieces)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/icon.svg", "/picture", "/?x=1"])
def test_the_page_is_answered_with_a_strict_policy(server: PageServer, path: str) -> None:
    status, headers, body = ask(server, path)
    assert status == 200
    assert body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy.replace("'none'", "")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert ask(server, path, "HEAD")[2] == b""


def test_an_unchanged_picture_is_not_sent_again(server: PageServer) -> None:
    tag, end_s = "", time.monotonic() + 30
    while time.monotonic() < end_s:  # until the curves are there
        status, headers, _ = ask(server, "/picture", headers={"If-None-Match": tag})
        if status == 304:
            break
        tag = headers["etag"]
        time.sleep(0.05)
    assert status == 304
    assert json.loads(ask(server, "/picture", headers={"If-None-Match": '"x"'})[2])["picture"]


@pytest.mark.parametrize(
    "path",
    [
        "/no",
        "/../pyproject.toml",
        "/..%2f..%2fetc/passwd",
        "/files/page.js",
        "//etc/passwd",
        "/page.js/",
        "/%2e%2e/",
        "/server.py",
    ],
)
def test_other_paths_are_unknown(server: PageServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_other_methods_are_refused(server: PageServer) -> None:
    assert ask(server, "/match")[0] == 405
    assert ask(server, "/", "POST", b"x")[0] == 405
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        status, headers, body = ask(server, "/", method)
        assert status == 501
        assert headers["content-type"].startswith("text/plain")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"<" not in body


def test_a_text_is_answered(server: PageServer) -> None:
    ask(server, "/picture")
    status, headers, body = ask(server, "/match", "POST", b"a dog")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert {row["entry"] for row in json.loads(body)["entries"]} == {"a", "dog"}
    assert json.loads(ask(server, "/match", "POST", b"\xff\xfe")[2])["refused"] == "invalid_utf8"
    assert ask(server, "/match", "POST", b"x" * 65_536)[0] == 200


def test_a_body_has_a_limit_and_a_length(server: PageServer) -> None:
    assert ask(server, "/match", "POST", b"x" * 65_537)[0] == 413
    assert ask(server, "/match", "POST", b"x" * 500_000)[0] == 413
    head = b"POST /match HTTP/1.1\r\nHost: localhost\r\n"
    assert b" 411 " in ask_raw(server, head + b"\r\n")
    assert b" 411 " in ask_raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n5\r\na dog\r\n0\r\n\r\n")
    for length in (b"-1", b"1e3", b"\xb2"):
        assert b" 411 " in ask_raw(server, head + b"Content-Length: " + length + b"\r\n\r\n")
    assert b" 413 " in ask_raw(server, head + b"Content-Length: 99999999999999999999\r\n\r\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "192.0.2.1"]
)
def test_another_host_name_is_refused(server: PageServer, host: str) -> None:
    assert ask(server, "/picture", headers={"Host": host})[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.0.0.1:99", "[::1]", "[::1]:80"])
def test_the_names_of_this_machine_are_answered(server: PageServer, host: str) -> None:
    assert ask(server, "/icon.svg", headers={"Host": host})[0] == 200


def test_another_site_cannot_ask(server: PageServer) -> None:
    ask(server, "/picture")
    own = f"127.0.0.1:{server.port}"
    for origin, status in [("http://evil.example", 403), ("null", 403), (f"http://{own}", 200)]:
        assert ask(server, "/match", "POST", b"a dog", {"Origin": origin, "Host": own})[0] == status


def test_on_all_addresses_any_name_is_answered(table: Path) -> None:
    server = serve_page(table, "0.0.0.0", 0)
    try:
        assert ask(server, "/icon.svg", headers={"Host": "settler.crawl.svc:8765"})[0] == 200
    finally:
        server.close()


def test_handlers_can_be_added(server: PageServer) -> None:
    server.add("/livez", lambda request: Response(b"ok\n"))
    server.add("/echo", lambda request: Response(request.body + request.headers["x-more"].encode()), method="POST")
    assert ask(server, "/livez")[2] == b"ok\n"
    assert ask(server, "/echo", "POST", b"a", {"X-More": "b"})[2] == b"ab"


def test_what_a_handler_raises_is_an_answer_without_details(server: PageServer) -> None:
    def fail(request: Request) -> Response:
        raise ValueError("secret")

    server.add("/fail", fail)
    status, _, body = ask(server, "/fail")
    assert status == 500
    assert b"secret" not in body
    assert ask(server, "/icon.svg")[0] == 200


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"G" * 70_000]
)
def test_nonsense_does_not_stop_it(server: PageServer, request_: bytes) -> None:
    with suppress(ConnectionError):  # it may hang up
        ask_raw(server, request_ if request_.endswith(b"\n") else request_ + b"\r\n")
    assert ask(server, "/icon.svg")[0] == 200


def test_slow_clients_are_broken_off(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTION_S", 0.3)
    server = serve_page(table, port=0)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n")
            assert connection.recv(10) == b""
    finally:
        server.close()


def test_the_page_is_added_to_a_server_that_runs_already(table: Path) -> None:
    server = PageServer("127.0.0.1", 0)
    try:
        assert ask(server, "/")[0] == 404
        live = LivePicture(table)
        server.at_close(live.close)
        add_page(server, live)
        assert json.loads(ask(server, "/picture")[2])["picture"]["numbers"]["n_read"] == 622
    finally:
        server.close()


def test_connections_are_limited_and_the_oldest_makes_room(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that hold their connections keep nobody else out."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    server = serve_page(table, port=0)
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(4)]
    try:
        assert held[0].recv(10) == b""
        assert ask(server, "/icon.svg")[0] == 200
        assert held[1].recv(10) == b""
        held[3].sendall(b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in held[3].recv(100)
    finally:
        for connection in held:
            connection.close()
        server.close()


def test_what_does_not_end_makes_no_room(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads have a limit, too."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    server = serve_page(table, port=0)
    go_on, n_waiting = threading.Event(), threading.Semaphore(0)

    def wait(request: Request) -> Response:
        n_waiting.release()
        go_on.wait(30)
        return Response(b"done\n")

    server.add("/wait", wait)
    held = []
    try:
        for _ in range(4):
            held.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            held[-1].sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert n_waiting.acquire(timeout=20)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one_more:
            assert one_more.recv(10) == b""
        go_on.set()
        assert b" 200 " in held[3].recv(100)
    finally:
        go_on.set()
        for connection in held:
            connection.close()
        server.close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "\u202e"])
def test_an_address_that_cannot_be_bound_is_told(table: Path, host: str) -> None:
    with pytest.raises(UsageError, match="cannot serve on"):
        serve_page(table, host, 0)


def test_a_port_in_use_is_told(table: Path, server: PageServer) -> None:
    with pytest.raises(UsageError, match="--port"):
        serve_page(table, port=server.port)


def test_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        serve_page(tmp_path, port=0)


def test_ipv6(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        server = serve_page(table, "::1", 0)
    except UsageError:
        pytest.skip("no IPv6 here")
    assert server.url.startswith("http://[::1]:")
    server.close()


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    read: Callable[[str], str] = lambda name: module.page_file(name).decode()  # noqa: E731
    assert "http" not in read("page.html").replace("http-equiv", "")
    assert "http" not in read("page.css")
    script = read("page.js").replace("http://www.w3.org/2000/svg", "").replace("http or https", "")
    assert "http" not in script
    for word in ("innerHTML", "insertAdjacentHTML", "eval(", "document.write", "</script", "outerHTML"):
        assert word not in script
    assert "</style" not in read("page.css")
