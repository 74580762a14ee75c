"""A file of state is whole and right, or it is refused; a crash while writing leaves the one before."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.checked_file import DamagedFile, DiskQueue, read_checked, write_checked

HEADER = {"checkpoint": 3, "name": "é"}
PAYLOAD = b"\x00payload\xff"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abé"), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.bin"
    write_checked(path, HEADER, PAYLOAD)
    return path


@given(header=st.dictionaries(st.sampled_from(["a", "b", "犬"]), JSON), payload=st.binary(max_size=200))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], payload: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "checked.bin"
    write_checked(path, header, payload)

    assert read_checked(path) == (header, payload)


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(
            DamagedFile, match=r"state\.bin (is cut short or not a file of|does not match its checksum)"
        ):
            read_checked(path)
    path.write_bytes(data)
    assert read_checked(path) == (HEADER, PAYLOAD)


def test_every_truncation_and_whatever_is_added_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for wrong in [*(data[:n] for n in range(len(data))), data + b"\x00", data + data, data[1:], b"\x00" + data]:
        path.write_bytes(wrong)
        with pytest.raises(DamagedFile, match=r"state\.bin"):
            read_checked(path)


def test_another_file_is_refused(path: Path) -> None:
    for other in (b"", b"PAR1" * 20, b"SCURATE2" + path.read_bytes()[8:]):
        path.write_bytes(other)
        with pytest.raises(DamagedFile, match="not a file of stream-curate"):
            read_checked(path)


def test_a_missing_file_is_missing_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "nothing.bin")


def test_a_payload_is_not_needed(path: Path) -> None:
    write_checked(path, {})

    assert read_checked(path) == ({}, b"")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_crash_before_the_end_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def crash(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, crash)
        with pytest.raises(OSError, match="power cut"):
            write_checked(path, {"checkpoint": 4}, b"new")
    assert read_checked(path) == (HEADER, PAYLOAD)

    write_checked(path, {"checkpoint": 5}, b"newer")
    assert read_checked(path) == ({"checkpoint": 5}, b"newer")
    assert [file.name for file in path.parent.iterdir()] == ["state.bin"]


def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another order a power cut could leave a name without its bytes, or lose the file."""
    steps = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append(f"fsync {'folder' if target.is_dir() else target.suffix} {os.fstat(descriptor).st_size > 40}")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_checked(path, HEADER, PAYLOAD)

    assert [step.rsplit(" ", 1)[0] for step in steps] == ["fsync .draft", "replace", "fsync folder"]
    assert steps[0] == "fsync .draft True", "all bytes are in the file by then"


# --- files on their way to the disk


def test_all_files_are_on_the_disk_when_the_queue_was_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    paths = [tmp_path / f"{i}.bin" for i in range(9)]
    with closing(DiskQueue()) as disk:
        for path in paths:
            write_checked(path, HEADER, PAYLOAD, force=False)
            assert read_checked(path) == (HEADER, PAYLOAD)
            disk.add(path)
        disk.wait()
        assert sorted(synced) == [str(path) for path in paths]
        disk.wait()
    assert len(synced) == len(paths)


def test_what_cannot_be_forced_to_disk_is_told_when_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name is by then."""

    def fail(descriptor: int) -> None:
        raise OSError("broken")

    path = tmp_path / "0.bin"
    write_checked(path, HEADER)
    with closing(DiskQueue()) as disk:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            disk.add(path)
            path.unlink()
            with pytest.raises(OSError, match="broken"):
                disk.wait()
        disk.wait()
