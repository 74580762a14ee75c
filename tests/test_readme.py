"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def run(words: list[str] | str, cwd: Path, *, shell: bool = False) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        words, shell=shell, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_commands_on_the_shards_run_as_they_stand_and_agree(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("sh") if "stream-curate curate tests/shards" in block]
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "shards").symlink_to(ROOT / "tests" / "shards")
    (tmp_path / "out").mkdir()
    said = run(f"set -e\n{block}", tmp_path, shell=True)
    digests = set(re.findall(r"digest\s+([0-9a-f]{64})", said))
    assert len(digests) == 1, said
    assert "equal" in said


@pytest.mark.slow
def test_the_kafka_commands_run_as_they_stand_and_agree_with_offline(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("sh") if "make kafka" in block]
    checkout = tmp_path / "checkout"  # with a broker of its own, whatever else runs here
    left_out = shutil.ignore_patterns(".git", ".venv", "out", ".*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, checkout, ignore=left_out)
    (checkout / ".venv").symlink_to(Path(sys.executable).parents[1])
    (checkout / "out" / "kafka").mkdir(parents=True)
    for jars in (ROOT / "out" / "kafka").glob("jars-????????????"):
        (checkout / "out" / "kafka" / jars.name).symlink_to(jars)
    try:
        said = run(f"set -e\n{block}", checkout, shell=True)
    finally:
        run(["make", "kafka-stop"], checkout)
    digests = set(re.findall(r"digest\s+([0-9a-f]{64})", said))
    assert len(digests) == 1, said


@pytest.mark.slow
def test_the_table_of_final_decisions_is_what_make_replay_writes(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "replay $(SHARDS) --decisions final $(FINAL_REPLAY) --seed 7 --out out/replay-final" in makefile
    (flags,) = re.findall(r"^FINAL_REPLAY := (.*)$", makefile, re.M)
    words = ["stream-curate", "replay", "tests/shards", "--columns", "caption,url", "--decisions", "final"]
    run([*words, *flags.split(), "--seed", "7", "--out", str(tmp_path)], ROOT)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") in README


def test_the_library_example_runs_as_it_stands(tmp_path: Path) -> None:
    (block,) = blocks("python")
    said = run([sys.executable, "-c", block], tmp_path)
    n_admitted, n_curated = map(int, re.findall(r"\d+", said))
    assert 0 < n_curated <= n_admitted <= 20


def test_every_command_is_in_the_table_and_every_link_leads_somewhere() -> None:
    from stream_curate.cli import make_app

    app = make_app()
    names = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    (table,) = re.findall(r"\| command \| what it does \|\n.*?\n\n", README, re.S)
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.M))
    assert listed == names
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_number_of_shipped_entries_is_the_one_named() -> None:
    from stream_curate import Metadata

    assert f"{len(Metadata.default()):,} English words" in README
