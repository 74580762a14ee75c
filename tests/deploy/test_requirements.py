"""What goes into the image is pinned, with hashes, and is what pyproject.toml asks for."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from deploy.manifests import REPOSITORY
from deploy.tools import call, tool_python

REQUIREMENTS = REPOSITORY / "requirements"


def pinned(name: str) -> dict[str, str]:
    """The version of each package of a file, each with at least one hash."""
    text = (REQUIREMENTS / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            match = re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", line)
            assert match, line
            assert "--hash=sha256:" in line, line
            found[match[1]] = match[2]
    return found


def test_all_is_pinned_with_hashes_and_without_an_address() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        assert pinned(path.name)
        assert "://" not in path.read_text()


def test_the_image_has_what_the_project_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["kafka"]]
    versions = pinned("image.txt")
    for requirement in wanted:
        name, exactly = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:==([^;\s,]+))?", requirement).groups()  # type: ignore[union-attr]
        assert name in versions, f"{name}: make lock"
        assert exactly in (None, versions[name]), f"{name}: make lock"
    assert pinned("build.txt")["hatchling"] == project["build-system"]["requires"][0].partition("==")[2]


@pytest.mark.slow
def test_the_bill_of_materials_lists_the_image(tmp_path: Path) -> None:
    """`make sbom`, with the tools that are here already."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "bin").symlink_to(tool_python().parent)
    (tmp_path / "tools" / "ready").touch()
    bill = tmp_path / "out" / "sbom.json"
    made = call(["make", "sbom", f"TOOLS={tmp_path}", f"SBOM={bill}"], cwd=REPOSITORY)
    assert made.returncode == 0, made.stdout + made.stderr

    found = json.loads(bill.read_text())
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "stream-curate"
    assert {each["name"]: each["version"] for each in found["components"]} == pinned("image.txt")
    assert all(each["purl"].startswith("pkg:pypi/") for each in found["components"])
    assert all(reference["hashes"] for each in found["components"] for reference in each["externalReferences"])
