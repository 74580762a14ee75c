"""The page and the report in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import ENTRIES, crawl, outcome_of, run, start, write_metadata, write_parquet
from page_browser import SCHEMES, SIZES, fits, hindrances, tile
from playwright.sync_api import expect

from stream_curate.page import PageServer, write_report

pytestmark = pytest.mark.slow  # a browser is started

Serve = Callable[..., PageServer]
Open = Callable[..., Any]

HOSTILE = [
    ('http://x.org/"><img src=x onerror=window.pwned=1>', "a dog <img src=x onerror=pwned=1>"),
    ("http://x.org/'><svg onload=window.pwned=1>", "a dog </script><script>window.pwned=1</script>"),
    ("http://user:secret@x.org/2", "a dog <a href=javascript:window.pwned=1>x</a> &lt;b&gt; ${window.pwned=1}"),
    ("http://x.org/3?token=hidden", "a dog \u202egnp.exe\u2028\u0000 <style>*{display:none}</style>"),
    ("javascript:window.pwned=1", "a dog <iframe srcdoc='<script>parent.pwned=1</script>'>"),
]


@pytest.mark.parametrize("size", SIZES)
def test_everything_is_shown_and_nothing_hinders_people(size: str, table: Path, serve: Serve, open_page: Open) -> None:
    server = serve(table)
    watched = open_page(server.url, size)
    page = watched.page
    page.fill("#text", "a dog in the park")
    expect(tile(page, "Records read")).to_have_text("622")
    for chart in ("read", "kept", "cumulative", "ranks"):
        expect(page.locator(f"#{chart}-chart svg")).to_be_visible()
    expect(page.locator("#decisions li").first).to_be_visible()
    expect(page.locator("#matched .number")).to_contain_text("P(keep)")
    assert fits(page)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 300) == (scheme == "dark")
        assert hindrances(page) == []
    assert watched.requests
    assert all(url.startswith(server.url) for url in watched.requests)


@pytest.mark.parametrize("size", SIZES)
def test_the_report_looks_the_same_without_any_server(size: str, table: Path, tmp_path: Path, open_page: Open) -> None:
    digest = write_report(table, tmp_path / "report.html")
    watched = open_page((tmp_path / "report.html").as_uri(), size)
    page = watched.page
    expect(tile(page, "Records read")).to_have_text("622")
    expect(page.locator("#cumulative-chart svg")).to_be_visible()
    expect(page.locator("#card")).to_contain_text(digest)
    expect(page.locator("#state")).to_have_text("report")
    expect(page.locator("#text")).to_have_count(0)
    assert hindrances(page) == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []


def test_a_text_shows_what_it_matches_and_never_a_verdict(table: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(serve(table).url).page
    explained = run("explain", table, "--text", "a dog", "--json").ended(0).json
    page.fill("#text", "a dog")
    expect(page.locator("#matched .number")).to_have_text(f"P(keep) {explained['keep_probability']:.1%}")
    rows = page.locator("#matched tbody tr")
    expect(rows).to_have_count(2)
    for entry in explained["matched_entries"]:
        expect(rows.filter(has=page.get_by_role("rowheader", name=entry["entry"], exact=True))).to_contain_text(
            f"{entry['count']:,}"
        )
    assert not re.search("draw|verdict|admitted|kept by", page.locator("#matched").inner_text())
    page.fill("#text", "nothing here")
    expect(page.locator("#matched")).to_contain_text("no entry matches")
    page.fill("#text", "é" * 40_000)
    expect(page.locator("#matched")).to_contain_text("at most 65,536 bytes")
    page.fill("#text", "b " * 5_000)
    expect(page.locator("#matched")).to_contain_text("text_too_long")
    page.fill("#text", "")
    expect(page.locator("#matched")).to_be_empty()


def test_what_the_crawl_brought_is_only_ever_text(tmp_path: Path, serve: Serve, open_page: Open) -> None:
    entries = [*ENTRIES, "<img src=x onerror=pwned=1>", "</script>"]
    root = tmp_path / "<b onclick=pwned>t"
    source = write_parquet(tmp_path / "in.parquet", [*HOSTILE, *crawl(60)])
    metadata = write_metadata(tmp_path / "entries.txt", entries)
    run("curate", source, "--out", root, "--metadata", metadata, "-t", 50, "--counter", "exact").ended(0)
    report = tmp_path / "report.html"
    write_report(root, report)
    for url in (serve(root).url, report.as_uri()):
        page = open_page(url).page
        page.locator("#decisions li").first.wait_for()
        if page.locator("#text").count():
            page.fill("#text", HOSTILE[0][1])
            expect(page.locator("#matched")).to_contain_text("<img src=x onerror=pwned=1>")
        expect(page.locator("#least-seen")).to_contain_text("<img src=x onerror=pwned=1>")
        expect(page.locator("#decisions")).to_contain_text("url_scheme")
        shown = page.locator("body").inner_text()
        assert page.evaluate("window.pwned") is None
        assert page.locator("main a, main img, main iframe, main style, main script, main [onclick]").count() == 0
        assert "secret" not in shown
        assert "hidden" not in shown
        assert "\u202e" not in shown
        assert "<b onclick=pwned>t" in shown


def test_hostile_rows_are_among_the_samples(tmp_path: Path, serve: Serve, open_page: Open) -> None:
    source = write_parquet(tmp_path / "in.parquet", HOSTILE)
    metadata = write_metadata(tmp_path / "entries.txt")
    run("curate", source, "--out", tmp_path / "t", "--metadata", metadata, "-t", 5, "--counter", "exact").ended(0)
    page = open_page(serve(tmp_path / "t").url).page
    expect(page.locator("#decisions .caption", has_text="a dog </script>")).to_contain_text("<script>window.pwned=1")
    expect(page.locator("#decisions .caption", has_text="gnp")).to_contain_text(r"\u202egnp.exe\u2028\x00")
    expect(page.locator("#decisions .url", has_text="@x.org")).to_contain_text("http://***@x.org/2")
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("getComputedStyle(document.body).display") == "block"


def test_the_policy_lets_nothing_out(table: Path, serve: Serve, open_page: Open) -> None:
    page = open_page(serve(table).url).page
    tried = """async () => {
        const broken = new Promise((done) =>
            document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective)));
        const answer = await fetch("http://127.0.0.2:9/").then(() => "out", () => "held");
        return [answer, await broken];
    }"""
    assert page.evaluate(tried) == ["held", "connect-src"]
    assert page.evaluate("try { document.body.innerHTML = '<b>x'; 'written' } catch { 'refused' }") == "refused"


def test_the_last_picture_stays_while_the_server_is_away(table: Path, serve: Serve, open_page: Open) -> None:
    server = serve(table)
    page = open_page(server.url).page
    expect(page.locator("#state")).not_to_have_text("server away")
    server.close()
    expect(page.locator("#state")).to_have_text("server away")
    expect(page.locator("#trouble")).to_contain_text("last picture")
    expect(tile(page, "Records read")).to_have_text("622")
    serve(table, port=server.port)
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#state")).not_to_have_text("server away")


def test_it_updates_by_itself_while_a_stream_runs(tmp_path: Path, serve: Serve, open_page: Open) -> None:
    lines = [json.dumps({"url": url, "text": text}) + "\n" for url, text in crawl(2_000)]
    metadata = write_metadata(tmp_path / "entries.txt")
    rule = ["--metadata", metadata, "-t", 5, "--seed", 7, "--counter", "exact", "--batch-size", 100]
    process = start(
        *["curate", "-", "--format", "jsonl", "--out", tmp_path / "t", "--checkpoint-interval", 0, *rule],
        stdin=-1,
    )
    assert process.stdin is not None
    try:
        process.stdin.write("".join(lines[:500]).encode())
        process.stdin.flush()
        while not (tmp_path / "t" / "_stream_curate" / "table.bin").exists():
            assert process.poll() is None
        page = open_page(serve(tmp_path / "t").url).page
        # what has come, to the last whole batch; the rest of a batch may wait for more
        expect(tile(page, "Records read")).to_have_text(re.compile("^[45]00$"), timeout=60_000)
        expect(tile(page, "Curated")).to_have_text("0")
        expect(page.locator("#cumulative-chart")).to_contain_text("once the table has been settled")
        expect(page.locator("#decisions .badge").first).to_have_text("admitted")
        process.stdin.write("".join(lines[500:]).encode())
        process.stdin.close()
        process.stdin = None
        expect(tile(page, "Records read")).to_have_text("2,000", timeout=60_000)
        expect(page.locator("#cumulative-chart svg")).to_be_visible(timeout=60_000)
        expect(page.locator("#read-chart svg")).to_be_visible()
        expect(page.locator("#state")).to_have_text("live")
        more = page.locator("#more")
        if more.is_visible():  # of a stream that is soon over it has seen too few decisions to fold any
            more.click()
        # those that it saw admitted were judged at the settle
        expect(page.locator(".b-evicted").first).to_be_visible()
        row = page.locator("#decisions li", has=page.locator(".b-evicted")).first
        expect(row.locator(".url")).not_to_contain_text("http")
    finally:
        process.kill() if process.poll() is None else None
        outcome_of(process)


@pytest.fixture(scope="module")
def final_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 pairs of a pool of 1,000, decided on for good at t=5."""
    folder = tmp_path_factory.mktemp("final")
    source = write_parquet(folder / "crawl.parquet", crawl(600))
    metadata = write_metadata(folder / "entries.txt")
    rule = ["--metadata", metadata, "-t", 5, "--seed", 7, "--decisions", "final", "--pool-size", 1000]
    run("curate", source, "--out", folder / "t", *rule).ended(0)
    return folder / "t"


