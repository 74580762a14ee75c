"""Does everything add up? An independent look at the topics and the table of a curation.

It shares no code with workers and settler but what a message, a valid pair and the metadata are, and the counters: it
reads the ledger with a decoder of its own, and counts and decides with the plain reference of `stream_curate.offline`.

    ledger ranges         for each partition no gap, no overlap, from the beginning on, in whole commits
    rule headers          the same everywhere, the threshold apart
    ledger numbers        each record agrees with itself
    view cuts             lie at ends of commits, in one row as published cuts do, and never above a settled cut that
                          their records are below
    recount of the input  the outcome of each record of `pairs`, and the deltas of each range, are as the ledger says
    seen pairs            the keyed hashes in the ledger are those of the unique pairs
    admitted pairs        are unique pairs of their range as they were read, and all that the rule keeps are among them
    forwarded pairs       stand in their home partition, as often as they were found elsewhere
    dead letters          one for each rejected record, with its reason and bytes
    curated table         holds what offline keeps at its cut with its counter, pair by pair; where decisions are
                          final, what the ledger has accepted
    settled cuts          only grow, lie at ends of commits, and are never below the published one
    published counts      are those at their cut, which a settled version of the table holds
    open transactions     none stays open beyond its timeout
    final decisions       where there are such: each is what the rule comes to with what its view knew, coins included
    topic of accepted pairs  likewise: it holds the accepted pairs of the ledger in their order, each once

Workers and settler may be at work meanwhile. What can only be checked against something is read before it: the
published counts, the table, the ends of the ledger, the ends of the input.

Memory: some 250 bytes for each unique pair of the input and 4 for each match, and 80 for each row of the table: a
million pairs are well within 1 GB. Time: some 10,000 pairs a second.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import TopicPartition

from consumers.audit_final import FinalRecount, compare_topic
from consumers.audit_forwards import Forwards
from consumers.audit_ledger import (
    LedgerChecker,
    LedgerRange,
    Unreadable,
    has_coins,
    header_differences,
    is_below,
    read_range,
    read_row,
)
from consumers.audit_letters import Rejected, compare_letters
from consumers.audit_reading import InputReader, place_in_words, position_in_words, read_records
from consumers.audit_recount import Expected, Outcome, Recount, compare_range
from consumers.audit_report import AuditReport, CheckName
from consumers.audit_table import Settled, TableReader, Versions, compare_version
from consumers.audit_transactions import OpenTransactions
from consumers.clients import make_admin, make_consumer
from consumers.errors import in_words
from consumers.messages import MessageReader, message_columns, position
from consumers.settings import AllSettings
from consumers.topics import check_partitions, topics_of
from stream_curate.draws import seed_fingerprint
from stream_curate.errors import ConfigError, OutputError
from stream_curate.open_curation import PUBLIC_SEED
from stream_curate.sources import ColumnChoice
from stream_curate.table.folder import TableFolder

_NUMBERS = ("n_unique", "n_duplicate", "n_forwarded", "n_matched", "n_admitted")
_TOTALS = ("n_ledger_records", "n_commits", "n_read", *_NUMBERS, "n_rejected")
TRANSACTION_GRACE_S = 12.0  # brokers look for what is over its time every 10 s


def audit(
    settings: AllSettings,
    out: Path,
    *,
    versions: Versions = "last",
    transaction_grace_s: float = TRANSACTION_GRACE_S,
) -> AuditReport:
    """Check all that can be checked; see the module.

    Args:
        settings: the brokers, the topics, and the seed. The rule is the table's own.
        out: the table's folder.
        versions: which settled versions of the table to look into: the last, all that can still be read, or one. Where
            decisions are final the last is all there is, as it has all that any before it had.
        transaction_grace_s: how much longer than `kafka.transaction_timeout_s` a transaction may be open.

    Raises:
        ConfigError: there is no table, or another seed than its own was given.
        UsageError: the version that is asked for is no settled one.
        OutputError: the table is damaged.
        KafkaProblem: no broker in time, or a topic that is not there.
    """
    kafka = settings.kafka
    pairs_id = check_partitions(kafka, kafka.topics.pairs)
    for topic in (kafka.topics.ledger, kafka.topics.dlq):
        check_partitions(kafka, topic)
    with in_words(kafka, "auditing"), ExitStack() as clients:
        return _Audit(settings, out, clients, pairs_id).run(versions, kafka.transaction_timeout_s + transaction_grace_s)


@dataclass(frozen=True)
class _View:
    """The view of some consecutive records of a partition."""

    where: str
    offset: int
    partition: int
    next: int
    cut: tuple[int, ...]
    threshold: int


@dataclass(frozen=True)
class _Published:
    """The newest record of the topic of counts."""

    where: str
    header: dict[str, Any]
    cut: tuple[int, ...]
    n_unique: int
    entry_counts: np.ndarray
    entry_coins: np.ndarray


class _Audit:
    def __init__(self, settings: AllSettings, out: Path, clients: ExitStack, pairs_id: str) -> None:
        self._kafka = settings.kafka
        self._names = settings.kafka.topics
        self._n_partitions = settings.kafka.partitions
        self._out = out
        folder = TableFolder(out)
        identity = folder.identity()
        self._rule = identity.rule
        self._columns: ColumnChoice = message_columns(
            settings.model_copy(update={"keep_columns": identity.kept_columns})
        )
        metadata = folder.metadata()
        if metadata.fingerprint != self._rule.metadata_sha256:
            raise OutputError(f"{folder.metadata_file} is not the list that the table was made with: put that one back")
        self._header = self._rule.as_dict() | {
            "n_partitions": self._n_partitions,
            "kept_columns": list(identity.kept_columns),
            "pairs_id": pairs_id,
        }
        self.report = AuditReport(self._rule.decisions)
        self._seed = self._known_seed(settings)
        self._forwards = Forwards(self._names.pairs, self._n_partitions)
        self._recount = Recount(self._names.pairs, metadata, self._rule, self._n_partitions, self._seed, self._forwards)
        self._final: FinalRecount | None = None
        if self._rule.final is not None:
            self._final = FinalRecount(self._recount, self._n_partitions, self._rule.threshold, self._rule.final)
        self._consumer = clients.enter_context(closing(make_consumer(self._kafka)))
        self._ledger_consumer = clients.enter_context(closing(make_consumer(self._kafka)))
        self._admin = clients.enter_context(closing(make_admin(self._kafka)))
        self._checkers: list[LedgerChecker] = []
        self._commit_ends: list[set[int]] = []
        self._starts: list[int] = []  # where the ledger of each partition begins
        self._views: list[_View] = []
        self._removed: set[int] = set()
        self._totals: Multiset[str] = Multiset(dict.fromkeys(_TOTALS, 0))

    def run(self, versions: Versions, transaction_limit_s: float) -> AuditReport:
        # 1 what is checked against something is read before it
        topics = topics_of(self._kafka, self._rule.decisions)
        if self._final is not None:
            check_partitions(self._kafka, self._names.accepted)
            self._accepted_ends_before = self._ends(self._names.accepted)
        places = [place for topic in topics for place in self._places(topic.name)]
        transactions = OpenTransactions(self._admin, places, transaction_limit_s)
        published = self._read_published()
        table = TableReader(self._out, self._names.pairs, self._n_partitions, versions)
        self._find_ends()
        # 2 the ledger and the input, side by side
        for partition in range(self._n_partitions):
            self._check_partition(partition)
        # 3 what holds of all partitions together
        self._forwards.compare(self.report, [position(end) for end in self._input_ends_before], self._removed)
        self._check_views(table.settled)
        if self._final is not None:
            self._final.compare(self.report)
        self._check_table(table)
        self._check_cuts(table.settled)
        self._check_published(published, table.settled)
        transactions.end(self.report)
        self.report.numbers |= {name: int(n) for name, n in self._totals.items()}
        return self.report

    def _known_seed(self, settings: AllSettings) -> int | None:
        seed = settings.read_seed()
        if seed is not None and seed_fingerprint(seed) != self._rule.seed_fingerprint:
            raise ConfigError(
                f"{self._out} was made with a seed of fingerprint {self._rule.seed_fingerprint}, "
                f"not {seed_fingerprint(seed)}: give its own with --seed-file"
            )
        if seed is None and seed_fingerprint(PUBLIC_SEED) == self._rule.seed_fingerprint:
            return PUBLIC_SEED
        if seed is None:
            self.report.beyond_checking.append(
                "the seed was not given (--seed-file): keyed hashes of seen pairs were not compared, and it was not "
                "checked which pairs the table must have of those whose entries are all above the threshold"
            )
        return seed

    def _places(self, topic: str) -> list[TopicPartition]:
        n_partitions = 1 if topic == self._names.counts else self._n_partitions
        return [TopicPartition(topic, partition) for partition in range(n_partitions)]

    def _begins(self, topic: str) -> list[int]:
        places = self._places(topic)
        found = self._consumer.beginning_offsets(places)
        return [int(found[place]) for place in places]

    def _ends(self, topic: str) -> list[int]:
        places = self._places(topic)
        found = self._consumer.end_offsets(places)
        return [int(found[place]) for place in places]

    def _find_ends(self) -> None:
        """Up to where each topic is read. Twice where partitions are held against each other.

        A record below an earlier end was made of what is below the later end of any other partition.
        """
        self._ledger_ends_before = self._ends(self._names.ledger)
        self._ledger_ends = self._ends(self._names.ledger)
        self._input_ends_before = self._ends(self._names.pairs)
        self._input_ends = self._ends(self._names.pairs)
        self._letter_ends = self._ends(self._names.dlq)
        if self._final is not None:
            self._accepted_ends = self._ends(self._names.accepted)
        self._ledger_begins = self._begins(self._names.ledger)
        self._input_begins = self._begins(self._names.pairs)
        self._letter_begins = self._begins(self._names.dlq)

    def _read(self, consumer: Any, topic: str, partition: int, begin: int, end: int) -> Iterator[Any]:
        place = TopicPartition(topic, partition)
        return read_records(consumer, place, begin, end, self._kafka.give_up_after_s)

    # --- one partition

    def _check_partition(self, partition: int) -> None:
        self._input_begins[partition] = self._begins(self._names.pairs)[partition]  # as late as can be
        begin = position(self._input_begins[partition])
        checker = LedgerChecker(self.report, self._names.pairs, partition, self._header, begin)
        messages = self._read(
            self._consumer, self._names.pairs, partition, self._input_begins[partition], self._input_ends[partition]
        )
        input_ = InputReader(messages, self._names.pairs, partition, self._columns)
        recounted: dict[int, tuple[str, str]] = {}
        by_word: Multiset[str] = Multiset()
        checked_from: int | None = None
        start = n_accepted_before = 0
        for record in self._ledger_records(partition):
            covered = checker.covered
            checker.take(record)
            self._note(partition, record)
            if record.offset < self._ledger_ends_before[partition]:
                n_accepted_before += len(record.admitted)
            if covered is None:
                start = record.first
            if record.first < begin or self._needs_seed(partition):
                by_word.update(record.rejected)
                self._take_at_its_word(partition, record, input_)
                if self._final is not None:
                    self._final.take(partition, record, None)
                continue
            if checked_from is None:
                checked_from = record.first
            outcome = self._check_range(partition, record, input_, is_overlap=record.first < (covered or 0))
            recounted |= outcome.rejected
            if self._final is not None:
                self._final.take(partition, record, outcome.pairs)
        checker.end()
        self._recount.read_forwards(partition, input_.below(None), input_.forwarded_from, is_covered=False)
        self._checkers.append(checker)
        self._commit_ends.append(set(checker.commit_ends))
        self._starts.append(start)
        end = checker.covered or 0
        rejected = Rejected(recounted, by_word, end if checked_from is None else checked_from, end)
        self._check_letters(partition, rejected)
        if self._final is not None:
            self._check_accepted(partition, self._final.accepted(partition), n_accepted_before)
        if partition in self._removed:
            upto = position_in_words(self._names.pairs, partition, end if checked_from is None else checked_from)
            self.report.beyond_checking.append(f"the input before {upto}: it was removed; the ledger's word is taken")

    def _needs_seed(self, partition: int) -> bool:
        """Whether pairs that came in removed input cannot be told from new ones."""
        return partition in self._removed and self._seed is None and self._rule.dedup == "exact"

    def _take_at_its_word(self, partition: int, record: LedgerRange, input_: InputReader) -> None:
        self._removed.add(partition)
        batches = input_.below(record.next)
        self._recount.read_forwards(partition, batches, input_.forwarded_from, is_covered=True)
        self._recount.take_at_its_word(partition, record)

    def _check_range(self, partition: int, record: LedgerRange, input_: InputReader, *, is_overlap: bool) -> Outcome:
        """Recount a range; returns what came of it."""
        in_gap = self._recount.read(partition, input_.below(record.first), input_.forwarded_from)
        if in_gap.n_read:
            self._recount.close_range(partition, record.first, in_gap)
        outcome = self._recount.read(partition, input_.below(record.next), input_.forwarded_from)
        self._recount.close_range(partition, record.next, outcome)
        if not is_overlap:
            compare_range(self.report, self._recount, record, outcome, self._names.pairs)
        return outcome

    def _ledger_records(self, partition: int) -> Iterator[LedgerRange]:
        topic = self._names.ledger
        begin, end = self._ledger_begins[partition], self._ledger_ends[partition]
        if begin > 0:
            self.report.differ(
                CheckName.RANGES, f"{place_in_words(topic, partition, begin)}: the ledger before is gone"
            )
        for record in self._read(self._ledger_consumer, topic, partition, begin, end):
            where = place_in_words(topic, partition, record.offset)
            try:
                yield read_range(record.value, where, record.offset)
            except Unreadable as error:
                self.report.differ(CheckName.RANGES, f"{where}: this is no record of a ledger: {error}")

    def _note(self, partition: int, record: LedgerRange) -> None:
        """Keep what of a record is needed at the end."""
        self._totals["n_ledger_records"] += 1
        self._totals["n_commits"] += record.is_last
        self._totals["n_read"] += record.n_read
        self._totals["n_rejected"] += sum(record.rejected.values())
        for name in _NUMBERS:
            self._totals[name] += record.numbers[name]
        threshold = record.header.get("threshold")
        if not isinstance(threshold, int):
            threshold = self._rule.threshold
        last = self._views[-1] if self._views else None
        if last is None or (last.partition, last.cut, last.threshold) != (partition, record.view_cut, threshold):
            view = _View(record.where, record.offset, partition, record.next, record.view_cut, threshold)
            self._views.append(view)

    def _check_letters(self, partition: int, rejected: Rejected) -> None:
        begin = self._letter_begins[partition]
        letters = self._read(self._consumer, self._names.dlq, partition, begin, self._letter_ends[partition])
        topics = (self._names.pairs, self._names.dlq)
        compare_letters(self.report, topics, partition, letters, begin, rejected)

    def _check_accepted(self, partition: int, accepted: Sequence[bytes], n_accepted_before: int) -> None:
        topic = self._names.accepted
        begin = self._begins(topic)[partition]
        read: list[bytes] = []
        n_read_before = 0
        for record in self._read(self._consumer, topic, partition, begin, self._accepted_ends[partition]):
            for batch in MessageReader(topic, partition, self._columns).read([record]):
                pairs, rejections = batch.validate()
                for _ in rejections:
                    where = place_in_words(topic, partition, record.offset)
                    self.report.differ(CheckName.ACCEPTED, f"{where}: what stands here is no valid pair")
                read += pairs.column("pair_id").to_pylist()
            if record.offset < self._accepted_ends_before[partition]:
                n_read_before = len(read)
        place = place_in_words(topic, partition)
        compare_topic(self.report, place, accepted, n_accepted_before, read, n_read_before, begins_at=begin)

    # --- all partitions together

    def _check_cut(self, name: CheckName, where: str, cut: Sequence[int]) -> None:
        """A cut lies at ends of commits, or where nothing was known yet."""
        if len(cut) != self._n_partitions:
            return
        for partition, at in enumerate(cut):
            if at not in (0, self._starts[partition]) and at not in self._commit_ends[partition]:
                place = position_in_words(self._names.pairs, partition, at)
                self.report.differ(name, f"{where}: its cut at {place} is no end of a commit in the ledger")

    def _check_views(self, settled: list[Settled]) -> None:
        cuts: dict[tuple[int, ...], str] = {}
        for view in self._views:
            if view.offset < self._ledger_ends_before[view.partition]:
                self._check_cut(CheckName.VIEWS, f"{view.where}, its view", view.cut)
            if len(view.cut) == self._n_partitions:
                cuts.setdefault(view.cut, view.where)
        # a new owner of a partition can know less than the one before, but all of them know one of the published cuts
        for (cut, where), (next_cut, next_where) in pairwise(sorted(cuts.items())):
            if is_below(next_cut, cut):
                self.report.differ(
                    CheckName.VIEWS,
                    f"{next_where}: its view cut {next_cut} is neither above nor below {cut} of {where}: one of "
                    "them was never published",
                )
        if self._final is not None:
            return  # no pair is taken back, whatever is known later: no cut needs another
        for version in settled:
            for view in self._views_below(version.cut):
                if is_below(version.cut, view.cut):
                    self.report.differ(
                        CheckName.CUTS,
                        f"{version.where}: its cut {version.cut} is below the view cut {view.cut} of {view.where}, "
                        "which lies below it",
                    )

    def _views_below(self, cut: Sequence[int]) -> Iterator[_View]:
        for view in self._views:
            if view.next <= cut[view.partition] and len(view.cut) == len(cut):
                yield view

    def _check_cuts(self, settled: list[Settled]) -> None:
        before: Settled | None = None
        for version in settled:
            self.report.compare(CheckName.CUTS)
            self._check_cut(CheckName.CUTS, version.where, version.cut)
            thresholds = [view.threshold for view in self._views_below(version.cut)]
            if version.threshold > min(thresholds, default=version.threshold):
                self.report.differ(
                    CheckName.CUTS,
                    f"{version.where}: its threshold is {version.threshold:,}, and a record below its cut has "
                    f"{min(thresholds):,}",
                )
            if before is not None and is_below(version.cut, before.cut):
                self.report.differ(
                    CheckName.CUTS, f"{version.where}: its cut {version.cut} is below {before.cut} of {before.where}"
                )
            if before is not None and version.threshold > before.threshold:
                self.report.differ(
                    CheckName.CUTS,
                    f"{version.where}: its threshold {version.threshold:,} is above that of {before.where}, "
                    f"{before.threshold:,}",
                )
            before = version

    def _check_table(self, table: TableReader) -> None:
        sources = [f"kafka:{self._names.pairs}/{partition}" for partition in range(self._n_partitions)]
        missing: set[int] = set()
        frontier = tuple(checker.covered or 0 for checker in self._checkers)
        lowest = min([view.threshold for view in self._views], default=self._rule.threshold)
        if not table.settled:
            self.report.beyond_checking.append(f"{self._out} has not been settled yet: there is no version to compare")
        if table.unreadable:
            listed = ", ".join(str(version) for version in table.unreadable)
            self.report.beyond_checking.append(
                f"of the table, version {listed}: data files were removed when later versions were settled"
            )
        for settled in table.settled:
            if settled.version in table.rows:
                expected = self._expected(settled.cut, settled.threshold)
                rows = table.rows[settled.version]
                keeper = "offline" if self._final is None else "the ledger"
                found = compare_version(self.report, self._recount, settled, rows, expected, sources, keeper)
                self._check_superset(expected, settled.where, missing)
                self.report.numbers |= {
                    "settled_version": settled.version,
                    "n_curated": settled.n_curated,
                    "digest": found,
                }
        self.report.numbers["n_versions_compared"] = len(table.rows)
        newest = table.settled[-1] if table.settled else None
        if newest is None or newest.cut != frontier:
            threshold = min(lowest, newest.threshold) if newest is not None else lowest
            self._check_superset(self._expected(frontier, threshold), "the end of the ledger", missing)

    def _expected(self, cut: Sequence[int], threshold: int) -> Expected:
        if self._final is not None:
            below = self._recount.below(cut)
            return Expected([index for index in below if self._recount.is_admitted[index]], [])
        return self._recount.expected(cut, self._recount.entry_counts(cut), threshold)

    def _check_superset(self, expected: Expected, where: str, missing: set[int]) -> None:
        """All that the rule keeps at a cut must have been admitted; `missing` has what was told of already."""
        for index in expected.kept:
            if not self._recount.is_admitted[index] and index not in missing:
                missing.add(index)
                self.report.differ(
                    CheckName.ADMITTED,
                    f"{self._recount.in_words(index)}: the rule keeps it at the cut of {where}, and the ledger has not "
                    "admitted it",
                )

    # --- counts

    def _read_published(self) -> _Published | None:
        """The newest; the others that compaction has left must lie below it, one after the other."""
        topic = self._names.counts
        (begin,), (end,) = self._begins(topic), self._ends(topic)
        newest: _Published | None = None
        for record in self._read(self._consumer, topic, 0, begin, end):
            published = self._decode_published(record)
            if published is None:
                continue
            if newest is not None and any(at < before for at, before in zip(published.cut, newest.cut, strict=False)):
                self.report.differ(
                    CheckName.COUNTS,
                    f"{published.where}: its cut {published.cut} goes back behind {newest.cut}, which was published "
                    f"before ({newest.where})",
                )
            newest = published
        return newest

    def _decode_published(self, record: Any) -> _Published | None:
        where = place_in_words(self._names.counts, 0, record.offset)
        try:
            head, row = read_row(record.value)
            cut = tuple(int(at) for at in head["cut"])
            counts = row.column("entry_counts").flatten().cast(pa.int64()).to_numpy()
            coins = np.zeros(0, np.int64)
            if has_coins(head):
                coins = row.column("entry_coins").flatten().cast(pa.int64()).to_numpy()
            return _Published(where, dict(head["header"]), cut, int(head["n_unique"]), counts, coins)
        except (Unreadable, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            self.report.differ(CheckName.COUNTS, f"{where}: this is no record of counts: {error}")
            return None

    def _check_published(self, published: _Published | None, settled: list[Settled]) -> None:
        if published is None:
            return
        report, where, cut = self.report, published.where, published.cut
        for words in header_differences(published.header, self._header):
            report.differ(CheckName.COUNTS, f"{where}: {words}")
        if len(cut) != self._n_partitions:
            report.differ(CheckName.COUNTS, f"{where}: its cut has {len(cut)} positions")
            return
        self._check_cut(CheckName.COUNTS, where, cut)
        self._check_is_held(published, settled)
        _, n_unique = self._recount.numbers(cut)
        report.expect(CheckName.COUNTS, published.n_unique, n_unique, f"{where}: n_unique is")
        expected = self._recount.entry_counts(cut)
        report.compare(CheckName.COUNTS, len(expected))
        if len(expected) != len(published.entry_counts):
            report.differ(
                CheckName.COUNTS, f"{where}: {len(published.entry_counts)} entries, where it should be {len(expected)}"
            )
            return
        # of an entry that was never matched a sketch may give what others put into its cells: no pair asks for it
        for entry_id in np.flatnonzero((expected != published.entry_counts) & (expected > 0)).tolist():
            found, wanted = int(published.entry_counts[entry_id]), int(expected[entry_id])
            report.expect(CheckName.COUNTS, found, wanted, f"{where}: the count of entry {entry_id} is")
        if self._final is not None and len(published.entry_coins) == len(expected):
            coins = self._final.below(cut).coins
            for entry_id in np.flatnonzero(coins != published.entry_coins).tolist():
                found, wanted = int(published.entry_coins[entry_id]), int(coins[entry_id])
                report.expect(CheckName.COUNTS, found, wanted, f"{where}: the coins won by entry {entry_id} are")
        elif self._final is not None:
            n_coins = len(published.entry_coins)
            report.differ(
                CheckName.COUNTS, f"{where}: {n_coins} entries with coins, where it should be {len(expected)}"
            )

    def _check_is_held(self, published: _Published, settled: list[Settled]) -> None:
        """The commit of the table comes before the counts."""
        words = f"{published.where}: its cut {published.cut}"
        held = [version for version in settled if version.cut == published.cut]
        if self._final is not None and settled and not is_below(settled[-1].cut, published.cut):
            return  # the newest version has all that any before it had
        if held:
            threshold = published.header.get("threshold")
            expected = [version.threshold for version in held]
            if threshold not in expected:
                self.report.expect(CheckName.COUNTS, threshold, expected[-1], f"{words} has the threshold")
        elif not settled or is_below(settled[-1].cut, published.cut):
            newest = f"{settled[-1].where} at {settled[-1].cut}" if settled else "none"
            self.report.differ(
                CheckName.COUNTS,
                f"{words} was published, and no settled version of the table holds it (the newest: {newest}): counts "
                "must never be ahead of the table",
            )
        else:
            self.report.beyond_checking.append(
                f"{words} is of a version that the table no longer knows: its log was cleaned, or it was built anew"
            )
