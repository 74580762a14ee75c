"""What the tests of the page share: a browser, pages that are watched, and a table with all that can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import crawl, run, write_csv, write_metadata
from page_browser import WAIT_MS, WatchedPage, chromium, opened_pages
from playwright.sync_api import Browser, expect

from stream_curate.page import PageServer, serve_page

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., WatchedPage]]:
    """Opens a url and waits for the picture; at the end no script may have failed."""
    with opened_pages(browser) as go:
        yield go


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
