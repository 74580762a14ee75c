"""A file that is written is the old one or the new one, and nothing lies beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_curate.draft import replacing


def test_the_draft_takes_the_place_of_the_file_once_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old")
    with replacing(out) as draft:
        draft.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("written", ["half", None])
def test_when_writing_fails_the_file_is_as_it_was(tmp_path: Path, written: str | None) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old")

    def write() -> None:
        with replacing(out) as draft:
            if written is not None:
                draft.write_text(written)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_where_nothing_can_be_written_the_reason_comes_out(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "out.txt") as draft:
        draft.write_text("new")


def test_two_may_write_the_same_file(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with replacing(out) as first, replacing(out) as second:
        first.write_text("first")
        second.write_text("second")
    assert out.read_text() == "first"
    assert list(tmp_path.iterdir()) == [out]
