"""Programs from Debian's packages: those of the machine, or installed by apt where that is allowed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

APT_LOCK = Path(tempfile.gettempdir()) / "stream-curate-apt.lock"
_ATTEMPTS = 5


def program(*names: str, package: str) -> str:
    """The path of the first of these programs that is there; else `package` is installed, for root on Debian.

    Raises:
        RuntimeError: when none is there and none can be had.
    """
    found = _found(names)
    if found:
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(f"{names[0]} is needed (Debian: apt-get install {package})")
    with apt_lock():  # the other half of the tests may do the same at this moment
        words = ""
        for attempt in range(_ATTEMPTS):  # someone else's apt may be at work, or the network away for a moment
            if found := _found(names):
                return found
            time.sleep(5 * attempt)
            words = update_lists() or _apt(
                "install", "--yes", "--no-install-recommends", "-oDPkg::Lock::Timeout=300", package
            )
        found = _found(names)
    if not found:
        raise RuntimeError(words)
    return found


@contextmanager
def apt_lock() -> Iterator[None]:
    """Nobody else of these tests is at apt meanwhile."""
    with open(APT_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def update_lists() -> str:
    """Bring apt's lists up to date; what went wrong, or ""."""
    return _apt("update", "--error-on=any")


def _apt(*words: str) -> str:
    command = ["apt-get", *words]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}" if done.returncode else ""


def _found(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)
