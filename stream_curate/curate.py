"""Curate sources into a table: the loop behind `stream-curate curate`.

source -> valid pairs -> curator -> curated table,    a checkpoint now and then, a settle by growth and at the end

With threads, the next batches are read, validated, hashed and matched while one is counted, decided on and written:
what depends on the batches before is done in their order, by the thread that runs the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby

import numpy as np
import pyarrow as pa
import structlog

from stream_curate.ahead import read_ahead, run_ahead
from stream_curate.curator import Curator, MatchedPairs, NewPairs, Tally
from stream_curate.errors import ConfigError, InputError, OutputError
from stream_curate.final_curator import FinalCurator
from stream_curate.pairs import Records, Rejection, validate
from stream_curate.settling import SettlingOutlook
from stream_curate.sources import Source
from stream_curate.sources.standard_input import StandardInput
from stream_curate.stop import StopReading, StopRequest
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.state import Numbers, SourcePosition, State

log = structlog.get_logger()


class Ending(StrEnum):
    """How a run ended."""

    DONE = "done"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Pace:
    """How often the stream is cut. Nothing here changes what is curated.

    Attributes:
        batch_size: records decided on together, at most.
        checkpoint_interval_s: seconds between two checkpoints; what a crash costs at most.
        settle_growth: a checkpoint settles when the number of records read has grown by this factor since the last
            settle.
        first_settle: records read before the first settle that is not the one at the end.
        settle_share: of the time of a run, what settles may take before the next one is put off; not the one at the
            end.
        threads: how many to read, hash and match with, beside the one that decides; with 1 this one does it all.
    """

    batch_size: int = 65_536
    checkpoint_interval_s: float = 10.0
    settle_growth: float = 1.25
    first_settle: int = 100_000
    settle_share: float = 1.0
    threads: int = 1


@dataclass(frozen=True)
class _Part:
    """Records of a source, and its position, which stays where it is until they are decided on."""

    source: Source
    position: SourcePosition
    records: Records


@dataclass(frozen=True)
class _End:
    """The end of a source, or where it is left because of `error`."""

    source: Source
    position: SourcePosition
    error: InputError | None


@dataclass(frozen=True)
class _Batch:
    """Records on their way to be decided on.

    Attributes:
        source: where they are from.
        position: the source's, where the batches before end.
        n_rows: the position behind them.
        pairs: the valid ones.
        base: uint64[n_pairs], their keyed hashes.
        rejections: the others.
    """

    source: Source
    position: SourcePosition
    n_rows: int
    pairs: pa.RecordBatch
    base: np.ndarray
    rejections: list[Rejection]


class Curation:
    """A curator and its table, kept in step.

    Opening it brings the curator to where the table's last checkpoint was.
    """

    def __init__(self, curator: Curator, table: CuratedTable, pace: Pace | None = None) -> None:
        self.curator = curator
        self.table = table
        self.pace = pace or Pace()
        self.skipped: list[tuple[str, str]] = []
        """Sources left out on request: (name, what was wrong)."""
        self.finished_before: list[str] = []
        """Sources that an earlier run had read to the end."""
        self._settled_counts: np.ndarray | None = None
        if curator.rule.final is None:
            table.expect = lambda: self._outlook(curator.known_counts)
        state = table.state
        # copies: the table's own say where its last checkpoint stands
        self._sources = {source.uri: replace(source) for source in state.sources}
        self._rejected = dict(state.numbers.rejected)
        self._restore(state)
        self._begin_s = self._last_checkpoint_s = time.monotonic()
        _give_memory_back()

    @property
    def numbers(self) -> Numbers:
        """What has become of all records so far, those after the last checkpoint included."""
        tally = self.curator.tally
        return Numbers(
            n_unique=tally.n_unique,
            n_duplicate=tally.n_duplicate,
            n_matched=tally.n_matched,
            n_matches=self.curator.counts.total,
            n_admitted=tally.n_admitted,
            n_evicted=self.table.state.numbers.n_evicted,
            rejected=dict(self._rejected),
        )

    def entry_counts(self) -> np.ndarray:
        """int64[n_entries]: the counts at the last settle of this run, or else of now."""
        return self.curator.entry_counts() if self._settled_counts is None else self._settled_counts

    def run(
        self,
        sources: Iterable[Source],
        *,
        skip_bad_files: bool = False,
        stop: StopRequest | None = None,
        on_batch: Callable[[Source, Numbers], None] = lambda source, numbers: None,
    ) -> Ending:
        """Read the sources to their ends, in order, then settle.

        Args:
            sources: what to read; those that are known to be finished are passed over.
            skip_bad_files: go on with the next source when one cannot be read, and list it in `skipped`.
            stop: when it is requested, a checkpoint is made and the run ends, unsettled.
            on_batch: told after every batch.

        Raises:
            ConfigError: for a source that is not what it was when it was read before; nothing is read then.
            InputError: for a source that cannot be read, after a checkpoint of what was read before.
            OutputError: when the table cannot be written.
        """
        stop = stop or StopRequest()
        # every position first: a source that is refused must not cost what was read of the others
        positions = [(source, self._position_of(source)) for source in sources]
        self.finished_before += [source.name for source, position in positions if position.finished]
        # each once: where the second reading would begin is not known yet when the first one ends
        unfinished = {source.uri: (source, position) for source, position in positions if not position.finished}
        try:
            with (
                self._threads() as threads,
                closing(self._matched(list(unfinished.values()), skip_bad_files, stop, threads)) as matched,
            ):
                for following in matched:
                    if isinstance(following, _End):
                        self._end(following)
                        continue
                    if following is not None:
                        self._decide(*following)
                        on_batch(following[0].source, self.numbers)
                    self._checkpoint_if_due()
        except StopReading:
            self.checkpoint()
            return Ending.INTERRUPTED
        except InputError:
            self.checkpoint()
            raise
        self.settle()
        return Ending.DONE

    def checkpoint(self) -> None:
        """Commit what has come since the last checkpoint, if anything has."""
        state = self._state()
        if state.sources == self.table.state.sources and state.rule == self.table.state.rule:
            return
        with self.curator.clock.stage("commit"):
            self.table.checkpoint(state, self.curator.counts.to_bytes)
            _give_memory_back()
        self._last_checkpoint_s = time.monotonic()

    def settle(self) -> None:
        """Take the table down to the offline subset of what has been read, unless it is that already.

        Where decisions are final there is nothing to take back, and this is a checkpoint.
        """
        if self.curator.rule.final is not None:
            self.checkpoint()
            return
        settled = self.table.state.settled
        if settled is not None and (settled.n_read, settled.threshold) == (
            self.numbers.n_read,
            self.curator.rule.threshold,
        ):
            self.checkpoint()
            return
        curator, clock, table = self.curator, self.curator.clock, self.table
        written_s = table.write_s
        with clock.stage("settle"):
            entry_counts = self._settled_counts = curator.entry_counts()
            table.settle(self._outlook(entry_counts), entry_counts, curator.counts.to_bytes, self._state())
            _give_memory_back()
        # the new rows are written by the settle, so that those that go at once are not
        clock.move(table.write_s - written_s, "settle", "write")
        self._last_checkpoint_s = time.monotonic()

    def _outlook(self, entry_counts: np.ndarray) -> SettlingOutlook:
        curator = self.curator
        return SettlingOutlook(curator.rule, curator.seed, curator.metadata.keys, entry_counts)

    @contextmanager
    def _threads(self) -> Iterator[Executor | None]:
        """Where work is done ahead of what is decided; None when there is one thread for everything."""
        if self.pace.threads == 1:
            yield None
            return
        with ThreadPoolExecutor(self.pace.threads, "ahead") as executor:
            yield executor

    def _matched(
        self,
        sources: Sequence[tuple[Source, SourcePosition]],
        skip_bad_files: bool,
        stop: StopRequest,
        threads: Executor | None,
    ) -> Generator[tuple[_Batch, MatchedPairs] | _End | None]:
        """All that the sources bring, as far as threads may take it; None while one of them waits for input.

        It is one stream: while the end of a source is decided on, the next one is read.
        """
        n_ahead = max(1, self.pace.threads // 2)  # no more than keeps the threads busy: each batch takes memory
        read = self._read(sources, skip_bad_files, stop, threads)
        # mypy joins what is in an iterator of a union to object
        hashed = run_ahead(threads, self._hash, read, n_ahead)  # type: ignore[arg-type]
        return run_ahead(threads, self._match, map(self._drop_seen, hashed), n_ahead + 1)  # type: ignore[arg-type]

    def _hash(self, part: _Part | _End) -> _Batch | _End:
        if isinstance(part, _End):
            return part
        with self.curator.clock.stage("hash"):
            pairs, rejections = validate(part.records)
        n_rows = part.records.first_row + len(part.records)
        return _Batch(part.source, part.position, n_rows, pairs, self.curator.identify(pairs), rejections)

    def _drop_seen(self, batch: _Batch | _End | None) -> tuple[_Batch, NewPairs] | _End | None:
        if batch is None or isinstance(batch, _End):
            return batch
        return batch, self.curator.drop_seen(batch.pairs, batch.base)

    def _match(self, new: tuple[_Batch, NewPairs] | _End) -> tuple[_Batch, MatchedPairs] | _End:
        if isinstance(new, _End):
            return new
        batch, new_pairs = new
        return batch, self.curator.match(new_pairs)

    def _decide(self, batch: _Batch, matched: MatchedPairs) -> None:
        admitted = self.curator.admit(matched)
        with self.curator.clock.stage("write"):
            self.table.append(admitted)
            if self.curator.rule.dedup == "exact":
                self.table.remember(matched.new.base)
            self._reject(batch.rejections)
        batch.position.n_rows = batch.n_rows

    def _end(self, end: _End) -> None:
        if end.error is None:
            end.position.finished = True
            return
        log.warning("source skipped", source=end.source.name, error=str(end.error))
        self.skipped.append((end.source.name, str(end.error)))

    def _reject(self, rejections: list[Rejection]) -> None:
        self.table.reject(rejections)
        for rejection in rejections:
            reason = rejection.reason.value
            self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def _checkpoint_if_due(self) -> None:
        if time.monotonic() - self._last_checkpoint_s < self.pace.checkpoint_interval_s:
            return
        if self._may_settle():
            self.settle()
        else:
            self.checkpoint()

    def _may_settle(self) -> bool:
        """Whether the stream has grown enough since the last time, and settles did not take too much of the time."""
        if self.curator.rule.final is not None:
            return False
        settled = self.table.state.settled
        settled_at = settled.n_read if settled is not None else 0
        has_grown = self.numbers.n_read >= max(self.pace.first_settle, self.pace.settle_growth * settled_at)
        run_s = time.monotonic() - self._begin_s
        return has_grown and self.curator.clock.seconds["settle"] <= self.pace.settle_share * run_s

    def _read(
        self,
        sources: Sequence[tuple[Source, SourcePosition]],
        skip_bad_files: bool,
        stop: StopRequest,
        threads: Executor | None,
    ) -> Iterator[_Part | _End | None]:
        """What the sources hold, in their order; None where nothing more comes at the moment."""
        for may_wait, group in groupby(sources, lambda each: each[0].uri == StandardInput.uri):
            parts = self._parts(list(group), skip_bad_files)
            # not what may be waited for without end: a thread cannot be called back from there
            if may_wait:
                yield None  # nor must what came before wait for it
            elif threads is not None:
                parts = read_ahead(threads, parts)
            with closing(parts):
                while True:
                    with stop.reading():
                        part = next(parts, None)
                    if part is None:
                        break
                    yield part if isinstance(part, _End) or len(part.records) else None

    def _parts(self, sources: Sequence[tuple[Source, SourcePosition]], skip_bad_files: bool) -> Generator[_Part | _End]:
        """The sources' batches, and the end of each.

        Raises:
            InputError: for a source that cannot be read, unless it is to be skipped.
        """
        for source, position in sources:
            try:
                for records in self._timed(source.read(position.n_rows, self.pace.batch_size)):
                    yield _Part(source, position, records)
            except InputError as error:
                if not skip_bad_files:
                    raise
                yield _End(source, position, error)
            else:
                yield _End(source, position, None)

    def _timed(self, batches: Iterator[Records]) -> Iterator[Records]:
        while True:
            with self.curator.clock.stage("read"):
                records = next(batches, None)
            if records is None:
                return
            yield records

    def _position_of(self, source: Source) -> SourcePosition:
        known = self._sources.get(source.uri)
        if source.uri == StandardInput.uri:
            return self._position_of_standard_input(source, known)
        if known is None:
            known = self._sources[source.uri] = SourcePosition(source.uri, source.size)
        elif known.n_rows == 0:
            # nothing of it was read: it may have been mended, or filled
            known.finished = known.finished and known.size == source.size
            known.size = source.size
        elif known.size != source.size:
            raise ConfigError(
                f"{source.name} was {known.size} bytes long when it was read into this table and is {source.size} now. "
                "A source must not change: give what is new as a file of its own"
            )
        return known

    def _position_of_standard_input(self, source: Source, known: SourcePosition | None) -> SourcePosition:
        """Standard input begins anew each time; what it brought before is known again as duplicates."""
        if known is not None and known.n_rows and self.curator.rule.dedup == "none":
            raise ConfigError(
                "standard input was read into this table before and cannot be continued; without dedup its pairs "
                "could be counted twice. Write it to a file, or curate with --dedup exact into a new folder"
            )
        position = SourcePosition(source.uri, None)
        if known is not None and known.n_rows:
            # the rows of earlier inputs stay part of the cut, under names of their own
            earlier = replace(known, uri=f"{source.uri}{len(self._sources)}")
            self._sources[earlier.uri] = earlier
        self._sources[source.uri] = position
        return position

    def _state(self) -> State:
        known = self.table.state
        return State(
            checkpoint=known.checkpoint,
            version=known.version,
            rule=self.curator.rule,
            numbers=self.numbers,
            sources=[replace(source) for source in self._sources.values()],
            seen=known.seen,
            rejects=known.rejects,
            settled=known.settled,
        )

    def _restore(self, state: State) -> None:
        curator = self.curator
        counts = self.table.take_counts()
        if counts is not None:
            numbers = state.numbers
            tally = Tally(numbers.n_unique, numbers.n_duplicate, numbers.n_matched, numbers.n_admitted)
            try:
                curator.resume(curator.rule.load_counts(len(curator.metadata), counts), tally)
            except ValueError as error:
                raise OutputError(f"{self.table.folder.root}: the saved counts cannot be used: {error}") from error
        for base in self.table.seen():
            curator.seen.add(base)
        if isinstance(curator, FinalCurator) and curator.rule.dedup == "none":
            for pair_ids in self.table.pair_ids():
                curator.remember_given_out(pair_ids)


def _give_memory_back() -> None:
    """Hand what Arrow freed to the system: its allocator keeps tens of megabytes from each burst of work."""
    pa.default_memory_pool().release_unused()
