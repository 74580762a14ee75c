"""Pictures of the page and of the report, from the shipped shards: `make screenshots`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from command_line import SHARDS
from page_browser import SCHEMES, SIZES, chromium, new_page
from playwright.sync_api import Page

from stream_curate.page import serve_page, write_report

THRESHOLD = 2
TEXT = "a red fox sleeping in the snow at sunset"
# many checkpoints and settles, as a long run has them
PACE = {
    "batch_size": 800,
    "checkpoint_interval_s": 0,
    "first_settle_records": 4_000,
    "settle_growth": 1.3,
    "settle_share": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/screenshots"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    table = out / "shards"
    shutil.rmtree(table, ignore_errors=True)
    curate(table, out / "pace.yaml")
    write_report(table, out / "report.html")
    server = serve_page(table, port=0)
    try:
        with chromium() as browser:
            for size in SIZES:
                for scheme in SCHEMES:
                    page = new_page(browser, size, scheme, scale=2 if size == "phone" else 1.5)
                    show(page, server.url)
                    page.fill("#text", TEXT)
                    page.locator("#matched .number").wait_for()
                    page.locator("#text").blur()
                    shoot(page, out / f"page-{size}-{scheme}.png")
                    if size == "desktop":
                        show_off(page, out / f"readme-{scheme}.png")
                    page.context.close()
                page = new_page(browser, size, scale=1.5)
                show(page, (out / "report.html").resolve().as_uri())
                shoot(page, out / f"report-{size}.png")
                page.context.close()
    finally:
        server.close()
    print(f"{len(list(out.glob('*.png')))} pictures in {out}")


def curate(table: Path, settings: Path) -> None:
    """A table of all shards."""
    settings.write_text("".join(f"{key}: {value}\n" for key, value in PACE.items()), encoding="utf-8")
    command = [sys.executable, "-m", "stream_curate", "curate", SHARDS, "--columns", "caption,url", "--out", table]
    subprocess.run([*command, "--threshold", str(THRESHOLD), "--config", settings], check=True)


def show(page: Page, url: str) -> None:
    """Open the page and wait until all of it is drawn."""
    page.goto(url)
    for chart in ("read", "kept", "cumulative", "ranks"):
        page.locator(f"#{chart}-chart svg").wait_for()


def shoot(page: Page, path: Path) -> None:
    """The first screen, as it is seen, and under another name the whole page."""
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(100)  # until the header has followed
    page.screenshot(path=path)
    page.screenshot(path=path.with_stem(f"{path.stem}-whole"), full_page=True)


def show_off(page: Page, path: Path) -> None:
    """The numbers, the stream, and head and tail: down to where these end."""
    end = page.locator("#ranks-chart").evaluate("chart => chart.closest('section').getBoundingClientRect().bottom")
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": end + 16}
    page.screenshot(path=path, full_page=True, clip=clip)


if __name__ == "__main__":
    main()