def test_of_final_decisions_nothing_is_told_as_if_it_could_go_again(
    final_table: Path, serve: Serve, open_page: Open, tmp_path: Path
) -> None:
    page = open_page(serve(final_table).url).page
    explained = run("explain", final_table, "--text", "a dog", "--json").ended(0).json
    expect(tile(page, "Pool size")).to_have_text("1,000")
    expect(tile(page, "Accepted")).to_be_visible()
    expect(page.locator("#card")).to_contain_text("final: no pair is taken back")
    expect(page.locator("#card")).to_contain_text("1,000 pairs, horizon endless")
    expect(page.locator("#cumulative-words")).to_contain_text("matched more than t·n/N = 3 times")
    expect(page.locator("#decisions li .reason").first).to_contain_text("Accepted for good when it came")
    page.fill("#text", "a dog")
    expect(page.locator("#matched .number")).to_have_text(f"P(accept) now {explained['keep_probability']:.1%}")
    assert not re.search("evicted|pending", page.locator("main").inner_text(), re.I)

    write_report(final_table, tmp_path / "report.html")
    page = open_page((tmp_path / "report.html").as_uri()).page
    expect(tile(page, "Accepted")).to_be_visible()
    expect(page.locator("#card")).to_contain_text("final: no pair is taken back")
