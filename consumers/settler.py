"""The settler: folds the ledger into the curated table, settles it, and publishes the counts it was settled at.

    ledger -> fold -> checkpoint, a commit of the table now and then
                   -> settle, when the stream has grown, when it pauses, and at the end
                   -> publish the counts at the cut that the settled commit holds, for the workers to decide with

One at a time: a newly started settler takes over. In this order, each time it starts:

    1. initialise the producer of `counts`: an older settler can publish nothing more
    2. read `counts`: no cut below the published one is settled from here on, also not when the table was lost
    3. take the table over: an older settler can commit nothing more
    4. publish what the table's last settled version holds, if that was not done

Where decisions are final nothing is settled, and what is called so here is but a commit of the table, of which the
counts are published, coins among them. They are published earlier, as views that lack what others do cost more then.

Whatever goes wrong with the table, it is opened again, and the ledger read on from where its last commit was; whatever
goes wrong with the brokers is tried again. Only what waiting cannot mend ends the settler.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from consumers.clients import NotEnded, make_consumer
from consumers.ends import positions_at_end
from consumers.errors import KafkaProblem, in_words, is_hopeless
from consumers.garbage import Garbage
from consumers.ledger import RuleHeader
from consumers.messages import position
from consumers.monitor import SettlerMonitor
from consumers.partition_state import check_header
from consumers.progress import Place
from consumers.published_counts import CountsReader, PublishedCounts, check_size
from consumers.retries import Retry, shown, wait
from consumers.settings import AllSettings
from consumers.settler_fold import Fold, FoldingRule, origin_of
from consumers.settler_ledger import Commit, LedgerFollower
from consumers.settler_publisher import Publisher, is_fenced
from consumers.topics import check_partitions
from consumers.watchdog import Watchdog, given_or_own
from stream_curate.checked_file import DamagedFile
from stream_curate.errors import ConfigError, OutputError
from stream_curate.metadata import Metadata
from stream_curate.open_curation import load_metadata, make_rule, public_seed
from stream_curate.stop import StopRequest
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import Identity, TableFolder
from stream_curate.table.state import Numbers, Settled

POLL_MS = 100
LOG_INTERVAL_S = 10.0
MOST_WAIT_S = 0.5
LOOK_INTERVAL_S = 1.0
FENCED_WAIT_S = 3.0
# a table that cannot be written for this long needs somebody to look at it
TABLE_GIVE_UP_S = 900.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Settlement:
    """What a settler has come to.

    Attributes:
        numbers: of all records folded into the table, in this run and before.
        settled: the last settled version, None if there is none.
        stopped: whether it was asked to stop before it came to an end.
    """

    numbers: Numbers
    settled: Settled | None
    stopped: bool = False


def settle_from_kafka(
    settings: AllSettings,
    out: Path,
    *,
    until_end: bool = False,
    stop: StopRequest | None = None,
    watchdog: Watchdog | None = None,
    monitor: SettlerMonitor | None = None,
) -> Settlement:
    """Be the settler of a curation until a stop is requested, or all is settled.

    Args:
        settings: all of them, as the workers have them.
        out: the folder of the curated table; made if it is not there, and made anew if it was lost.
        until_end: end when all that stands in `pairs` now is settled.
        stop: asked several times a second.
        watchdog: ends the process when a client hangs; None for one of its own.
        monitor: is told what happens; it may be serving already.

    Raises:
        ConfigError: settings that cannot be used, or are not those of the table or of the ledger.
        KafkaProblem: no broker answers at the start; another settler has taken over; a damaged ledger; or anything
            else that waiting does not mend.
        OutputError: the table cannot be opened, or was not written for a long time.
    """
    doing = f"settling {settings.kafka.topics.ledger}"
    with given_or_own(watchdog) as its_watchdog, in_words(settings.kafka, doing):
        settler = _Settler(settings, out, its_watchdog, monitor or SettlerMonitor(settings.kafka))
        try:
            settler.start(until_end=until_end)
            with settler.monitor.observe(settler.header):
                return settler.run(stop or StopRequest())
        finally:
            settler.close()


class _Settler:
    def __init__(self, settings: AllSettings, out: Path, watchdog: Watchdog, monitor: SettlerMonitor) -> None:
        self.monitor = monitor
        self._stage = monitor.metrics.stage
        self._all_settings = settings
        self._settings = settings.kafka
        self._topics = settings.kafka.topics
        self._out = out
        self._watchdog = watchdog
        final = settings.final_decisions
        pairs_id = check_partitions(self._settings, self._topics.pairs)
        check_partitions(self._settings, self._topics.ledger)
        seed = settings.read_seed()
        self._metadata: Metadata = load_metadata(settings, None)
        rule = make_rule(settings, self._metadata, seed, final)
        self.header = RuleHeader(rule, self._settings.partitions, settings.keep_columns, pairs_id)
        check_size(len(self._metadata), rule)
        self._rule = FoldingRule(self.header, public_seed() if seed is None else seed, self._metadata.keys)
        self._identity = Identity(rule, settings.keep_columns, origin_of(self._topics, self._settings.partitions))
        self._check_table()
        self._owner = secrets.token_hex(16)
        self._targets: tuple[int, ...] | None = None
        self._published: PublishedCounts | None = None
        self._to_publish: PublishedCounts | None = None
        self._publisher = Publisher(self._settings, watchdog)
        self._table: CuratedTable | None = None  # the last one that was opened, perhaps closed
        self._fold: Fold | None = None  # None while the table cannot be written
        self._ledger = LedgerFollower(self._settings, self.header)
        now_s = time.monotonic()
        self._folded_s = self._checkpoint_s = self._logged_s = self._looked_s = now_s
        self._table_lost_s = now_s
        self._settle_failed = False  # since one went well
        self._table_retry = Retry()
        self._publish_retry = Retry()
        self._ledger_retry = Retry()
        self._n_logged = 0
        # generous: each call of the client should end by itself, within give_up_after_s
        self._round_limit_s = 3_600.0

    def start(self, *, until_end: bool) -> None:
        """Take over, in the order that the module tells."""
        if until_end:
            with self._consumer() as consumer:
                self._targets = positions_at_end(consumer, self._topics.pairs, self._settings.partitions)
        self._publisher.start()
        with self._consumer() as consumer:
            self._published = CountsReader(consumer, self._settings).newest()
        if self._published is not None:
            check_header(self._rule.header, self._published.header, f"the newest record of {self._topics.counts}")
        fold = self._open_fold()
        state = fold.table.state
        log.info(
            "the table is taken over",
            out=str(self._out),
            n_read=state.numbers.n_read,
            settled_version=state.settled.version if state.settled is not None else None,
        )
        if self._rule.header.rule.threshold > fold.threshold:
            log.warning(
                "the table was settled with a lower t, which stays: what it dropped is gone", threshold=fold.threshold
            )

    @contextmanager
    def _consumer(self) -> Iterator[KafkaConsumer]:
        """One for a moment."""
        consumer = make_consumer(self._settings)
        try:
            with self._watchdog.limit("starting the settler", 10 * self._settings.give_up_after_s):
                yield consumer
        finally:
            consumer.close(autocommit=False, timeout_ms=1_000)

    def run(self, stop: StopRequest) -> Settlement:
        """Until a stop is requested, or the end is reached."""
        garbage = Garbage()
        while not stop.requested:
            garbage.collect_if_due()
            with self._watchdog.limit("a round of the settler", self._round_limit_s):
                self._round(stop)
            if self._is_done():
                return self._settlement()
        return self._settlement(stopped=True)

    def close(self) -> None:
        if self._fold is not None:
            self._fold.close()
        try:
            self._publisher.close()
        except NotEnded as error:
            log.warning("the producer of the counts does not end before the process does", error=shown(error))
        self._ledger.close()

    # --- one round

    def _round(self, stop: StopRequest) -> None:
        self._end_if_superseded(now=self._fold is None)
        fold = self._fold or self._reopen(stop)
        if fold is None:
            return
        with self._stage("read"):
            self._read(fold, stop)
        if self._fold is not None and not stop.requested:
            self._settle_if_due(fold)
        with self._stage("publish"):
            self._publish_if_due(stop)
        self._tell()

    def _read(self, fold: Fold, stop: StopRequest) -> None:
        """Fold what has come."""
        if not self._ledger_retry.is_due:
            wait(min(self._ledger_retry.wait_s, MOST_WAIT_S), stop)
            return
        try:
            for commit in self._ledger.poll(POLL_MS):
                if stop.requested:
                    return
                self._folded_s = time.monotonic()
                if not self._fold_commit(fold, commit) or not self._checkpoint_if_due(fold):
                    return
            self._show_places(self._ledger.read_to())
            self._ledger_retry.reset()
        except (KafkaError, OSError) as error:
            if is_hopeless(error):
                raise
            self.monitor.failed(error)
            wait_s = self._ledger_retry.failed()
            log.warning("Kafka is in trouble, trying again", error=shown(error), wait_s=wait_s)

    def _fold_commit(self, fold: Fold, commit: Commit) -> bool:
        with self._stage("fold"):
            if not self._try_table(fold, partial(fold.fold, commit)):
                return False
        self.monitor.folded(commit.written_s)
        return True

    def _checkpoint_if_due(self, fold: Fold) -> bool:
        """A commit of the table now and then, and a settle by growth; false when the table failed."""
        now_s = time.monotonic()
        if now_s - self._checkpoint_s >= self._all_settings.checkpoint_interval_s:
            with self._stage("commit"):
                if not self._try_table(fold, fold.checkpoint):
                    return False
            self._checkpoint_s = time.monotonic()
        first, growth = self._all_settings.first_settle_records, self._all_settings.settle_growth
        final = self.header.rule.final
        if final is not None:
            first = min(first, final.first_counts_at)
        if fold.numbers.n_read >= max(first, growth * fold.n_read_at_settle) and fold.may_settle:
            return self._settle(fold, "grown")
        return True

    def _settle_if_due(self, fold: Fold) -> None:
        """Also when nothing comes any more, and at the end."""
        if not self._checkpoint_if_due(fold) or fold.is_settled:
            return
        if not fold.may_settle:
            if self._all_is_folded(fold):
                raise KafkaProblem(
                    f"all of {self._topics.pairs} is folded, and the published counts ({self._topics.counts}) are of a "
                    f"cut beyond it: {fold.beyond_words()}. They belong to other topics, or the end of the ledger was "
                    "lost: make new topics, all of them, and replay"
                )
            return
        if self._all_is_folded(fold):
            self._settle(fold, "all is folded")
        elif time.monotonic() - self._folded_s >= self._settings.settle_idle_s:
            self._settle(fold, "nothing has come for a while")

    def _settle(self, fold: Fold, why: str) -> bool:
        if fold.is_settled:
            return True
        begin_s, n_evicted = time.monotonic(), fold.numbers.n_evicted
        places = self.monitor.places
        with self._stage("settle"):
            self.monitor.pause()
            if not self._try_table(fold, fold.settle):
                return False
        self.monitor.places = places
        self._checkpoint_s = time.monotonic()
        settled = fold.table.state.settled
        if settled is not None:
            seconds = self._checkpoint_s - begin_s
            self.monitor.settled(seconds, fold.numbers.n_evicted - n_evicted, settled.n_curated)
            self._show_settled(fold, settled)
            what = "settled" if self.header.rule.final is None else "all accepted pairs are in the table"
            log.info(what, why=why, version=settled.version, n_read=settled.n_read, n_curated=settled.n_curated)
        self._to_publish = fold.to_publish(self._published)
        return True

    # --- the table

    def _check_table(self) -> None:
        """See that what lies in the folder, if anything does, was made by the same rule from the same topics."""
        folder = TableFolder(self._out)
        if not folder.exists():
            return
        found = folder.identity()
        found.check_origin(self._out, self._identity.origin)
        mine = RuleHeader(self._identity.rule, self._settings.partitions, self._identity.kept_columns)
        differences = mine.differences(RuleHeader(found.rule, self._settings.partitions, found.kept_columns))
        if differences:
            listed = "\n".join(f"  {difference}" for difference in differences)
            raise ConfigError(
                f"{self._out} was made with other settings:\n{listed}\nGive the same ones, as all workers and the "
                "settler of a curation must have them, or a new folder"
            )

    def _open_fold(self) -> Fold:
        self._table = CuratedTable.open(
            self._out,
            self._identity,
            self._metadata,
            keep_versions=self._all_settings.keep_versions,
            takeover=self._owner,
        )
        try:
            fold = Fold(self._table, self._topics, self._rule, self._published)
            self._ledger.seek(fold.positions)
            self._to_publish = fold.to_publish(self._published)
        except BaseException:
            self._table.close()
            raise
        self._fold = fold
        self._checkpoint_s = self._folded_s = time.monotonic()
        self._show_places([at.offset for at in fold.positions])
        if fold.table.state.settled is not None:
            self._show_settled(fold, fold.table.state.settled)
        self.monitor.health.lacks = ""
        self.monitor.show_table(self._out)
        return fold

    def _reopen(self, stop: StopRequest) -> Fold | None:
        """Try to go on with the table; None while it cannot be written."""
        if not self._table_retry.is_due:
            wait(min(self._table_retry.wait_s, MOST_WAIT_S), stop)
            return None
        try:
            fold = self._open_fold()
        except (OutputError, KafkaError, OSError) as error:
            if is_hopeless(error) or time.monotonic() - self._table_lost_s > TABLE_GIVE_UP_S:
                raise
            self.monitor.failed(error)
            wait_s = self._table_retry.failed()
            log.warning("the table still cannot be written", error=shown(error), wait_s=wait_s)
            return None
        log.info("going on with the table", out=str(self._out), n_read=fold.numbers.n_read)
        return fold

    def _try_table(self, fold: Fold, write: Callable[[], None]) -> bool:
        """Whether this went well; if not, the table is closed, to be opened again.

        After a settle that failed, which needs the most room, only one that goes well ends the trouble. Until then it
        is tried later and later, for each time costs a version of the table.
        """
        is_settle, checkpoint = write == fold.settle, fold.table.state.checkpoint
        begin_s = time.monotonic()
        try:
            write()
        except (OutputError, OSError) as error:
            self.monitor.metrics.commit_failed()
            self.monitor.failed(error)
            self.monitor.health.lacks = "the table cannot be written"
            self._fold = None
            self._to_publish = None
            fold.close()
            self._end_if_superseded(now=True)
            if not self._table_retry.is_on:
                self._table_lost_s = time.monotonic()
            elif time.monotonic() - self._table_lost_s > TABLE_GIVE_UP_S:
                raise
            self._settle_failed = self._settle_failed or is_settle
            wait_s = self._table_retry.failed()
            self.monitor.pause()
            log.warning(
                "the table cannot be written: paused. Nothing is lost; it goes on from the last commit",
                error=shown(error),
                wait_s=wait_s,
            )
            return False
        if fold.table.state.checkpoint > checkpoint:
            self.monitor.metrics.committed(time.monotonic() - begin_s)
        if is_settle or (fold.table.state.checkpoint > checkpoint and not self._settle_failed):
            self._settle_failed = False
            self._table_retry.reset()
        return True

    def _end_if_superseded(self, *, now: bool = False) -> None:
        """Raise KafkaProblem if another settler has taken the table over."""
        if self._table is None or not (now or time.monotonic() - self._looked_s >= LOOK_INTERVAL_S):
            return
        self._looked_s = time.monotonic()
        try:
            is_superseded = self._table.is_superseded()
        except OSError:
            return  # the disk is in trouble, which the next write tells of
        if is_superseded:
            raise KafkaProblem(
                f"another settler has taken over {self._out}: a newly started one wins, and this one ends. Run one "
                "settler for a curation"
            )

    # --- the counts

    def _publish_if_due(self, stop: StopRequest) -> None:
        counts = self._to_publish
        if counts is None or stop.requested or not self._publish_retry.is_due:
            return
        self._end_if_superseded(now=True)
        try:
            self._publisher.publish(counts)
        except NotEnded:
            raise
        except (KafkaError, OSError) as error:
            if is_hopeless(error):
                raise
            self.monitor.failed(error)
            # fenced by a newer settler, which takes the table over at once; or by the broker, after a long pause
            wait_s = self._publish_retry.failed(FENCED_WAIT_S if is_fenced(error) else 0.0)
            log.warning("the counts could not be published, trying again", error=shown(error), wait_s=wait_s)
            return
        self._publish_retry.reset()
        self._published, self._to_publish = counts, None
        log.info("counts published", n_unique=counts.n_unique, threshold=counts.header.rule.threshold)

    # --- the end

    def _all_is_folded(self, fold: Fold) -> bool:
        """Whether the workers have done all that stood in `pairs` at the start, and what they forwarded of it."""
        if self._targets is None or fold.numbers.n_forwarded > fold.n_received:
            return False
        return all(at >= target for at, target in zip(fold.frontier, self._targets, strict=True))

    def _is_done(self) -> bool:
        fold = self._fold
        return fold is not None and self._all_is_folded(fold) and fold.is_settled and self._to_publish is None

    def _settlement(self, *, stopped: bool = False) -> Settlement:
        table = self._table
        if table is None:
            return Settlement(Numbers(), None, stopped)
        numbers = self._fold.numbers if self._fold is not None else table.state.numbers
        return Settlement(numbers, table.state.settled, stopped)

    def _show_places(self, offsets: list[int]) -> None:
        self.monitor.places = {partition: Place(position(offset)) for partition, offset in enumerate(offsets)}

    def _show_settled(self, fold: Fold, settled: Settled) -> None:
        try:
            entry_counts, _ = fold.counts_at(settled)
            written_s = fold.counts_path(settled).stat().st_mtime
        except (DamagedFile, OSError):
            return  # the next settle shows its own
        final = self.header.rule.final
        if final is not None:  # t belongs to the whole pool
            settled = replace(settled, threshold=final.tail_count(settled.n_unique, settled.threshold))
        error, _ = self.header.rule.counter.error_bound(fold.numbers.n_matches)
        self.monitor.show_settled(settled, written_s, entry_counts, error)

    def _tell(self) -> None:
        now_s = time.monotonic()
        fold = self._fold
        if fold is None or now_s - self._logged_s < LOG_INTERVAL_S:
            return
        try:
            n_behind: int | str = self._ledger.n_behind()
        except (KafkaError, OSError) as error:
            log.warning("Kafka is away; waiting for it", error=shown(error))
            n_behind = "unknown"
        n_read = fold.numbers.n_read
        log.info(
            "settling",
            n_read=n_read,
            n_in_table=fold.numbers.n_in_table,
            settled_at=fold.n_read_at_settle,
            n_ledger_offsets_behind=n_behind,
            records_per_second=round(max(0, n_read - self._n_logged) / (now_s - self._logged_s)),
        )
        self._logged_s, self._n_logged = time.monotonic(), n_read
