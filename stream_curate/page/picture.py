"""All that the page shows of a table, kept up to date at a bounded cost while somebody writes to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_curate.chances import Chances
from stream_curate.curator import matches_of
from stream_curate.errors import ConfigError
from stream_curate.metadata import Metadata
from stream_curate.page.card import card_of, numbers_of
from stream_curate.page.curves import balance_of
from stream_curate.page.history import History
from stream_curate.page.matched import TextBox
from stream_curate.page.samples import SampledPair, newest_rejections, sample_rows
from stream_curate.table.data_files import checkpoint_of
from stream_curate.table.folder import TableFolder
from stream_curate.table.view import TableView

N_SAMPLED = 12
N_FOLLOWED = 200
N_DECISIONS = 40
N_REJECTIONS = 8
_N_SAMPLED_FILES = 3
_PAIRS_A_REJECTION = 5


class Stopped(Exception):
    """The work was given up because nobody needs it any more."""


@dataclass(frozen=True)
class _Now:
    """The newest state of the table, with chances by the counts that its last settled version was settled with."""

    view: TableView
    metadata: Metadata
    chances: Chances
    rejections: list[dict[str, Any]]

    @property
    def settled_by(self) -> tuple[int, int] | None:
        """Which settle it was: no other one has both numbers."""
        settled = self.view.state.settled
        return (settled.checkpoint, settled.writer) if settled is not None else None


@dataclass(frozen=True)
class _Balance:
    """What was found by reading all settled rows."""

    settled_by: tuple[int, int]
    values: dict[str, Any]


@dataclass
class _Decisions:
    """The sampled pairs: those that were admitted and await a settle, and those whose settle has come."""

    followed: list[SampledPair] = field(default_factory=list)
    judged: list[SampledPair] = field(default_factory=list)
    sampled_files: set[str] = field(default_factory=set)


class TablePicture:
    """One table. `refresh` and `read_settled_rows` may run in two threads at once, and the rest in any.

    Args:
        root: the table's folder.

    Raises:
        ConfigError: when it holds none. (One that nothing was committed to yet is a table.)
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = TableFolder(root)
        self._folder.identity()
        self._lock = threading.Lock()
        self._text_lock = threading.Lock()
        self._text_box: tuple[Metadata, TextBox] | None = None
        self._forget()

    def _forget(self) -> None:
        self._made = self._made_when()
        self._history = History(self.root)
        self._is_stale = True
        self._now: _Now | None = None
        self._balance: _Balance | None = None
        self._decisions = _Decisions()

    def refresh(self) -> bool:
        """Look for new commits, and read the newest state if there are any; whether something has changed.

        Raises:
            StreamCurateError: when nothing was committed yet, or it cannot be read; what was known stays.
        """
        try:
            if self._made_when() != self._made:  # removed, and made anew
                self._forget()
            self._is_stale = self._history.read_new() or self._is_stale
        except OSError:
            self._is_stale = True
        if not self._is_stale:
            return False
        now = self._read_now()
        self._follow(now)
        self._now = now
        self._is_stale = False
        return True

    @property
    def lacks_settled_rows(self) -> bool:
        """Whether the table was settled since `read_settled_rows` last ran."""
        now, balance = self._now, self._balance
        return (
            now is not None and now.settled_by is not None and (balance is None or balance.settled_by != now.settled_by)
        )

    def read_settled_rows(self, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Read all settled rows, for the curves and for what became of sampled pairs. Takes a second per million.

        Raises:
            StreamCurateError: when they cannot be read, for example because the table was settled once more.
            Stopped: when `is_stopped` says so.
        """
        now = self._now
        if now is None or now.settled_by is None:
            return
        with self._lock:
            decisions = self._decisions
            followed = [pair for pair in decisions.followed if pair.checkpoint < now.settled_by[0]]
        wanted = pa.array([pair.pair_id for pair in followed], pa.binary())
        curated = np.zeros(len(now.metadata), np.int64)
        present: set[bytes] = set()
        for batch in now.view.read_settled(["pair_id", "entry_ids"] if followed else ["entry_ids"]):
            if is_stopped():
                raise Stopped
            curated += np.bincount(matches_of(batch).entry_ids, minlength=len(curated))
            if followed:
                pair_ids = batch.column("pair_id")
                present.update(pair_ids.filter(pc.is_in(pair_ids, value_set=wanted)).to_pylist())
        values = balance_of(now.metadata, now.chances.entry_counts, curated, now.chances.tail_count)
        checkpoint = now.settled_by[0]
        judged = [pair.judged(is_kept=pair.pair_id in present, checkpoint=checkpoint) for pair in followed]
        if len(judged) < N_SAMPLED:
            judged += self._sample_settled(now, checkpoint, N_SAMPLED - len(judged))
        with self._lock:
            decisions.followed = [pair for pair in decisions.followed if pair.checkpoint >= checkpoint]
            decisions.judged = _each_once([*judged, *decisions.judged])[:N_DECISIONS]
        if decisions is self._decisions:
            self._balance = _Balance(now.settled_by, values)

    def as_dict(self) -> dict[str, Any] | None:
        """All of it, for JSON, with every text from outside escaped. None when nothing was committed yet."""
        now, balance = self._now, self._balance
        if now is None:
            return None
        return {
            "card": card_of(now.view),
            "numbers": numbers_of(now.view),
            "history": [asdict(point) for point in list(self._history.points)],
            "balance": balance.values if balance is not None else None,
            "is_balance_current": balance is not None and balance.settled_by == now.settled_by,
            "decisions": _mixed(self._shown_pairs(now), now.rejections),
        }

    def digest(self) -> str:
        """The digest of the settled version that `as_dict` tells of.

        Raises:
            ConfigError: when the table was never settled.
            OutputError: when it cannot be read.
        """
        if self._now is None:
            raise ConfigError(f"{self.root} has not been read yet")
        return self._now.view.digest()

    def answer(self, text: bytes) -> dict[str, Any] | None:
        """What a text matches, by the counts of the settled cut or, before the first one, those of now."""
        now = self._now
        if now is None:
            return None
        with self._text_lock:
            if self._text_box is None or self._text_box[0] is not now.metadata:
                self._text_box = (now.metadata, TextBox(now.metadata))
            return self._text_box[1].answer(text, now.chances)

    def _made_when(self) -> tuple[int, int]:
        """When the table was made, as far as its folder shows."""
        stat = self._folder.identity_file.stat()
        return stat.st_ino, stat.st_mtime_ns

    def _read_now(self) -> _Now:
        before = self._now
        view = TableView(self.root)
        if before is not None and before.view.rule.metadata_sha256 == view.rule.metadata_sha256:
            view.metadata = before.metadata
        state = view.state
        if before is not None and state.settled is not None and before.view.state.settled == state.settled:
            chances = before.chances
        else:
            chances = view.chances
        return _Now(
            view,
            view.metadata,
            chances,
            newest_rejections(self._folder.rejects_file, state.rejects, N_REJECTIONS),
        )

    def _follow(self, now: _Now) -> None:
        """Sample what the newest checkpoint admitted."""
        state = now.view.state
        settled_files = set(state.settled.files) if state.settled is not None else set()
        pending = sorted(file.name for file in state.files if file.name not in settled_files and file.n_rows)
        with self._lock:
            known = self._decisions.sampled_files
            self._decisions.sampled_files = set(pending)
        new = [name for name in pending if name not in known]
        newest = [name for name in new if checkpoint_of(name) == checkpoint_of(new[-1])]
        try:
            sampled = sample_rows(self.root, newest, N_SAMPLED, state.checkpoint)
        except (OSError, pa.ArrowException):
            return  # merged with others, or settled, at this moment
        with self._lock:
            self._decisions.followed = [*sampled, *self._decisions.followed][:N_FOLLOWED]

    def _sample_settled(self, now: _Now, checkpoint: int, n_rows: int) -> list[SampledPair]:
        names = now.view.settled.files
        rng = np.random.default_rng(checkpoint)
        chosen = rng.permutation(len(names))[:_N_SAMPLED_FILES].tolist()
        try:
            return sample_rows(self.root, [names[i] for i in chosen], n_rows, checkpoint, "kept")
        except (OSError, pa.ArrowException):
            return []

    def _shown_pairs(self, now: _Now) -> list[dict[str, Any]]:
        with self._lock:
            pairs = [*self._decisions.followed, *self._decisions.judged]
        newest = sorted(pairs, key=lambda pair: -pair.checkpoint)[:N_DECISIONS]
        return [pair.as_dict(now.metadata, now.chances) for pair in newest]


def _mixed(pairs: list[dict[str, Any]], rejections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both in their orders, a rejection after every few pairs."""
    mixed: list[dict[str, Any]] = []
    for i, rejection in enumerate(rejections):
        mixed += [*pairs[i * _PAIRS_A_REJECTION : (i + 1) * _PAIRS_A_REJECTION], rejection]
    return mixed + pairs[len(rejections) * _PAIRS_A_REJECTION :]


def _each_once(pairs: list[SampledPair]) -> list[SampledPair]:
    """Of each pair the first, which is the newest judgement."""
    return list({pair.pair_id: pair for pair in reversed(pairs)}.values())[::-1]
