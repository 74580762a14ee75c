"""The wheel is complete: installed elsewhere, it curates with the list and the settings that it carries."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARDS = ROOT / "tests" / "shards"


def run(*words: str | Path, cwd: Path) -> str:
    result = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_installed_into_a_new_environment_curates(tmp_path: Path) -> None:
    quiet = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *quiet, "wheel", ROOT, "--no-deps", "--wheel-dir", tmp_path, cwd=tmp_path)
    (wheel,) = tmp_path.glob("stream_curate-*.whl")
    venv.create(tmp_path / "new", with_pip=True)
    python = tmp_path / "new" / "bin" / "python"
    run(python, *quiet, "install", wheel, cwd=tmp_path)

    command = tmp_path / "new" / "bin" / "stream-curate"
    info = json.loads(run(command, "metadata", "info", "--json", cwd=tmp_path))
    assert Path(info["file"]).is_relative_to(tmp_path / "new")
    curate = ("curate", SHARDS, "--columns", "caption,url", "--out", "t", "--threshold", "20", "--seed", "7", "--json")
    report = json.loads(run(command, *curate, cwd=tmp_path))
    assert (report["n_read"], report["n_rejected"]) == (25_833, 1)
    assert report["n_curated"] > 0
    find = "from stream_curate.shipped import shipped_path as p; print(p('config/default.yaml'))"
    assert Path(run(python, "-c", find, cwd=tmp_path).strip()).is_relative_to(tmp_path / "new")
