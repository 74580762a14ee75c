"""The programs that check the deployment's files, each fetched once by its registry's own client, with its checksum.

They lie in the user's cache folder, under a name that changes with what they are made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from debian import apt_lock, program, update_lists
from deploy.manifests import REPOSITORY

HERE = Path(__file__).resolve().parent
TOOL_REQUIREMENTS = REPOSITORY / "requirements" / "tools.txt"
FETCH_WITHIN_S = 500
BASE_PACKAGES = (
    *("python3.11", "python3.11-venv", "libstdc++6", "base-files", "base-passwd"),
    *("coreutils", "dash", "findutils", "grep", "libc-bin", "sed"),
)


def tool_python() -> Path:
    """A Python with the packages of requirements/tools.txt, each checked against its hash."""

    def make(folder: Path) -> None:
        _call([sys.executable, "-m", "venv", "--without-pip", folder])
        pip = [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--disable-pip-version-check"]
        _call([*pip, "--require-hashes", "--only-binary", ":all:", "-r", TOOL_REQUIREMENTS])

    return _cached("python", [TOOL_REQUIREMENTS], make) / "bin" / "python"


def kustomize() -> Path:
    """kustomize, built of the modules whose checksums stand in kustomize_module/go.sum."""
    module = HERE / "kustomize_module"

    def make(folder: Path) -> None:
        build = ["go", "build", "-mod=readonly", "-trimpath", "-o", folder / "kustomize"]
        _call([*build, "sigs.k8s.io/kustomize/kustomize/v5"], cwd=module)

    return _cached("kustomize", [module / "go.mod", module / "go.sum"], make) / "kustomize"


def node_validators() -> Path:
    """The folder with the packages of schemas/package-lock.json, each checked against its hash."""
    wanted = [HERE / "schemas" / "package.json", HERE / "schemas" / "package-lock.json"]

    def make(folder: Path) -> None:
        for path in wanted:
            shutil.copy(path, folder)
        _call(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder)

    return _cached("node", wanted, make)


def promtool() -> Path:
    """promtool: the machine's, or that of Debian's package `prometheus`, which apt checks against its signed lists."""
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)

    def make(folder: Path) -> None:
        with apt_lock():
            if call(["apt-get", "download", "prometheus"], cwd=folder).returncode:
                update_lists()  # there were none, or they name a version that is gone
                _call(["apt-get", "download", "prometheus"], cwd=folder)
        (package,) = folder.glob("prometheus_*.deb")
        _call(["dpkg-deb", "-x", package, folder])
        package.unlink()

    return _cached("prometheus", [], make) / "usr" / "bin" / "promtool"


def base_root() -> Path:
    """A tar file of what the image is built on: Debian's Python 3.11, what that needs, and a shell.

    Its packages are checked against Debian's signed lists, and unpacked without being set up: what they would do then
    is of no use here, and takes minutes on a slow disk.
    """

    def make(folder: Path) -> None:
        debootstrap = [program("mmdebstrap", package="mmdebstrap"), "--quiet", "--variant=extract", "--mode=root"]
        _call([*debootstrap, f"--include={','.join(BASE_PACKAGES)}", "bookworm", folder / "base.tar"])

    return _cached("base", [Path(__file__)], make) / "base.tar"


def call(command: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program, whatever comes of it."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


def rendered(overlay: Path) -> list[dict[str, Any]]:
    """The resources that kustomize makes of an overlay."""
    done = call([kustomize(), "build", overlay])
    assert done.returncode == 0, done.stderr
    as_json = call([tool_python(), HERE / "check_schemas.py", "--to-json"], input=done.stdout)
    assert as_json.returncode == 0, as_json.stderr
    found: list[dict[str, Any]] = json.loads(as_json.stdout)
    return found


def _cached(name: str, made_of: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made when it is not there; tests that run side by side wait for each other."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stream-curate" / "test-tools"
    folder = cache / f"{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)
        (folder / "complete").touch()
    return folder


def _call(command: Sequence[object], **options: Any) -> None:
    done = call(command, timeout=FETCH_WITHIN_S, **options)
    assert done.returncode == 0, f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3_000:]}"
