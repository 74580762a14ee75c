"""One partition in the hands of one worker: taken over, restored, then committed to.

Its transactions have a producer of their own, `transactional.id = <ledger topic>-<partition>`. Initialising it ends
whatever the owner before had open and refuses all that this one may still send; only then the ledger is read. In doubt
about anything, all of this is thrown away and the partition taken over anew: nothing but the ledger counts.

A commit is prepared, written, and taken note of. While one is written the next may be prepared, with a state that is
ahead of the ledger by then: should the write fail, the state goes with all the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from kafka import KafkaConsumer, KafkaProducer

from consumers.clients import give_up, make_producer
from consumers.dead_letters import DeadLetter, dead_letters
from consumers.decision import Decider
from consumers.errors import KafkaProblem
from consumers.home_messages import home_messages, message_sized
from consumers.ledger import LedgerRecord
from consumers.ledger_cache import LedgerCache, checksum_of
from consumers.messages import ARROW_HEADERS, FORWARDED_FROM, ReadBatch, encode_arrow, position
from consumers.partition_state import UNREAD, PartitionState
from consumers.published_counts import PublishedCounts
from consumers.restore import Restore
from consumers.settings import KafkaSettings
from consumers.transactions import commit_transaction
from consumers.view import Delta
from consumers.watchdog import Watchdog
from stream_curate.failpoints import reach
from stream_curate.table.state import Numbers

CACHE_INTERVAL_S = 30.0


@dataclass
class Commit:
    """What a commit writes.

    Attributes:
        next: up to where this is all of the input.
        records: of the ledger, and `values`, the same as bytes.
        forwards: Arrow messages, each with the partition where its pairs are at home.
        accepted: Arrow messages with the admitted pairs, where decisions are final.
        letters: what was rejected.
        offsets: once it is written, those of the ledger's records.
        reached: once it is written, the position after the last pair that was forwarded to each partition.
        seconds: once it is written, how long its transaction took.
    """

    next: int
    records: Sequence[LedgerRecord]
    values: Sequence[bytes]
    forwards: Sequence[tuple[int, bytes]]
    accepted: Sequence[bytes]
    letters: Sequence[DeadLetter]
    offsets: list[int] = field(default_factory=list)
    reached: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def numbers(self) -> Numbers:
        """What became of all its records."""
        total = Numbers()
        for record in self.records:
            total.add(record.numbers)
        return total


class OwnedPartition:
    """A partition of `pairs` and of `ledger`, owned by this process.

    Attributes:
        partition: its number.
        numbers: what became of the records that were committed by this owner.
        committed: the position up to which all is committed; UNREAD before the first commit.

    Raises:
        KafkaError: from all methods; the object is then to be closed and made anew.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partition: int,
        decider: Decider,
        published: PublishedCounts | None,
        watchdog: Watchdog,
    ) -> None:
        reach("init.begin")
        self.partition = partition
        self.numbers = Numbers()
        self.committed = UNREAD
        self._state: PartitionState | None = None
        self._settings = settings
        self._decider = decider
        self._published = published
        self._watchdog = watchdog
        self._restore: Restore | None = None
        self._cache: LedgerCache | None = None
        self._ledger_end = 0
        self._saved_s = time.monotonic()
        self._limit_s = settings.transaction_limit_s
        self._producer: KafkaProducer = make_producer(
            settings, transactional_id=f"{settings.topics.ledger}-{partition}"
        )
        try:
            reach("init.producer_made")
            with watchdog.limit(f"taking over partition {partition}", 3 * settings.give_up_after_s):
                self._producer.init_transactions()
            reach("init.done")
        except BaseException:
            self.close()
            raise

    @property
    def is_ready(self) -> bool:
        """Whether it is restored."""
        return self._state is not None

    @property
    def n_restored(self) -> int:
        """How far it is restored, in steps; see `Restore`."""
        return self._restore.n_steps if self._restore is not None else 0

    @property
    def state(self) -> PartitionState:
        """What is known of the partition, once it is restored."""
        if self._state is None:
            raise RuntimeError(f"partition {self.partition} is not restored yet")
        return self._state

    def restore(self, consumer: KafkaConsumer, seconds: float) -> bool:
        """Read the ledger for about so long; returns whether all of it is read, and `state` is there."""
        if self._restore is None:
            settings = self._settings
            if settings.cache_dir is not None:
                header = self._decider.header
                self._cache = LedgerCache.open(settings.cache_dir, settings.topics.ledger, self.partition, header)
            self._restore = Restore(consumer, settings.topics.ledger, self._new_state, self._cache)
        if not self._restore.go_on(seconds):
            return False
        self._ledger_end = self._restore.end
        self._state, self._restore = self._restore.state, None
        self.committed = self._state.next
        if self._published is not None and self._published.cut != self._state.view.cut:
            self._state.view.rebase(self._published)
        return True

    def rebase(self, published: PublishedCounts) -> None:
        """Decide with newer counts from now on."""
        self._published = published
        if self._state is not None:
            self._state.view.rebase(published)
        if self._cache is not None:
            self._cache.forget_deltas_before(published.cut[self.partition])

    def prepare(self, batch: ReadBatch, next_position: int) -> Commit:
        """Decide on the next records: all of a commit that takes time, done before its transaction begins.

        `state` then goes on from `next_position`, so that the next commit can be prepared while this one is written.

        Args:
            batch: the records from `state.next` on. It may be empty, when only the position moves.
            next_position: up to where this is all of the input.
        """
        state = self.state
        decision = self._decider.decide(batch, state)
        records = self._decider.ledger_records(decision, state, next_position)
        commit = Commit(
            next_position,
            records,
            [record.encode() for record in records],
            [(home, encode_arrow(message)) for home, message in home_messages(decision.foreign, decision.homes)],
            self._accepted_messages(decision.admitted),
            dead_letters(batch, decision.rejections, self.partition),
        )
        state.next = next_position
        return commit

    def write(self, commit: Commit) -> None:
        """Write what was prepared in one transaction; `take_note` comes next. For any thread, one commit at a time."""
        producer, topics = self._producer, self._settings.topics
        begin_s = time.monotonic()
        reach("commit.begin")
        producer.begin_transaction()
        written = [producer.send(topics.ledger, value, partition=self.partition) for value in commit.values]
        reach("commit.ledger_sent")
        headers = [*ARROW_HEADERS, (FORWARDED_FROM, b"%d" % self.partition)]
        forwarded = [
            (home, producer.send(topics.pairs, value, headers=headers, partition=home))
            for home, value in commit.forwards
        ]
        reach("commit.forwards_sent")
        accepted = [
            producer.send(topics.accepted, value, headers=ARROW_HEADERS, partition=self.partition)
            for value in commit.accepted
        ]
        if accepted:
            reach("commit.accepted_sent")
        letters = [
            producer.send(
                topics.dlq,
                letter.value,
                letter.key,
                letter.headers,
                letter.partition,
            )
            for letter in commit.letters
        ]
        reach("commit.letters_sent")
        end_s = time.monotonic() + self._limit_s
        for future in [*written, *(future for _, future in forwarded), *accepted, *letters]:
            future.get(timeout=max(0.0, end_s - time.monotonic()))
        commit.offsets = [future.get(timeout=0).offset for future in written]
        self._check_ledger(commit.offsets[0])
        reach("commit.flushed")
        reach("commit.ending")
        commit_transaction(producer, self._limit_s)
        reach("commit.done")
        self._ledger_end = commit.offsets[-1] + 1
        for home, future in forwarded:
            after = position(future.get(timeout=0).offset + 1)
            commit.reached[home] = max(after, commit.reached.get(home, 0))
        commit.seconds = time.monotonic() - begin_s

    def take_note(self, commit: Commit) -> None:
        """It is written."""
        self.committed = commit.next
        self.numbers.add(commit.numbers)
        self._remember(commit)

    def close(self) -> None:
        """Let go of it. What is open in a transaction is not committed later.

        Raises:
            NotEnded: when that cannot be made sure.
        """
        if self._cache is not None:
            self._cache.close()
            self._cache = None
        give_up(self._producer, f"partition {self.partition}")

    def _new_state(self) -> PartitionState:
        n_entries = len(self._decider.metadata)
        return PartitionState(self._decider.header, self.partition, n_entries, self._published)

    def _accepted_messages(self, admitted: pa.RecordBatch) -> list[bytes]:
        """What whoever follows the topic `accepted` reads; nothing where decisions are provisional."""
        if self._decider.header.rule.final is None:
            return []
        return [encode_arrow(message) for message in message_sized(admitted)]

    def _check_ledger(self, offset: int) -> None:
        """See that a record that goes to `offset` goes on where the ledger ended."""
        if offset < self._ledger_end:
            raise KafkaProblem(
                f"{self._settings.topics.ledger}, partition {self.partition} had come to offset {self._ledger_end}, "
                f"and goes on at {offset}: it was cut off or made anew meanwhile, and what came of the input before is "
                "gone. Make new topics, all of them, and replay"
            )

    def _remember(self, commit: Commit) -> None:
        if self._cache is None:
            return
        for offset, value, record in zip(commit.offsets, commit.values, commit.records, strict=True):
            self._cache.add(offset, checksum_of(value), record.next, record.seen, Delta.of(record))
        if time.monotonic() - self._saved_s > CACHE_INTERVAL_S:
            self._cache.save()
            self._saved_s = time.monotonic()
