"""A real Chromium, headless: Debian's, which is installed where it is missing and that is allowed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WAIT_MS = 20_000

_NAMES = ("chromium", "chromium-headless-shell", "google-chrome")
_INSTALL = (
    ["apt-get", "update", "--error-on=any"],
    ["apt-get", "install", "--yes", "--no-install-recommends", "-oDPkg::Lock::Timeout=300", "chromium"],
)
_ATTEMPTS = 5
APT_LOCK = Path(tempfile.gettempdir()) / "stream-curate-apt.lock"


def chromium_path() -> str:
    """The program, installed by apt for root on Debian if there is none; CHROMIUM=/path/to/it takes another."""
    found = os.environ.get("CHROMIUM") or _installed()
    if found:
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError("Chromium is needed (Debian: apt-get install chromium), or CHROMIUM=/path/to/one like it")
    with open(APT_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other half of the tests may do the same at this moment
        return _installed() or _install()


def _install() -> str:
    words = ""
    for attempt in range(_ATTEMPTS):  # someone else's apt may be at work, or the network away for a moment
        time.sleep(5 * attempt)
        for command in _INSTALL:
            done = subprocess.run(
                command,
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            words = f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}"
            if done.returncode:
                break
        installed = _installed()
        if installed:
            return installed
    raise RuntimeError(words)


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


def _installed() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)
