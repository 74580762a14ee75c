"""What a worker has read of one partition of the ledger, kept on this machine's disk: only a cache.

A worker that gets a partition must know every pair that came before in it. All of that stands in the ledger; reading it
from there takes seconds for some million pairs, from here a fraction. Nothing rests on the cache: it may be deleted at
any time, and a worker does the same without it.

A folder of its own for each partition:

    lock            held while a process uses the cache
    state.bin       what counts: the rule header, the place in the ledger, the marks (length, checksum) of the others
    seen.u64        the keyed hashes of the unique pairs, uint64 little-endian, in the order of the ledger
    deltas-N.bin    the deltas of the newest records, one after the other: first (int64), n (int64), n_unique (int64),
                    m (int64), increments (int64[n]), coins (int64[m]), entry_ids (int32[n]), filled up to 8 bytes,
                    all little-endian; m is n where decisions are final, else 0. A new file is begun now and then, so
                    that old ones can be deleted whole

Why it is never wrong: all that counts is under the checksum of `state.bin`, or under one that stands in it. A file that
is damaged, cut short, or written to by two processes (should the lock not hold) is noticed, and the cache begins empty.
That it is of *this* ledger the worker finds out, from the checksum of the last cached record. So a power cut could do
no harm either, and nothing would have to be forced to disk; that it is comes with the tools used here, and costs
milliseconds now and then.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import structlog
import xxhash

from consumers.ledger import RuleHeader
from consumers.view import Delta
from stream_curate.checked_file import DamagedFile, read_checked, write_checked
from stream_curate.failpoints import reach
from stream_curate.table.append_file import AppendFile, Mark, read_marked

CACHE_FORMAT = 2
MAX_DELTA_BYTES = 64 * 2**20

_N_DELTA_FILES = 8  # that the limit is divided among: this much of it is forgotten at a time
_DELTA_HEAD = struct.Struct("<qqqq")

_Method = TypeVar("_Method", bound=Callable[..., Any])

log = structlog.get_logger()


@dataclass(frozen=True)
class Cached:
    """What a partition's ledger held up to and with its record at `offset`.

    Attributes:
        offset: of the last cached record.
        checksum: `checksum_of` its value. If the ledger's record at `offset` has another, or is not there, the
            topic was made anew: `clear` the cache, and read the ledger from its beginning.
        next: the record's `next`.
        n_seen: how many hashes `bases` gives.
        bases: the hashes of the unique pairs, as uint64 arrays of up to a million. When the file was changed since
            `load`, it raises DamagedFile at its end: all that it gave is void then; `clear`, and begin again.
        deltas: of the newest records, in their order. Older ones may be missing: a view with fewer deltas is still not
            above the counts, so it admits somewhat more and nothing less; or, where decisions are final, knows less of
            counts, coins and pairs alike.
    """

    offset: int
    checksum: str
    next: int
    n_seen: int
    bases: Iterator[np.ndarray]
    deltas: list[Delta]


def checksum_of(value: bytes) -> str:
    """The checksum of a ledger record's value, as `LedgerCache.add` wants it."""
    return xxhash.xxh3_128_hexdigest(value)


def _harmless(method: _Method) -> _Method:
    """What goes wrong with the disk in `method` turns the cache off, and no more."""

    @wraps(method)
    def tried(self: LedgerCache, *args: Any, **kwargs: Any) -> Any:
        if self.is_off:
            return None
        try:
            return method(self, *args, **kwargs)
        except (OSError, DamagedFile) as error:
            self._turn_off(str(error))
            return None

    return cast(_Method, tried)


@dataclass(frozen=True)
class _Place:
    """Up to where in the ledger something goes."""

    offset: int
    checksum: str
    next: int


