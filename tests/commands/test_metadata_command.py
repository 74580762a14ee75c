"""`stream-curate metadata`: info, check and build."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import run, write_csv, write_metadata

from stream_curate.metadata import Metadata


def test_info_tells_size_fingerprint_and_examples(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "entries.txt", ["dog", "cat", "zebra"])
    fingerprint = Metadata.from_entries(["dog", "cat", "zebra"]).fingerprint
    report = run("metadata", "info", path, "--json").ended(0).json
    assert report == {
        "file": str(path),
        "n_entries": 3,
        "fingerprint": fingerprint,
        "examples": {"0": "dog", "1": "cat", "2": "zebra"},
    }
    shown = run("metadata", "info", path).ended(0).words
    for word in ("entries 3", "entry 0", "dog", "zebra"):
        assert word in shown
    assert fingerprint in shown.replace(" ", "")


def test_without_a_file_the_shipped_list_is_meant() -> None:
    report = run("metadata", "info", "--json").ended(0).json
    assert report["n_entries"] == len(Metadata.default()) > 300_000
    assert report["fingerprint"] == Metadata.default().fingerprint
    assert run("metadata", "check").ended(0).words.endswith("0 problems, 0 that can never match ")


def test_check_accepts_a_good_list(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "entries.txt", ["dog", "cat"])
    assert "accepted. 2 entries, 0 problems, 0 that can never match" in run("metadata", "check", path).ended(0).words


def test_check_lists_entries_that_can_never_match_and_accepts_them(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "entries.txt", ["dog", "Ph.D."])
    shown = run("metadata", "check", path).ended(0).words
    assert "line 2:" in shown
    assert "1 that can never match" in shown
    report = run("metadata", "check", path, "--json").ended(0).json
    assert [(f["line"], f["problem"], f["preview"]) for f in report["never_matching"]] == [
        (2, "never_matches", "Ph.D.")
    ]


def test_check_refuses_a_bad_list_with_3_and_lists_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "entries.txt"
    path.write_bytes(b"dog\n\nhot\tdog\ndog\n\xff\n" + b"\x1b[31m[/b]\n" * 2)
    refused = run("metadata", "check", path).ended(3)
    assert all(f"line {line}: " in refused.words for line in (2, 3, 4, 5, 7))
    assert "refused. 7 entries, 5 problems" in refused.words
    assert all(line.isprintable() for line in refused.out.splitlines())
    report = run("metadata", "check", path, "--json").ended(3).json
    assert [finding["problem"] for finding in report["problems"]] == [
        "empty",
        "tab_or_line_break",
        "duplicate",
        "invalid_utf8",
        "duplicate",
    ]
    assert report["fingerprint"] is None


def test_check_shortens_a_long_list_of_problems(tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "entries.txt", ["dog"] * 100)
    shown = run("metadata", "check", path).ended(3).words
    assert "and 79 more; --json lists all" in shown
    assert len(run("metadata", "check", path, "--json").ended(3).json["problems"]) == 99


def test_pairs_given_as_metadata_are_refused_in_words(tmp_path: Path) -> None:
    shards = Path(__file__).parents[1] / "shards"
    for command in ("info", "check"):
        refused = run("metadata", command, shards / "laion-10k.parquet").ended(3)
        assert (
            "is this a parquet file of pairs? metadata is the list of entries (concepts), one a line" in refused.words
        )
    source = write_csv(tmp_path / "in.csv", [("http://x.org/1", "a dog")])
    arguments = ["curate", source, "--out", tmp_path / "t", "--metadata", shards / "laion-10k.parquet"]
    assert "is this a parquet file of pairs?" in run(*arguments).ended(3).words


@pytest.mark.parametrize("command", ["info", "check"])
def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path, command: str) -> None:
    assert "No such file" in run("metadata", command, tmp_path / "none.txt").ended(3).words
    (tmp_path / "empty.txt").touch()
    assert "holds no entry" in run("metadata", command, tmp_path / "empty.txt").ended(3).words


@pytest.mark.parametrize("entry", ["[/b]", "[red]", ":dog:", "\x1b[31m", "\u202edog", "a\x9bb"])
def test_entries_are_shown_as_they_are_or_escaped(tmp_path: Path, entry: str) -> None:
    path = write_metadata(tmp_path / "entries.txt", [entry, "dog"])
    shown = run("metadata", "info", path).ended(0).out
    assert all(line.isprintable() for line in shown.splitlines())
    if entry.isprintable():
        assert entry in shown
    as_json = run("metadata", "info", path, "--json").ended(0)
    assert as_json.json["examples"]["0"] == entry
    assert all(line.isprintable() for line in as_json.out.splitlines()), "JSON is printed to terminals too"


WORDNET = {
    "data.noun": "  1 a licence\n00001740 03 n 02 entity 0 Great_Dane 0 000 | that which is\n",
    "data.verb": "00001740 29 v 01 breathe 0 000 | draw air\n",
    "data.adj": "00001740 00 a 01 able(p) 0 000 | having skills\n",
    "data.adv": "00001740 02 r 01 a_cappella 0 000 | without accompaniment\n",
}


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    for name, content in WORDNET.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_build_makes_a_list_that_check_accepts(wordnet: Path) -> None:
    pytest.importorskip("wordfreq")
    out = wordnet / "list.txt.zst"
    shown = run("metadata", "build", "--wordnet", wordnet, "--out", out, "--words", 10).ended(0).words
    metadata = Metadata.load(out)
    assert metadata.entries.to_pylist()[:5] == ["entity", "Great Dane", "breathe", "able", "a cappella"]
    assert f"{len(metadata)} entries in {out}, fingerprint {metadata.fingerprint}" in shown
    run("metadata", "check", out).ended(0)


def test_build_says_what_is_missing(tmp_path: Path, wordnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "list.txt.zst"
    refused = run("metadata", "build", "--wordnet", tmp_path / "none", "--out", out).ended(3)
    assert "wordnet-base" in refused.words
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    refused = run("metadata", "build", "--wordnet", wordnet, "--out", out).ended(3)
    assert "pip install 'stream-curate[metadata-build]'" in refused.words
    assert not out.exists()
    run("metadata", "build", "--wordnet", wordnet).ended(2)
    run("metadata", "build", "--wordnet", wordnet, "--out", out, "--words", 0).ended(2)
