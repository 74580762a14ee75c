"""Tests of where shipped files are found: in a checkout, and in an installed wheel."""

from pathlib import Path

import pytest

from stream_curate import shipped
from stream_curate.shipped import shipped_path


def test_in_a_checkout_the_folders_of_the_repository_are_used() -> None:
    assert shipped_path("metadata/english.txt.zst").is_file()


def test_in_a_wheel_only_the_wheel_s_own_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "stream_curate"
    ours = package / "shipped_files" / "config" / "default.yaml"
    other = tmp_path / "site-packages" / "config" / "default.yaml"
    stray = tmp_path / "site-packages" / "metadata" / "english.txt.zst"
    for path in (ours, other, stray):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(shipped, "_PACKAGE", package)

    assert shipped_path("config/default.yaml") == ours
    with pytest.raises(FileNotFoundError, match="reinstall the package"):
        shipped_path("metadata/english.txt.zst")


@pytest.mark.parametrize("relative", ["metadata/klingon.txt.zst", "metadata"])
def test_what_is_not_shipped_is_refused_in_words(relative: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{relative} comes with stream-curate but is not at /.*{relative}"):
        shipped_path(relative)
