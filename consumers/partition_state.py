"""What a worker knows of a partition: all that is needed to go on, and all of it stands in the ledger."""

from __future__ import annotations

import numpy as np

from consumers.errors import KafkaProblem
from consumers.ledger import LedgerRecord, RuleHeader
from consumers.messages import offset_and_row
from consumers.published_counts import PublishedCounts
from consumers.view import Delta, View
from stream_curate.errors import ConfigError
from stream_curate.seen import ExactSeen, NothingSeen, Seen

UNREAD = -1
"""The `next` of a partition of which nothing was read yet."""

_ADDED_TOGETHER = 1_000_000


class PartitionState:
    """The state of one partition after some prefix of its ledger.

    Attributes:
        next: the position from which on nothing is known of `pairs`; UNREAD before the first record.
        seen: the keyed hashes of the partition's pairs; with `dedup: none`, where decisions are final, of those that
            were accepted, as each is given out but once.
        view: with what the next pairs are decided.
    """

    def __init__(
        self, header: RuleHeader, partition: int, n_entries: int, published: PublishedCounts | None = None
    ) -> None:
        self.header = header
        self.partition = partition
        self.next = UNREAD
        remembers = header.rule.dedup == "exact" or header.rule.final is not None
        self.seen: Seen = ExactSeen() if remembers else NothingSeen()
        self.view = View(partition, header.n_partitions, n_entries)
        if published is not None:
            self.view.rebase(published)
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0

    def take(self, record: LedgerRecord, where: str) -> None:
        """Take in the next record of the ledger; `finish` when it was the last for now.

        Raises:
            ConfigError: it was made by another rule.
            KafkaProblem: it does not go on where the one before ended.
        """
        check_header(self.header, record.header, where)
        if self.next != UNREAD and record.first != self.next:
            raise KafkaProblem(
                f"{where} tells of the input from offset {offset_and_row(record.first)[0]} on, and the record before "
                f"ended at {offset_and_row(self.next)[0]}: the ledger is damaged, or another program writes to it. "
                "Make new topics and replay"
            )
        self.restore(record.next, record.seen)
        self.view.add(*Delta.of(record))

    def restore(self, next_position: int, seen: np.ndarray) -> None:
        """Take in hashes of pairs up to a position, from wherever they are known. Adding many together is faster."""
        self.next = next_position
        if len(seen):
            self._waiting.append(seen)
            self._n_waiting += len(seen)
            if self._n_waiting >= _ADDED_TOGETHER:
                self.finish()

    def finish(self) -> None:
        """Make `seen` whole."""
        if self._waiting:
            waiting, self._waiting, self._n_waiting = self._waiting, [], 0
            self.seen.add(np.concatenate(waiting))


def check_header(mine: RuleHeader, found: RuleHeader, where: str) -> None:
    """See that a record was made by the rule of this process; where decisions are provisional, t apart.

    Raises:
        ConfigError: naming what differs.
        KafkaProblem: it belongs to another topic of pairs.
    """
    if mine.pairs_id and found.pairs_id and mine.pairs_id != found.pairs_id:
        raise KafkaProblem(
            f"{where} tells of another topic of pairs than the one that is there now (its id was {found.pairs_id}, now "
            f"it is {mine.pairs_id}): the topic was made anew, or they do not belong together. A ledger and its "
            "counts belong to their pairs for life: make new topics, all of them, and replay"
        )
    differences = mine.differences(found)
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise ConfigError(
            f"{where} was written by a process with other settings:\n{listed}\n"
            "All workers and the settler of a curation need the same. Give this one the same settings, or, if those "
            "there were wrong, new topics and replay"
        )
