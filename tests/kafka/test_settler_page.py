"""The settler's page in a real Chromium, while a real stream goes through broker, worker and settler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import SHARDS, outcome_of, start
from deploy.watched import Watched
from kafka_curation import RULE, SETTLER_PACE, short_times
from kafka_fleet import Fleet
from kafka_topics import environment
from page_browser import SCHEMES, SIZES, WatchedPage, chromium, fits, hindrances, opened_pages, tile
from playwright.sync_api import expect

from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.page import write_report

pytestmark = pytest.mark.slow

WAIT_S = 60.0
WAIT_MS = 1_000 * WAIT_S
CHARTS = ("read", "kept", "cumulative", "ranks")
FIRST = (SHARDS / "gcc-validation.tsv", SHARDS / "gcc-validation.jsonl")
SECOND = SHARDS / "laion-10k.parquet"


@pytest.fixture
def settings(broker: str) -> KafkaSettings:
    made = short_times(broker, partitions=4, session_timeout_s=11.0, http_port=0)
    create_topics(made)
    return made


@pytest.fixture
def open_page() -> Iterator[Callable[..., WatchedPage]]:
    with chromium() as browser, opened_pages(browser) as go:
        yield go


def produce(settings: KafkaSettings, *sources: Path) -> int:
    """Send files as a crawler does; returns how many pairs were sent."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
    words = ["--columns", "caption,url", "--format", "arrow", "--json"]
    process = start("produce", *sources, *words, env=clean | dict(environment(settings)))
    return int(outcome_of(process, 2 * WAIT_S).ended(0).json["n_sent"])


def test_it_shows_the_stream_as_it_goes_on_desktop_and_phone(
    settings: KafkaSettings, open_page: Callable[..., WatchedPage], tmp_path: Path
) -> None:
    out = tmp_path / "table"
    with Fleet(tmp_path / "fleet", settings, RULE) as fleet:
        settler = Watched(fleet.settler("settler", out, **SETTLER_PACE).log)
        fleet.worker("worker")
        fleet.wait_for(lambda: settler.says("/readyz", 200), WAIT_S, "the settler to be ready", every_s=0.2)
        url = f"http://127.0.0.1:{settler.port}/"

        n_sent = produce(settings, *FIRST)
        opened = {size: open_page(url, size) for size in SIZES}
        for each in opened.values():
            expect(tile(each.page, "Records read")).to_have_text(f"{n_sent:,}", timeout=WAIT_MS)
            expect(tile(each.page, "Curated")).not_to_have_text("0", timeout=WAIT_MS)
            each.page.evaluate("window.mark = 'the document of then'")

        n_sent += produce(settings, SECOND)
        assert n_sent > 25_000
        for each in opened.values():
            expect(tile(each.page, "Records read")).to_have_text(f"{n_sent:,}", timeout=WAIT_MS)
        for each in opened.values():
            page = each.page
            for chart in CHARTS:
                expect(page.locator(f"#{chart}-chart svg")).to_be_visible(timeout=WAIT_MS)
            page.locator("#more").click()
            expect(page.locator("#decisions .b-evicted").first).to_be_visible(timeout=WAIT_MS)
            page.fill("#text", "a dog in the park")
            expect(page.locator("#matched .number")).to_contain_text("P(keep)", timeout=WAIT_MS)
            assert page.evaluate("window.mark") == "the document of then"
            assert fits(page)
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                assert hindrances(page) == []
            assert all(asked.startswith(url) for asked in each.requests)
        for name in ("worker", "settler"):
            assert fleet.terminate(name, WAIT_S) == 0

    write_report(out, tmp_path / "report.html")
    for size in SIZES:
        page = open_page((tmp_path / "report.html").as_uri(), size).page
        expect(tile(page, "Records read")).to_have_text(f"{n_sent:,}")
        assert fits(page)
        assert hindrances(page) == []
