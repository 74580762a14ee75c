"""Log lines go to standard error, one line each, and nothing that was read can write to the terminal through them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from rig import small_stream

from stream_curate.errors import ConfigError
from stream_curate.logs import configure_logs
from stream_curate.open_curation import open_curation
from stream_curate.settings import Settings

HOSTILE = "\x1b[31mred\r\n2020-01-01 [info] forged\x00\x07\x9b\u202e\u2028\u200b\ufeff\x7f"


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_control_characters_from_the_crawl_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """In the message and in every kind of value."""
    configure_logs()
    structlog.get_logger().warning(
        f"read {HOSTILE}",
        text=HOSTILE,
        names=[HOSTILE],
        by_name={HOSTILE: HOSTILE},
        path=Path(HOSTILE),
        raw=HOSTILE.encode(),
        error=ValueError(HOSTILE),
    )

    line = logged(capsys)
    assert line.endswith("\n")
    assert line[:-1].isprintable(), "so it is also one line"
    assert line.count("red") == 8, "nothing was left out"


def test_a_line_tells_time_level_event_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    structlog.get_logger().info("table settled", n_curated=12, source="file:///a dog.tsv")

    line = logged(capsys)
    assert line.startswith("20")
    assert line.split(" ", 1)[0].endswith("Z")
    for piece in ("info", "table settled", "n_curated=12", "a dog.tsv"):
        assert piece in line
    assert "\x1b" not in line, "no colours where nobody watches"


@pytest.mark.parametrize("verbose", [False, True])
def test_details_are_told_only_when_asked_for(capsys: pytest.CaptureFixture[str], verbose: bool) -> None:
    configure_logs(verbose=verbose)
    structlog.get_logger().debug("a detail")

    assert ("a detail" in logged(capsys)) is verbose


def test_the_seed_is_not_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor told in errors: neither as it was given, nor in another notation."""
    configure_logs(verbose=True)
    seed, other = 0xDEAD_BEEF_0BAD_F00D_CAFE_BABE, 0xFEED_FACE_8BAD_F00D
    metadata = tmp_path / "metadata.txt"
    metadata.write_text("dog\ncat\n")
    curation = open_curation(tmp_path / "out", Settings(metadata=metadata, seed=str(seed), counter="exact"))
    try:
        curation.run(small_stream())
    finally:
        curation.table.close()
    with pytest.raises(ConfigError, match="seed: the table has one with fingerprint") as error:
        open_curation(tmp_path / "out", Settings(seed=hex(other), counter="exact"))

    shown = (logged(capsys) + str(error.value) + repr(curation.curator.rule)).lower()
    for secret in (seed, other):
        assert str(secret) not in shown
        assert f"{secret:x}" not in shown


def test_the_public_seed_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    metadata = tmp_path / "metadata.txt"
    metadata.write_text("dog\n")
    open_curation(tmp_path / "out", Settings(metadata=metadata)).table.close()

    assert "the seed is the public default" in logged(capsys)
