"""How a table grew: the numbers that its commits carry."""

from __future__ import annotations

import itertools
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from stream_curate.table.delta import LOG

MAX_POINTS = 600
MAX_COMMITS_READ = 1_000
_N_NEWEST = 100
_COMMIT = re.compile(r"(\d{20})\.json")
_MAX_LINE_BYTES = 8 * 2**20
_CLOCK_STEP_S = 2.0


@dataclass(frozen=True)
class Point:
    """The numbers after one commit. What a commit of an earlier version did not carry is None.

    `time_ms` is in milliseconds since 1970, UTC; `n_curated` is of the last settled version.
    """

    time_ms: int
    n_read: int
    n_unique: int
    n_admitted: int | None
    n_evicted: int | None
    n_curated: int


class History:
    """The points along a Delta log, as far back as the log goes (7 days, unless the table is told otherwise).

    Work and memory are bounded: of a long log an even part is read, every commit at most once, and older points are
    thinned out.
    """

    def __init__(self, table_folder: Path) -> None:
        self._log = table_folder / LOG
        self._newest = -1
        self._listed_at_ns = -1
        self._points: list[Point] = []

    @property
    def points(self) -> list[Point]:
        """In the order of the commits, at most twice MAX_POINTS."""
        return self._points

    def read_new(self) -> bool:
        """Read the commits that have come since the last time; whether there were any."""
        if not self._may_have_grown():
            return False
        versions = self._new_versions()
        for version in _chosen(versions):
            point = _read_point(self._commit(version))
            if point is not None:
                self._points.append(point)
        if len(self._points) > 2 * MAX_POINTS:
            self._points = [*self._points[:-_N_NEWEST:2], *self._points[-_N_NEWEST:]]
        self._newest = max(versions, default=self._newest)
        return bool(versions)

    def _may_have_grown(self) -> bool:
        """Looks at the folder's time alone, which says nothing about what came within one step of its clock."""
        changed_at_ns = self._log.stat().st_mtime_ns
        if changed_at_ns == self._listed_at_ns and time.time() - changed_at_ns / 1e9 > _CLOCK_STEP_S:
            return False
        self._listed_at_ns = changed_at_ns
        return True

    def _new_versions(self) -> list[int]:
        """Mostly found by their names; the folder, which can hold tens of thousands, is listed only after a gap."""
        if self._newest >= 0:
            following = list(itertools.takewhile(lambda v: self._commit(v).exists(), itertools.count(self._newest + 1)))
            if following:
                return following
        found = map(_COMMIT.fullmatch, os.listdir(self._log))
        return sorted(version for match in found if match and (version := int(match[1])) > self._newest)

    def _commit(self, version: int) -> Path:
        return self._log / f"{version:020d}.json"


def _chosen(versions: list[int]) -> list[int]:
    """At most MAX_COMMITS_READ of these: the newest, and an even part of the rest."""
    if len(versions) <= MAX_COMMITS_READ:
        return versions
    step = -(-(len(versions) - _N_NEWEST) // (MAX_COMMITS_READ - _N_NEWEST))
    return [*versions[:-_N_NEWEST:step], *versions[-_N_NEWEST:]]


def _read_point(commit: Path) -> Point | None:
    """What a commit says of the table's numbers; None if it says nothing, or cannot be read."""
    try:
        with open(commit, "rb") as file:
            while line := file.readline(_MAX_LINE_BYTES):
                if line.startswith(b'{"commitInfo"'):
                    return _point_of(orjson.loads(line)["commitInfo"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # cleaned away, torn, or of another program
        return None
    return None


def _point_of(commit_info: dict[str, Any]) -> Point | None:
    ours = orjson.loads(commit_info.get("stream_curate", "{}"))
    settled = ours.get("settled")
    numbers = ours.get("numbers") or settled
    if not numbers:
        return None
    return Point(
        time_ms=int(commit_info["timestamp"]),
        n_read=int(numbers["n_read"]),
        n_unique=int(numbers["n_unique"]),
        n_admitted=numbers.get("n_admitted"),
        n_evicted=numbers.get("n_evicted"),
        n_curated=int(numbers["n_curated"]),
    )
