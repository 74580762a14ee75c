"""A real Chromium, headless: Debian's, which is installed where it is missing and that is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from debian import program
from playwright.sync_api import Browser, Page, sync_playwright

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WAIT_MS = 20_000

_NAMES = ("chromium", "chromium-headless-shell", "google-chrome")


@dataclass
class WatchedPage:
    """A page, what it asked for, and what went wrong in it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        """Go there, and wait for the picture."""
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#content:not([hidden])")


def chromium_path() -> str:
    """The program, installed by apt for root on Debian if there is none; CHROMIUM=/path/to/it takes another."""
    return os.environ.get("CHROMIUM") or program(*_NAMES, package="chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. Its own sandbox cannot work for root, and what it opens here is ours."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser: Browser, size: str = "desktop", scheme: Scheme = "light", scale: float = 1) -> Page:
    """An empty page in a context of its own."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        device_scale_factor=scale,
        has_touch=size == "phone",
        is_mobile=size == "phone",
        reduced_motion="reduce",
    )
    context.set_default_timeout(WAIT_MS)
    return context.new_page()


@contextmanager
def opened_pages(browser: Browser) -> Iterator[Callable[..., WatchedPage]]:
    """Opens urls, each in a page of its own; at the end no script may have failed."""
    opened: list[WatchedPage] = []

    def go(url: str, size: str = "desktop", scheme: Scheme = "light") -> WatchedPage:
        opened.append(WatchedPage(new_page(browser, size, scheme)))
        opened[-1].open(url)
        return opened[-1]

    yield go
    for watched in opened:
        watched.page.context.close()
        assert watched.errors == []


def tile(page: Page, name: str) -> Any:
    """The number under this name at the top of the page."""
    return page.locator(".tile", has_text=name).locator(".number")


def hindrances(page: Page) -> list[tuple[str, str]]:
    """What axe finds that hinders people, with the element; each by its rule."""
    found = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


def fits(page: Page) -> bool:
    """Whether nothing is wider than the screen."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))
