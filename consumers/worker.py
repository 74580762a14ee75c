"""A worker: takes the partitions that the group gives it, decides on their pairs, and writes what came of them.

poll -> decode -> valid? -> at home? -> seen before? -> match -> count -> decide -> one transaction

As many workers as wished share the partitions. A partition that is new here is taken over and restored from its ledger
(`owned_partition.py`), a slice at a time, while those that are ready go on. Whatever goes wrong with a partition, it is
dropped and taken over anew; only what waiting cannot mend ends the worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from consumers.background import Background
from consumers.clients import NotEnded, fetch_ahead, make_consumer
from consumers.decision import Decider
from consumers.ends import last_records, positions_at_end
from consumers.errors import KafkaProblem, in_words, is_hopeless
from consumers.garbage import Garbage
from consumers.inbox import Inbox
from consumers.ledger import LedgerRecord, RuleHeader
from consumers.membership import Membership
from consumers.memory import check_memory
from consumers.messages import message_columns, offset_and_row, position
from consumers.monitor import WorkerMonitor
from consumers.owned_partition import Commit, OwnedPartition
from consumers.partition_state import UNREAD, check_header
from consumers.progress import Place
from consumers.published_counts import CountsReader, PublishedCounts, check_size
from consumers.retries import Retry, shown, wait
from consumers.settings import AllSettings
from consumers.topics import check_partitions
from consumers.watchdog import Watchdog, given_or_own
from stream_curate.failpoints import reach
from stream_curate.open_curation import load_metadata, make_rule, public_seed
from stream_curate.stop import StopRequest
from stream_curate.table.state import Numbers
from stream_curate.warm_up import warm_up

POLL_RECORDS = 10_000
POLL_MS = 100
RESTORE_SLICE_S = 0.3
LOG_INTERVAL_S = 10.0
PROGRESS_INTERVAL_S = 2.0
LOOK_INTERVAL_S = 0.5

log = structlog.get_logger()


@dataclass
class Worked:
    """What a worker has done.

    Attributes:
        numbers: what became of the records that it committed.
        stopped: whether it was asked to stop before it came to an end.
    """

    numbers: Numbers
    stopped: bool = False


def work(
    settings: AllSettings,
    *,
    until_end: bool = False,
    from_earliest: bool = False,
    stop: StopRequest | None = None,
    watchdog: Watchdog | None = None,
    on_commit: Callable[[Numbers], None] = lambda numbers: None,
    monitor: WorkerMonitor | None = None,
) -> Worked:
    """Be a worker until a stop is requested, or the input is done.

    Args:
        settings: all of them; `metadata`, `seed`, `dedup`, `counter` and `keep_columns` as all workers have them.
        until_end: end when all that stands in `pairs` now is in the ledger, and what is forwarded of it.
        from_earliest: where nothing was ever read of a partition, begin with what retention has left of it.
        stop: asked several times a second.
        watchdog: ends the process when a client hangs; None for one of its own.
        on_commit: called after each commit.
        monitor: is told what happens; it may be serving already.

    Raises:
        ConfigError: settings that cannot be used, or that are not those that the ledger was written with.
        KafkaProblem: no broker answers at the start; a position that retention has removed; a damaged ledger; or
            anything else that waiting does not mend.
    """
    doing = "working on " + settings.kafka.topics.pairs
    with given_or_own(watchdog) as its_watchdog, in_words(settings.kafka, doing):
        worker = _Worker(
            settings,
            from_earliest=from_earliest,
            stop=stop or StopRequest(),
            watchdog=its_watchdog,
            on_commit=on_commit,
            monitor=monitor or WorkerMonitor(settings.kafka),
        )
        try:
            with worker.monitor.observe(worker.header):
                return worker.run(until_end=until_end)
        finally:
            worker.close()


class _Worker:
    def __init__(
        self,
        settings: AllSettings,
        *,
        from_earliest: bool,
        stop: StopRequest,
        watchdog: Watchdog,
        on_commit: Callable[[Numbers], None],
        monitor: WorkerMonitor,
    ) -> None:
        self._settings = settings.kafka
        self._topics = settings.kafka.topics
        self._from_earliest = from_earliest
        self._stop = stop
        self._watchdog = watchdog
        self._on_commit = on_commit
        self.monitor = monitor
        self._stage = monitor.metrics.stage
        self.numbers = Numbers()
        final = settings.final_decisions
        pairs_id = check_partitions(self._settings, self._topics.pairs)
        others = (self._topics.ledger, self._topics.dlq)
        for topic in others if final is None else (*others, self._topics.accepted):
            check_partitions(self._settings, topic)
        self._columns = message_columns(settings)
        seed = settings.read_seed()
        metadata = load_metadata(settings, None)
        rule = make_rule(settings, metadata, seed, final)
        check_size(len(metadata), rule)
        self.header = RuleHeader(rule, self._settings.partitions, settings.keep_columns, pairs_id)
        warm_up(rule, settings.matcher)
        self._decider = Decider(self.header, metadata, public_seed() if seed is None else seed, settings.matcher)
        self._owned: dict[int, OwnedPartition] = {}
        self._inboxes: dict[int, Inbox] = {}  # of the partitions that are ready
        self._restoring: int | None = None  # one at a time
        self._writing: dict[int, tuple[Commit, Background]] = {}  # at most one of each partition
        self._failures: dict[int, Retry] = {}  # of the partitions whose last try failed
        self._targets: list[int] = []
        self._published: PublishedCounts | None = None
        with ExitStack() as clients:
            self._pairs, self._ledger, counts = (
                clients.enter_context(closing(make_consumer(self._settings))) for _ in range(3)
            )
            self._counts = CountsReader(counts, self._settings)
            with self._watchdog.limit(f"reading {self._topics.counts}", 3 * self._settings.give_up_after_s):
                self._take_published(self._counts.newest())
            with self._watchdog.limit(f"looking at {self._topics.ledger}", 10 * self._settings.give_up_after_s):
                self._check_ledgers()
            self._membership = Membership(self._settings)
            self._clients = clients.pop_all()  # only what cannot begin closes them here
        monitor.health.lacks = "the group has not answered yet"
        self._polled_s = self._logged_s = self._shown_s = self._looked_s = time.monotonic()
        self._n_logged = 0
        # generous: each call of the client should end by itself, within give_up_after_s
        self._round_limit_s = self._settings.max_poll_interval_s + 10 * self._settings.give_up_after_s

    def _check_ledgers(self) -> None:
        """See that all partitions were written by the same rule, before anything is written by this one."""
        for record in last_records(self._ledger, self._topics.ledger, self._settings.partitions):
            if record is not None:
                where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
                check_header(self._decider.header, LedgerRecord.decode(record.value, where).header, where)

    def run(self, *, until_end: bool) -> Worked:
        if until_end:
            ends = positions_at_end(self._ledger, self._topics.pairs, self._settings.partitions)
            self._targets = list(ends)
        troubles, garbage = Retry(), Garbage()
        while not self._stop.requested:
            garbage.collect_if_due()
            try:
                with self._watchdog.limit("a round of the worker", self._round_limit_s):
                    self._round()
                if until_end and self._all_is_done():
                    return Worked(self.numbers)
                troubles.reset()
            except KafkaError as error:
                if is_hopeless(error) or isinstance(error, NotEnded):
                    raise
                wait_s = troubles.failed()
                self.monitor.failed(error)
                log.warning("Kafka is in trouble, trying again", error=shown(error), wait_s=wait_s)
                wait(wait_s, self._stop)
        with self._watchdog.limit("the last commits", self._round_limit_s):
            self._finish_all()
        return Worked(self.numbers, stopped=True)

    def close(self) -> None:
        """Leave the group first, so that others can begin to restore."""
        try:
            self._membership.close()
        except KafkaError as error:
            log.warning("could not leave the group; its partitions move when the session is over", error=shown(error))
        for partition in list(self._owned):
            self._drop(partition)
        self._clients.close()

    # --- one round

    def _round(self) -> None:
        is_busy = bool(self._inboxes) or self._restoring is not None
        with self._stage("group"):
            self._follow_group(0 if is_busy else POLL_MS)
        self._finish_all(only_done=True)
        with self._stage("restore"):
            self._take_published(self._counts.newer())
            self._take_over_one()
            self._restore_a_slice()
        with self._stage("read"):
            self._read(POLL_MS if self._restoring is None else 0)
        self._show_places()
        for partition in sorted(self._inboxes):
            if self._stop.requested:
                return
            if partition in self._inboxes and self._inboxes[partition].is_due(self._target(partition)):
                self._commit(partition)
                self._follow_group_if_due()
        self._tell()

    def _follow_group(self, timeout_ms: int) -> None:
        self._polled_s = time.monotonic()
        n_changes = self._membership.n_changes
        for partition in self._membership.poll(timeout_ms):
            if partition in self._owned:
                log.info("partition given up", partition=partition)
                self._give_back(partition)
        if self._membership.n_changes > n_changes:
            self.monitor.metrics.rebalanced()
        for partition in set(self._owned) - self._membership.partitions:
            self._give_back(partition)

    def _follow_group_if_due(self) -> None:
        """Commits of many partitions can take long together."""
        if time.monotonic() - self._polled_s > min(1.0, self._settings.max_poll_interval_s / 4):
            self._follow_group(0)

    def _take_published(self, published: PublishedCounts | None) -> None:
        if published is None:
            return
        check_header(self._decider.header, published.header, f"the newest record of {self._topics.counts}")
        self._published = published
        for owned in self._owned.values():
            owned.rebase(published)

    def _take_over_one(self) -> None:
        """Begin with one partition that is new; making a producer takes a while."""
        if self._restoring is not None:
            return
        for partition in sorted(self._membership.partitions - set(self._owned)):
            if partition >= self._settings.partitions:
                raise KafkaProblem(
                    f"{self._topics.pairs} has a partition {partition}, and kafka.partitions is "
                    f"{self._settings.partitions}: it was given more. Their number is fixed for the life of a ledger: "
                    "make new topics, all of them, with as many as you want, and replay"
                )
            if partition not in self._failures or self._failures[partition].is_due:
                with self._in_doubt(partition):
                    self._owned[partition] = OwnedPartition(
                        self._settings, partition, self._decider, self._published, self._watchdog
                    )
                    self._restoring = partition
                return

    def _restore_a_slice(self) -> None:
        partition = self._restoring
        if partition is None:
            return
        with self._in_doubt(partition):
            owned = self._owned[partition]
            if not owned.restore(self._ledger, RESTORE_SLICE_S):
                return
            self._restoring = None
            self._begin_reading(owned)
            log.info("partition ready", partition=partition, n_seen=len(owned.state.seen))
            reach("restore.sought")

    def _begin_reading(self, owned: OwnedPartition) -> None:
        """Go to where the ledger ends, if that is still there."""
        partition, state = owned.partition, owned.state
        place = TopicPartition(self._topics.pairs, partition)
        begin = self._pairs.beginning_offsets([place])[place]
        end = self._pairs.end_offsets([place])[place]
        self._check_retention(partition, state.next, begin)
        if state.next == UNREAD:
            state.next = position(begin)
        offset, _ = offset_and_row(state.next)
        if offset > end:
            raise KafkaProblem(
                f"{place.topic}, partition {partition}: the ledger has come to offset {offset}, and the topic ends at "
                f"{end}: it is not the topic that the ledger was written from. A ledger belongs to its pairs for life: "
                "make new topics, all of them"
            )
        # only now: a partition that is assigned and has no position would stop the reading of all others
        self._inboxes[partition] = Inbox(self._topics.pairs, partition, self._columns, self._settings, state.next)
        self._pairs.assign([TopicPartition(self._topics.pairs, p) for p in self._inboxes])
        self._pairs.seek(place, offset)

    def _check_retention(self, partition: int, next_position: int, begin: int) -> None:
        """See that the next record to read is still there, in a topic that begins at the offset `begin`."""
        where = f"{self._topics.pairs}, partition {partition}"
        if next_position == UNREAD:
            if begin > 0 and not self._from_earliest:
                raise KafkaProblem(
                    f"{where}: nothing was read of it yet, and it begins at offset {begin}: retention has removed what "
                    "was before. To begin with what is left: worker --from-earliest"
                )
            return
        offset, _ = offset_and_row(next_position)
        if offset < begin:
            raise KafkaProblem(
                f"{where}: the next record to read is at offset {offset}, and the topic begins at {begin}: retention "
                f"has removed {begin - offset:,} offsets that were not read yet. They are lost to this curation. Put "
                "them back if the crawl still has them (new topics, and replay), and raise kafka.pairs_retention_h, or "
                "run more workers"
            )

    def _read(self, timeout_ms: int) -> None:
        if not self._inboxes:
            return
        with self._input_is_there():
            polled = self._pairs.poll(timeout_ms=timeout_ms, max_records=POLL_RECORDS)
        for place, messages in polled.items():
            if place.partition in self._inboxes:
                self._inboxes[place.partition].add(messages)
        if polled:
            fetch_ahead(self._pairs)
        with self._input_is_there():
            for partition, inbox in self._inboxes.items():
                inbox.passed(self._pairs.position(TopicPartition(self._topics.pairs, partition), timeout_ms=0))

    @contextmanager
    def _input_is_there(self) -> Iterator[None]:
        try:
            yield
        except (kafka_errors.OffsetOutOfRangeError, kafka_errors.NoOffsetForPartitionError) as error:
            raise KafkaProblem(
                f"{self._topics.pairs}: what was to be read next is not there ({shown(error)}): either retention has "
                "removed it, as the workers were slower than the input for longer than kafka.pairs_retention_h, or the "
                "end of the topic was lost. What is gone is lost to this curation: see to the cause, make new topics, "
                "all of them, and replay"
            ) from error

    # --- commits

    def _commit(self, partition: int) -> None:
        """Decide on what has come; it is written while the next is decided on, here or in other partitions."""
        owned, inbox = self._owned[partition], self._inboxes[partition]
        with self._in_doubt(partition):
            for batch, next_position in inbox.take():
                with self._stage("decide"):
                    commit = owned.prepare(batch, next_position)
                self._finish(partition)
                name = f"commit-{partition}"
                self._writing[partition] = (commit, Background(partial(owned.write, commit), name))
                self._follow_group_if_due()
                if self._owned.get(partition) is not owned or self._stop.requested:
                    return

    def _finish(self, partition: int) -> None:
        """Wait until a commit of the partition is written, if there is one, and take note of it."""
        commit, writing = self._writing.pop(partition, (None, None))
        if commit is None or writing is None:
            return
        try:
            with self._stage("wait"):
                writing.finish()
        except BaseException:
            self.monitor.metrics.commit_failed()
            raise
        self._owned[partition].take_note(commit)
        self.monitor.metrics.committed(commit.numbers, commit.seconds)
        self._failures.pop(partition, None)
        if self._targets:
            for home_partition, after in commit.reached.items():
                self._targets[home_partition] = max(self._targets[home_partition], after)
        self._on_commit(self.n_all())

    def _finish_all(self, *, only_done: bool = False) -> None:
        for partition, (_, writing) in list(self._writing.items()):
            if writing.is_done or not only_done:
                with self._in_doubt(partition):
                    self._finish(partition)

    def n_all(self) -> Numbers:
        """What was committed by all partitions, those that are gone included."""
        total = Numbers()
        total.add(self.numbers)
        for owned in self._owned.values():
            total.add(owned.numbers)
        return total

    def _in_doubt(self, partition: int) -> _DropOnError:
        return _DropOnError(self, partition)

    def _give_back(self, partition: int) -> None:
        """What is being written is written to its end: given up, it would have to be done again by another."""
        with self._in_doubt(partition):
            self._finish(partition)
        self._drop(partition)

    def _drop(self, partition: int) -> None:
        """Forget a partition; what was read of it and not committed is read again by whoever has it next."""
        self._writing.pop(partition, None)
        if self._restoring == partition:
            self._restoring = None
        if self._inboxes.pop(partition, None) is not None:
            self._pairs.assign([TopicPartition(self._topics.pairs, p) for p in self._inboxes])
        owned = self._owned.pop(partition, None)
        if owned is not None:
            self.numbers.add(owned.numbers)
            owned.close()

    def failed(self, partition: int, error: BaseException) -> None:
        """Drop a partition because of an error, to be taken over again a little later."""
        retry = self._failures.setdefault(partition, Retry())
        retry.failed()
        self.monitor.failed(error)
        log.warning(
            "partition in doubt: dropped, to be restored",
            partition=partition,
            error=shown(error),
            n_times=retry.n_times,
        )
        reach("abort.begin")
        self._drop(partition)
        reach("abort.done")

    # --- the end

    def _target(self, partition: int) -> int | None:
        return self._targets[partition] if self._targets else None

    def _all_is_done(self) -> bool:
        """Whether the ledger has all that was there at the start, of all partitions, whoever works on them."""
        now_s = time.monotonic()
        if self._restoring is not None or self._writing or now_s - self._looked_s < LOOK_INTERVAL_S:
            return False
        if any(inbox.next < self._targets[partition] for partition, inbox in self._inboxes.items()):
            return False
        self._looked_s = now_s
        nexts = [UNREAD] * self._settings.partitions
        for record in last_records(self._ledger, self._topics.ledger, self._settings.partitions):
            if record is not None:
                where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
                nexts[record.partition] = LedgerRecord.decode(record.value, where).next
        if any(reached < target for reached, target in zip(nexts, self._targets, strict=True) if target):
            return False
        # where retention has left nothing there is no target, and perhaps nobody has looked at the partition
        places = [TopicPartition(self._topics.pairs, partition) for partition in range(len(nexts))]
        for place, begin in self._pairs.beginning_offsets(places).items():
            self._check_retention(place.partition, nexts[place.partition], begin)
        return True

    # --- telling

    def _show_places(self) -> None:
        """Tell the monitor where each partition is: what was committed or, when nothing waits, what was read."""
        places = {}
        for partition in self._membership.partitions:
            owned, inbox = self._owned.get(partition), self._inboxes.get(partition)
            if owned is None or inbox is None:
                n_restored = owned.n_restored if owned is not None else 0
                places[partition] = Place(is_ready=False, n_restored=n_restored)
                continue
            done_to = inbox.done_to if partition not in self._writing else None
            places[partition] = Place(max(0, owned.committed if done_to is None else done_to))
        self.monitor.places = places
        if self._membership.has_joined:
            self.monitor.health.lacks = ""

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s >= PROGRESS_INTERVAL_S:
            self._shown_s = now_s
            self._membership.show_progress(
                {p: offset_and_row(owned.committed)[0] for p, owned in self._owned.items() if owned.committed != UNREAD}
            )
            self.monitor.metrics.show_seen(
                sum(len(owned.state.seen) for owned in self._owned.values() if owned.is_ready)
            )
        if now_s - self._logged_s >= LOG_INTERVAL_S:
            numbers = self.n_all()
            log.info(
                "working",
                partitions=",".join(map(str, sorted(self._inboxes))) or "none yet",
                n_read=numbers.n_read,
                n_admitted=numbers.n_admitted,
                n_rejected=numbers.n_rejected,
                records_per_second=round((numbers.n_read - self._n_logged) / (now_s - self._logged_s)),
            )
            self._logged_s, self._n_logged = now_s, numbers.n_read
            self._tell_of_old_views()
            seen = [owned.state.seen for owned in self._owned.values() if owned.is_ready]
            check_memory(sum(each.nbytes for each in seen), sum(len(each) for each in seen))

    def _tell_of_old_views(self) -> None:
        """Final decisions get worse as the published counts get old, and nothing else would show it."""
        final = self.header.rule.final
        if final is None:
            return
        ready = {partition: owned.state.view for partition, owned in self._owned.items() if owned.is_ready}
        alone = sorted(partition for partition, view in ready.items() if view.is_alone(final.first_counts_at))
        if alone and self._settings.partitions > 1:
            log.warning(
                "the published counts are old, and decisions are made with what each partition knows alone: see that a "
                "settler is running",
                partitions=",".join(map(str, alone)),
            )


class _DropOnError:
    """Around work on one partition: an error of Kafka's drops it, unless waiting would not help."""

    def __init__(self, worker: _Worker, partition: int) -> None:
        self._worker = worker
        self._partition = partition

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, KafkaError | OSError) or isinstance(error, NotEnded) or is_hopeless(error):
            return False
        self._worker.failed(self._partition, error)
        return True
