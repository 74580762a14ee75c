"""What tests of the commands share: the command line run in this process or in one of its own, and input for it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from stream_curate.cli import main

TESTS = Path(__file__).parent
SHARDS = TESTS / "shards"
GOLDEN_METADATA = TESTS / "golden" / "golden-metadata.txt"
N_SHARD_ROWS = 25_833

ENTRIES = ["dog", "cat", "in the", "park", "zebra", "blue", "red", "a", "hot dog"]

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """All that was written, each run of spaces, line ends and box lines as one space."""
        return re.sub(r"[\s│╭╮╰╯─]+", " ", self.out + "\n" + self.err)

    def ended(self, code: int) -> Outcome:
        """Itself, if it ended with `code`."""
        assert self.code == code, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err
        return self


def run(*arguments: object, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Outcome:
    """Run `stream-curate` in this process, with no other settings in the environment than these."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with _alone(arguments, stdin, environment or {}), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start `stream-curate` as a process of its own."""
    command = [sys.executable, "-m", "stream_curate", *map(str, arguments)]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options)


def outcome_of(process: subprocess.Popen[bytes], timeout_s: float = 60) -> Outcome:
    """Wait for the end of a process."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Outcome(process.returncode, (out or b"").decode(), (err or b"").decode())


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes], timeout_s: float = 30) -> None:
    """Wait until `condition` holds while the process runs; both its end and the limit are failures."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the process has ended: {outcome_of(process)}")
        if time.monotonic() > end_s:
            process.kill()
            raise AssertionError(f"not within {timeout_s} s: {outcome_of(process)}")
        time.sleep(0.002)


def newest_version(out: Path) -> int:
    """The newest Delta version in the folder `out`, -1 if there is none: from the names in its log alone."""
    try:
        names = os.listdir(out / "_delta_log")
    except FileNotFoundError:
        return -1
    return max((int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.json", name)), default=-1)


def curate_shards(out: Path, *flags: object, sources: Iterable[Path] = (SHARDS,)) -> Any:
    """Curate the shards with the golden metadata; returns what --json reports."""
    rule = ["--metadata", GOLDEN_METADATA, "-t", 20, "--seed", 7, "--counter", "exact"]
    return run("curate", *sources, "--columns", "caption,url", "--out", out, *rule, *flags, "--json").ended(0).json


def offline_digest(sources: Iterable[object], *flags: object, out: Path) -> str:
    """The digest that `stream-curate offline` gives; it writes to `out`."""
    report = run("offline", *sources, "--out", out, *flags, "--json").ended(0).json
    return str(report["digest"])


def inspect_json(out: Path, *flags: object) -> Any:
    """What `stream-curate inspect --json` reports."""
    return run("inspect", out, *flags, "--json").ended(0).json


def crawl(n_pairs: int, first: int = 0) -> list[tuple[str, str]]:
    """Pairs made up, with entries of ENTRIES that are frequent, rare, and none at all."""
    texts = ["a dog in the park", "a blue cat", "hot dog , red", "a dog", "no match", "a red dog in the park"]
    return [
        (f"http://x.org/{i}", "a zebra" if i % 97 == 5 else texts[i * i % 11 % len(texts)])
        for i in range(first, first + n_pairs)
    ]


def write_csv(path: Path, pairs: Pairs) -> Path:
    """A csv file with the columns url, caption."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("url", "caption"), *pairs])
    return path


def write_parquet(path: Path, pairs: Pairs, **more: list[Any]) -> Path:
    """A parquet file with the columns url, caption, and `more`."""
    urls, texts = (list(column) for column in zip(*pairs, strict=True))
    pq.write_table(pa.table({"url": urls, "caption": texts, **more}), path)
    return path


def write_metadata(path: Path, entries: Iterable[str] = ENTRIES) -> Path:
    """A list of entries, one a line."""
    path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    return path


def small_table(folder: Path, n_pairs: int = 300, *flags: object) -> tuple[Path, Path]:
    """The folder of a table that is settled, at t=5 with seed 7 and exact counts, and the file it was made from."""
    source = write_csv(folder / "crawl.csv", crawl(n_pairs))
    metadata = write_metadata(folder / "entries.txt")
    rule = ["--metadata", metadata, "-t", 5, "--seed", 7, "--counter", "exact"]
    run("curate", source, "--out", folder / "t", *rule, *flags).ended(0)
    return folder / "t", source


@contextmanager
def _alone(arguments: tuple[object, ...], stdin: bytes, environment: Mapping[str, str]) -> Iterator[None]:
    """What the command sees of its process; the log goes back to where it went before."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
    logging = structlog.get_config()
    with (
        mock.patch.dict(os.environ, clean | dict(environment), clear=True),
        mock.patch.object(sys, "argv", ["stream-curate", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
    ):
        try:
            yield
        finally:
            structlog.configure(**logging)
