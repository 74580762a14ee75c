"""What the tests of the page share: a browser, pages that are watched, and a table with all that can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command_line import crawl, run, write_csv, write_metadata
from page_browser import WAIT_MS, Scheme, chromium, new_page
from playwright.sync_api import Browser, Page, expect

from stream_curate.page import PageServer, serve_page

expect.set_options(timeout=WAIT_MS)


@dataclass
class Watched:
    """A page, what it asked for, and what went wrong in it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens a url and waits for the picture; at the end no script may have failed."""
    opened: list[Watched] = []

    def go(url: str, size: str = "desktop", scheme: Scheme = "light") -> Watched:
        watched = Watched(new_page(browser, size, scheme))
        opened.append(watched)
        watched.page.on("request", lambda request: watched.requests.append(request.url))
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.goto(url)
        watched.page.wait_for_selector("#content:not([hidden])")
        return watched

    yield go
    for watched in opened:
        watched.page.context.close()
        assert watched.errors == []


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settled table with rejected records, at t=5 with seed 7 and exact counts. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("page")
    pairs = [*crawl(600), *crawl(20), ("ftp://x.org/1", "a dog"), ("", "a cat")]
    source = write_csv(folder / "crawl.csv", pairs)
    metadata = write_metadata(folder / "entries.txt")
    rule = ["--metadata", metadata, "-t", 5, "--seed", 7, "--counter", "exact"]
    run("curate", source, "--out", folder / "t", *rule).ended(0)
    return folder / "t"


@pytest.fixture
def serve() -> Iterator[Callable[[Path], PageServer]]:
    """Serves tables until the test ends."""
    servers: list[PageServer] = []

    def start(root: Path, port: int = 0) -> PageServer:
        servers.append(serve_page(root, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
