"""A file that only grows: what was marked is there after a crash, and what came later is gone."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.checked_file import DamagedFile
from stream_curate.table import append_file
from stream_curate.table.append_file import AppendFile, Mark, read_marked


def read(path: Path, mark: Mark) -> bytes:
    return b"".join(read_marked(path, mark))


def written(path: Path, *pieces: bytes) -> Mark:
    """Write the pieces; the mark after the last but one, so that the last came after the checkpoint."""
    file = AppendFile(path, Mark())
    for piece in pieces[:-1]:
        file.append(piece)
    mark = file.mark()
    file.append(pieces[-1])
    file.close()
    return mark


@given(pieces=st.lists(st.binary(max_size=20), max_size=6), after=st.binary(max_size=20), data=st.data())
def test_a_file_opened_at_a_mark_goes_on_from_there(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], after: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "appended.bin"
    file = AppendFile(path, Mark())
    marks = [file.mark()]
    for piece in pieces:
        file.append(piece)
        marks.append(file.mark())
    file.close()

    resumed_at = data.draw(st.integers(0, len(pieces)))
    resumed = AppendFile(path, marks[resumed_at])
    resumed.append(after)
    mark = resumed.mark()
    resumed.close()

    expected = b"".join(pieces[:resumed_at]) + after
    assert path.read_bytes() == read(path, mark) == expected
    assert mark == Mark(len(expected), xxhash.xxh3_128_hexdigest(expected))
    for known in marks[: resumed_at + 1]:
        assert read(path, known) == expected[: known.n_bytes]


def test_what_came_after_the_mark_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "seen.bin"
    mark = written(path, b"counts", b"does not count")
    assert path.read_bytes() == b"countsdoes not count"
    assert read(path, mark) == b"counts"

    AppendFile(path, mark).close()

    assert path.read_bytes() == b"counts"


def test_an_empty_mark_begins_anew(tmp_path: Path) -> None:
    """Also over a file that a crash left before the first checkpoint."""
    path = tmp_path / "seen.bin"
    assert read(path, Mark()) == b""
    path.write_bytes(b"left behind")
    assert read(path, Mark()) == b""

    AppendFile(path, Mark()).close()

    assert path.read_bytes() == b""


def test_every_flipped_bit_below_the_mark_is_noticed_and_nothing_is_cut_then(tmp_path: Path) -> None:
    path = tmp_path / "seen.bin"
    mark = written(path, b"counts", b"later")
    data = path.read_bytes()
    for bit in range(8 * mark.n_bytes):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        for use in (read, AppendFile):
            with pytest.raises(DamagedFile, match=r"seen\.bin does not match its checksum"):
                use(path, mark)
        assert path.read_bytes() == changed


def test_a_file_that_is_too_short_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seen.bin"
    mark = written(path, b"counts", b"")
    for n_bytes in range(mark.n_bytes):
        path.write_bytes(b"counts"[:n_bytes])
        with pytest.raises(DamagedFile, match="is cut short"):
            AppendFile(path, mark)
    path.unlink()
    with pytest.raises(DamagedFile, match=r"seen\.bin is missing"):
        AppendFile(path, mark)
    assert not path.exists()


def test_chunks_do_not_cut_a_hash_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of 8 bytes are read from them; whatever the chunks, all of them are below the mark."""
    assert append_file._CHUNK_BYTES % 8 == 0
    monkeypatch.setattr(append_file, "_CHUNK_BYTES", 16)
    path = tmp_path / "seen.bin"
    mark = written(path, bytes(range(40)), b"later")

    assert [len(chunk) for chunk in read_marked(path, mark)] == [16, 16, 8]
    assert read(path, mark) == bytes(range(40))


def test_a_mark_is_given_once_the_bytes_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    file = AppendFile(tmp_path / "seen.bin", Mark())
    file.append(b"counts")
    file.mark()
    file.close()

    assert synced[-1] == 6, "the folder is synced before, when the file is made"


def test_a_mark_stands_in_a_state_as_it_is() -> None:
    mark = Mark(6, xxhash.xxh3_128_hexdigest(b"counts"))

    assert Mark(**asdict(mark)) == mark
    assert Mark() == Mark(0, xxhash.xxh3_128_hexdigest(b""))
