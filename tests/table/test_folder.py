"""Whether a folder is ours, what is told of it, and who may write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_curate.checked_file import read_checked, write_checked
from stream_curate.counting import Counter
from stream_curate.errors import ConfigError, OutputError
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.table.folder import Identity, Lock, TableFolder

METADATA = Metadata.from_entries(["dog", "cat"])


@pytest.fixture
def identity() -> Identity:
    rule = Rule.of(METADATA, threshold=3, seed=7, counter=Counter("count-min", 2, 64), dedup="none")
    return Identity(rule, ("lang", "size"))


@pytest.fixture
def folder(tmp_path: Path) -> TableFolder:
    return TableFolder(tmp_path / "t")


def test_what_a_table_was_made_with_is_read_as_it_was_written(folder: TableFolder, identity: Identity) -> None:
    folder.own.mkdir(parents=True)
    folder.create(identity, METADATA)
    assert folder.exists()
    assert folder.identity() == identity
    assert folder.metadata().fingerprint == METADATA.fingerprint


def test_a_new_and_an_empty_folder_are_free(folder: TableFolder) -> None:
    assert not folder.exists()
    folder.root.mkdir()
    assert not folder.exists()


def test_a_creation_that_was_interrupted_is_begun_again(folder: TableFolder, identity: Identity) -> None:
    """The identity is written last; without it nothing counts."""
    folder.own.mkdir(parents=True)
    METADATA.save(folder.metadata_file)
    assert not folder.exists()
    with pytest.raises(ConfigError, match="holds no curated table"):
        folder.identity()
    folder.create(identity, METADATA)
    assert folder.identity() == identity


def test_a_folder_or_file_of_somebody_else_is_refused(folder: TableFolder) -> None:
    folder.root.write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        folder.exists()
    folder.root.unlink()
    (folder.root / "_delta_log").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is a Delta table that stream-curate did not make"):
        folder.exists()
    (folder.root / "_delta_log").rename(folder.root / "photos")
    with pytest.raises(ConfigError, match="is a folder with other files that stream-curate did not make"):
        folder.exists()


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_identity_is_refused_in_words(folder: TableFolder, identity: Identity, damage: str) -> None:
    folder.own.mkdir(parents=True)
    folder.create(identity, METADATA)
    data = bytearray(folder.identity_file.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 1
    folder.identity_file.write_bytes({"cut": data[:-5], "bit": data, "empty": b""}[damage])
    with pytest.raises(OutputError, match="Curate again into a new folder"):
        folder.identity()


def test_another_format_version_is_refused_naming_both(folder: TableFolder, identity: Identity) -> None:
    folder.own.mkdir(parents=True)
    folder.create(identity, METADATA)
    header, _ = read_checked(folder.identity_file)
    write_checked(folder.identity_file, header | {"format_version": 2})
    with pytest.raises(ConfigError, match="format version 2; this program reads and writes version 1"):
        folder.identity()


def test_one_writer_at_a_time(folder: TableFolder) -> None:
    lock = Lock(folder)
    with pytest.raises(OutputError, match="is in use: another stream-curate writes to it"):
        Lock(folder)
    lock.release()
    Lock(folder).release()
