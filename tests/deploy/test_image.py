"""The image is built from the Dockerfile, and runs as nobody in particular on a root file system that is read-only.

There is no registry and no daemon: the base is a Debian root file system made here, and buildah builds in a chroot.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from debian import program
from deploy.manifests import DEPLOY, REPOSITORY
from deploy.tools import base_root, call, tool_python

pytestmark = pytest.mark.slow

HOW_PIP_GETS_PACKAGES_HERE = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
INSIDE = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -o remount,ro,bind "$1"
root=$1; user=$2; shift 2
exec setpriv --no-new-privs chroot --userspec="$user" "$root" "$@"
"""
SCRIPT = """
set -eu
cd /tmp
test "$(id -u):$(id -g)" = 10001:10001
if touch /written 2>/dev/null; then echo "the root file system is not read-only"; exit 9; fi
printf 'url\\tcaption\\nhttp://example.org/a.jpg\\ta dog\\n' > pairs.tsv
"$0" --version
touch before
"$0" curate pairs.tsv --out table --seed 1 -t 20 --counter exact
echo "compiled anew: $(find /tmp/numba -newer before -type f | wc -l)"
"$0" worker --help > /dev/null
"""


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    checked = call([tool_python().parent / "hadolint", DEPLOY / "Dockerfile"])
    assert (checked.returncode, checked.stdout) == (0, "")


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        root: its root file system.
        config: what it says of how it is run, as the OCI's image format has it.
    """

    root: Path
    config: dict[str, Any]

    @property
    def packages(self) -> Path:
        return self.root / "opt/stream-curate/lib/python3.11/site-packages"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program as a cluster does: as the image's user, without a right to get more, on a read-only root."""
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", INSIDE, "sh"]
        environment = dict(pair.split("=", 1) for pair in self.config["Env"])
        return call([*alone, self.root, self.config["User"], *command], env=environment)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if os.geteuid() != 0 and os.environ.get("CI") != "true":
        pytest.skip("building an image in a chroot needs root")
    folder = tmp_path_factory.mktemp("image")
    store = [program("buildah", package="buildah"), "--root", folder / "store", "--runroot", folder / "run"]
    layers = call([*store, "--storage-driver", "overlay", "info"]).returncode == 0
    store += ["--storage-driver", "overlay" if layers else "vfs"]  # within some containers there is no overlay

    def buildah(*words: object) -> str:
        done = call([*store, *words])
        assert done.returncode == 0, (done.stdout + done.stderr)[-4_000:]
        return done.stdout.strip()

    base = ["FROM scratch", f"ADD {base_root().name} /", "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
    (folder / "Dockerfile").write_text("\n".join(base))
    build = ["build", "--isolation", "chroot"]
    buildah(*build, "-f", folder / "Dockerfile", "-t", "localhost/base", base_root().parent)
    volumes = [f"--volume={path}:{path}:ro" for path in HOW_PIP_GETS_PACKAGES_HERE if Path(path).exists()]
    ignored = ["--ignorefile", DEPLOY / "Dockerfile.dockerignore"]
    arguments = ["--build-arg", "BASE=localhost/base", "-f", DEPLOY / "Dockerfile", "-t", "localhost/image"]
    buildah(*build, *volumes, *ignored, *arguments, REPOSITORY)
    config = json.loads(buildah("inspect", "--type", "image", "localhost/image"))["OCIv1"]["config"]
    container = buildah("from", "--pull-never", "localhost/image")
    try:
        yield Image(Path(buildah("mount", container)), config)
    finally:
        call([*store, "umount", "--all"])
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(1_500)
def test_it_runs_without_rights_on_a_root_that_is_read_only(image: Image) -> None:
    (entrypoint,) = image.config["Entrypoint"]
    ran = image.run("/bin/sh", "-c", SCRIPT, entrypoint)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "stream-curate 0." in ran.stdout
    assert "compiled anew: 0" in ran.stdout


def test_without_a_folder_to_write_to_it_says_so(image: Image) -> None:
    ran = image.run("/usr/bin/env", "NUMBA_CACHE_DIR=/numba", *image.config["Entrypoint"], "--version")
    assert ran.returncode == 3
    assert "mount /tmp" in ran.stderr


def test_what_only_builds_is_not_in_it(image: Image) -> None:
    assert (image.packages / "stream_curate" / "__pycache__").is_dir()  # else each start would compile, and not keep it
    assert not list(image.packages.glob("pip*"))
    assert not list(image.packages.glob("*/tests"))
    assert not list(image.root.glob("src/*"))
    assert not list(image.root.glob("wheels/*"))