class LedgerCache:
    """The cache of one partition. Make it with `open`, `close` it when the partition is given up.

    None of its methods raises an error for the disk: when that fails, the cache says so once in the log, and does
    nothing from then on (`is_off`). What it saved before stays good.
    """

    def __init__(self, folder: Path, lock: int, header: RuleHeader, max_delta_bytes: int) -> None:
        """For `open` alone: `lock` is the descriptor that holds the lock of `folder`."""
        self.is_off = False
        self._folder = folder
        self._state_file = folder / "state.bin"
        self._seen_file = folder / "seen.u64"
        self._lock: int | None = lock
        self._header = header
        self._seen: AppendFile | None = None
        self._deltas = _Deltas(folder, max_delta_bytes)
        self._place: _Place | None = None
        self._saved: _Place | None = None
        self._resume()

    @classmethod
    def open(
        cls, folder: Path, ledger: str, partition: int, header: RuleHeader, *, max_delta_bytes: int = MAX_DELTA_BYTES
    ) -> Self | None:
        """The cache of a partition: empty, unless there is one that was made by this rule (t apart).

        Args:
            folder: where the caches of all partitions are; made when it is not there.
            ledger: the topic.
            partition: of the ledger.
            header: of the records that will be added.
            max_delta_bytes: deltas beyond this are forgotten, the oldest first.

        Returns:
            None when it is in use, by another process or by this one, or its folder cannot be made: go on without.
        """
        own = folder / ledger / str(partition)
        try:
            own.mkdir(parents=True, exist_ok=True)
            lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            log.warning("no cache of the ledger, restoring will take longer", folder=str(own), error=str(error))
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # it is locked, or this file system has no locks
            log.debug("the cache of the ledger cannot be had, going on without", folder=str(own), error=str(error))
            os.close(lock)
            return None
        return cls(own, lock, header, max_delta_bytes)

    @_harmless
    def load(self) -> Cached | None:
        """What was saved when the cache was opened, None if nothing was. Call it before the first `add`."""
        if self._place is None or self._seen is None:
            return None
        mark = self._seen.mark()
        chunks = read_marked(self._seen_file, mark)
        try:
            deltas = self._deltas.read()
        except DamagedFile as error:
            self._begin_empty(str(error))
            return None
        bases = (np.frombuffer(chunk, "<u8") for chunk in chunks)
        place = self._place
        return Cached(place.offset, place.checksum, place.next, mark.n_bytes // 8, bases, deltas)

    @_harmless
    def add(
        self,
        offset: int,
        value_checksum: str,
        next_position: int,
        seen: np.ndarray,
        delta: Delta,
    ) -> None:
        """Take in the next record of the ledger; it counts once it is saved.

        All records are to be added, in their order, from the ledger's first one or the one after `load` on, and each
        only when its transaction is known to be committed.

        Args:
            offset: where it stands.
            value_checksum: `checksum_of` its value.
            next_position: its `next`.
            seen: uint64[n_unique], the hashes.
            delta: what it adds to a view.
        """
        if self._seen is None:
            return
        if self._place is not None and not (delta.first == self._place.next and offset > self._place.offset):
            self._state_file.unlink(missing_ok=True)
            self._turn_off(f"offset {offset} does not go on after offset {self._place.offset}")
            return
        self._seen.append(seen.astype("<u8", copy=False).tobytes())
        self._deltas.append(delta)
        self._place = _Place(offset, value_checksum, next_position)

    def forget_deltas_before(self, position: int) -> None:
        """Those of records whose `first` is below `position` are not needed any more, as published counts have them."""
        self._deltas.forget_before(position)

    @_harmless
    def save(self) -> None:
        """Make all that was added count. To be called now and then: what is not saved is read from the ledger again.

        1. Force the new hashes to disk.  2. Force the new deltas to disk.  3. Replace `state.bin`, which holds the
        marks of both, at once.  4. Delete files of deltas that it names no more. A crash in between leaves the old
        state, and behind its marks something that does not count.
        """
        if self._place is None or self._place == self._saved or self._seen is None:
            return
        reach("cache.save")
        seen = self._seen.mark()
        reach("cache.seen")
        deltas = self._deltas.mark()
        reach("cache.deltas")
        header = {
            "format": CACHE_FORMAT,
            "header": self._header.as_dict(),
            "place": asdict(self._place),
            "seen": asdict(seen),
            "deltas": deltas,
        }
        write_checked(self._state_file, header)
        reach("cache.state")
        self._saved = self._place
        self._deltas.remove_unused()
        reach("cache.saved")

    @_harmless
    def clear(self) -> None:
        """Forget everything: the ledger is another one."""
        self._begin_empty("the ledger is another one")

    def close(self) -> None:
        """Save, and let the next one have it."""
        self.save()
        self._close_files()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self.is_off = True

    @_harmless
    def _resume(self) -> None:
        """Open the files as the state says, or empty ones."""
        try:
            state, _ = read_checked(self._state_file)
            if state["format"] != CACHE_FORMAT:
                self._begin_empty(f"it is of format {state['format']}")
                return
            differences = self._header.differences(RuleHeader.from_dict(state["header"]))
            if differences:
                self._begin_empty(f"it was made with other settings: {'; '.join(differences)}")
                return
            self._seen = AppendFile(self._seen_file, Mark(**state["seen"]))
            self._deltas.resume(state["deltas"])
            self._place = self._saved = _Place(**state["place"])
        except FileNotFoundError:
            self._begin_empty(None)
        except (DamagedFile, KeyError, TypeError, ValueError) as error:
            self._begin_empty(str(error))

    def _begin_empty(self, reason: str | None) -> None:
        if reason is not None:
            log.warning("the cache of the ledger begins empty", folder=str(self._folder), reason=reason)
        self._close_files()
        self._place = self._saved = None
        self._state_file.unlink(missing_ok=True)  # first: without it nothing else counts
        self._seen = AppendFile(self._seen_file, Mark())
        self._deltas.clear()

    def _turn_off(self, reason: str) -> None:
        log.warning(
            "the cache of the ledger is off, restoring will take longer", folder=str(self._folder), error=reason
        )
        self.is_off = True
        self._close_files()

    def _close_files(self) -> None:
        with suppress(OSError):  # on a full disk also closing fails, as it writes what is left
            if self._seen is not None:
                self._seen.close()
        self._seen = None
        self._deltas.close()


@dataclass
class _Segment:
    """One file of deltas."""

    number: int
    mark: Mark = field(default_factory=Mark)  # what counts of it, once it is marked
    n_bytes: int = 0
    last_first: int = 0  # `first` of its last delta


class _Deltas:
    """The deltas of the newest records, in files of which only the newest grows."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segments: list[_Segment] = []
        self._file: AppendFile | None = None  # that of the last segment, while it grows

    def resume(self, segments: list[dict[str, Any]]) -> None:
        """Go on with what `mark` gave."""
        self._segments = [_Segment(**(segment | {"mark": Mark(**segment["mark"])})) for segment in segments]
        self.remove_unused()
        if self._segments:
            self._file = AppendFile(self._path(self._segments[-1]), self._segments[-1].mark)

    def read(self) -> list[Delta]:
        """What was marked last. Raises DamagedFile."""
        return [delta for segment in self._segments for delta in _split(self._path(segment), segment.mark)]

    def append(self, delta: Delta) -> None:
        n = len(delta.entry_ids)
        data = (
            _DELTA_HEAD.pack(delta.first, n, delta.n_unique, len(delta.coins))
            + delta.increments.astype("<i8", copy=False).tobytes()
            + delta.coins.astype("<i8", copy=False).tobytes()
            + delta.entry_ids.astype("<i4", copy=False).tobytes()
            + bytes(n % 2 * 4)
        )
        file = self._file
        if file is None or self._segments[-1].n_bytes + len(data) > self._max_bytes // _N_DELTA_FILES:
            file = self._begin_segment()
        file.append(data)
        newest = self._segments[-1]
        newest.n_bytes += len(data)
        newest.last_first = delta.first
        while len(self._segments) > 1 and sum(segment.n_bytes for segment in self._segments) > self._max_bytes:
            del self._segments[0]

    def forget_before(self, position: int) -> None:
        # the last file stays, as it goes on
        while len(self._segments) > 1 and self._segments[0].last_first < position:
            del self._segments[0]

    def mark(self) -> list[dict[str, Any]]:
        """Force all to disk; returns what `resume` wants."""
        if self._file is not None:
            self._segments[-1].mark = self._file.mark()
        return [asdict(segment) for segment in self._segments]

    def remove_unused(self) -> None:
        """Delete the files that are no segments any more, or never were."""
        used = {self._path(segment) for segment in self._segments}
        for path in self._folder.glob("deltas-*.bin"):
            if path not in used:
                path.unlink()

    def clear(self) -> None:
        self.close()
        self._segments = []
        self.remove_unused()

    def close(self) -> None:
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None

    def _begin_segment(self) -> AppendFile:
        number = 0
        if self._segments:
            number = self._segments[-1].number + 1
        if self._file is not None:
            self._segments[-1].mark = self._file.mark()
            self._file.close()
        segment = _Segment(number)
        self._file = AppendFile(self._path(segment), segment.mark)
        self._segments.append(segment)
        return self._file

    def _path(self, segment: _Segment) -> Path:
        return self._folder / f"deltas-{segment.number}.bin"


def _split(path: Path, mark: Mark) -> list[Delta]:
    """The deltas of a file, once all of it is found to be as it was marked."""
    data = b"".join(read_marked(path, mark))
    deltas: list[Delta] = []
    place = 0
    while place < len(data):
        first, n, n_unique, n_coins = _DELTA_HEAD.unpack_from(data, place)
        place += _DELTA_HEAD.size
        increments = np.frombuffer(data, "<i8", n, place)
        coins = np.frombuffer(data, "<i8", n_coins, place + 8 * n)
        entry_ids = np.frombuffer(data, "<i4", n, place + 8 * n + 8 * n_coins)
        place += 12 * n + 8 * n_coins + n % 2 * 4
        deltas.append(Delta(first, entry_ids, increments, coins, n_unique))
    return deltas
