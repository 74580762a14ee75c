"""The picture that a thread keeps up to date."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import orjson
import pytest
from command_line import crawl, run, write_csv, write_metadata

from stream_curate.errors import ConfigError, OutputError
from stream_curate.page import live as module
from stream_curate.page.live import LivePicture


@pytest.fixture
def live(table: Path) -> Iterator[LivePicture]:
    started = LivePicture(table, refresh_s=0.02)
    yield started
    started.close()


def wait_for(live: LivePicture, condition: Callable[[dict[str, object]], object]) -> dict[str, object]:
    end_s = time.monotonic() + 30
    while not condition(values := orjson.loads(live.newest().body)):
        assert time.monotonic() < end_s, values
        time.sleep(0.01)
    return values


def test_the_first_picture_is_waited_for_and_the_curves_follow(live: LivePicture) -> None:
    first = orjson.loads(live.newest().body)
    assert first["picture"]["numbers"]["n_read"] == 622
    wait_for(live, lambda values: values["picture"]["balance"] is not None)


def test_the_tag_changes_with_the_picture_alone(live: LivePicture) -> None:
    wait_for(live, lambda values: values["picture"]["balance"] is not None)
    published = live.newest()
    time.sleep(0.1)
    assert live.newest() == published


def test_what_goes_wrong_is_told_and_the_picture_stays(live: LivePicture, monkeypatch: pytest.MonkeyPatch) -> None:
    live.newest()

    for failure in (OutputError("the disk \u202e is gone"), ValueError("x")):
        monkeypatch.setattr(live.table, "refresh", mock.Mock(side_effect=failure))
        values = wait_for(live, lambda values: values["trouble"])
        assert values["picture"]["numbers"]["n_read"] == 622
        assert "\u202e" not in values["trouble"]
        monkeypatch.undo()
        wait_for(live, lambda values: not values["trouble"])


def test_nothing_is_read_while_nobody_looks(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT_S", 0.1)
    live = LivePicture(table, refresh_s=0.01)
    try:
        wait_for(live, lambda values: values["picture"]["balance"] is not None)
        time.sleep(0.3)
        monkeypatch.setattr(live.table, "refresh", lambda: pytest.fail("read while nobody looks"))
        time.sleep(0.2)
    finally:
        monkeypatch.undo()
        live.close()


def test_a_table_without_a_commit_is_waited_for(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(20))
    metadata = write_metadata(tmp_path / "entries.txt")
    curate = ["curate", source, "--out", tmp_path / "t", "--metadata", metadata, "--counter", "exact"]
    run(*curate).ended(0)
    log = tmp_path / "t" / "_delta_log"
    log.rename(tmp_path / "aside")
    live = LivePicture(tmp_path / "t", refresh_s=0.02)
    try:
        values = orjson.loads(live.newest().body)
        assert values["picture"] is None
        assert "nothing has been committed" in values["trouble"]
        (tmp_path / "aside").rename(log)
        wait_for(live, lambda values: values["picture"] is not None and not values["trouble"])
    finally:
        live.close()


def test_no_table_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        LivePicture(tmp_path)


def test_closing_ends_the_threads_at_once(table: Path) -> None:
    live = LivePicture(table)
    live.newest()
    began_s = time.monotonic()
    live.close()
    assert time.monotonic() - began_s < 5
    assert not any(thread.is_alive() for thread in live._threads)
