"""From the records of one commit to what became of each of them: the way of a batch in a worker.

records -> valid? -> at home? -> seen before? -> match -> count -> decide
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from consumers.ledger import MAX_LEDGER_BYTES, NO_COINS, LedgerRecord, RuleHeader, admitted_schema
from consumers.messages import ReadBatch, home
from consumers.partition_state import PartitionState
from consumers.view import Delta
from stream_curate.balance import keep
from stream_curate.counting import increments_of
from stream_curate.curator import MatcherName, with_entry_ids
from stream_curate.draws import bases
from stream_curate.final_rule import FinalDecisions, decide
from stream_curate.matching import Matches, make_matcher
from stream_curate.metadata import Metadata
from stream_curate.pairs import Rejection
from stream_curate.table.state import Numbers

# what stands around the columns takes far less than the other half
_MAX_COLUMN_BYTES = MAX_LEDGER_BYTES // 2
_NONE_WON = np.zeros(0, np.bool_)

UNIQUE, DUPLICATE, FORWARDED, REJECTED = range(4)


@dataclass(frozen=True)
class Decision:
    """What became of the records of one commit.

    Attributes:
        batch: the records.
        outcomes: int8[n_records], one of UNIQUE, DUPLICATE, FORWARDED, REJECTED.
        base: uint64[n_unique], the keyed hashes.
        matches: of the unique pairs, and `increments`, the distinct entries among them and how often each is there.
        won: bool[n_matches], the matches that have won a coin; empty where decisions are provisional.
        is_admitted: bool[n_unique].
        admitted: the admitted pairs, in the columns of the ledger.
        foreign: the pairs that are not at home, and `homes`, int64, where they are.
        rejections: of the rejected records.
    """

    batch: ReadBatch
    outcomes: np.ndarray
    base: np.ndarray
    matches: Matches
    increments: tuple[np.ndarray, np.ndarray]
    won: np.ndarray
    is_admitted: np.ndarray
    admitted: pa.RecordBatch
    foreign: pa.RecordBatch
    homes: np.ndarray
    rejections: Sequence[Rejection]


class Decider:
    """Decides on batches, with what is known of their partition.

    Args:
        header: the rule.
        metadata: the entries.
        seed: of the draws.
        matcher: which one.
    """

    def __init__(self, header: RuleHeader, metadata: Metadata, seed: int, matcher: MatcherName = "trie") -> None:
        self.header = header
        self.metadata = metadata
        self._seed = seed
        self._matcher = make_matcher(matcher, metadata.entries)
        self._keys = metadata.keys  # made here, not with the first batch
        self._scratch = np.zeros(len(metadata), np.int64)
        self._schema = admitted_schema(header.kept_columns)

    def decide(self, batch: ReadBatch, state: PartitionState) -> Decision:
        """Decide on the next records of a partition, and count them in `state`, which a failed commit makes invalid."""
        pairs, rejections = batch.validate()
        outcomes = np.full(len(batch), UNIQUE, np.int8)
        places = np.searchsorted(batch.positions, pairs.column("source_row").to_numpy())
        is_valid = np.zeros(len(batch), np.bool_)
        is_valid[places] = True
        outcomes[~is_valid] = REJECTED
        homes = home(pairs.column("pair_id"), self.header.n_partitions)
        is_foreign = homes != state.partition
        foreign = pairs.slice(0, 0)
        if is_foreign.any():
            outcomes[places[is_foreign]] = FORWARDED
            foreign = pairs.filter(pa.array(is_foreign))
            pairs, places = pairs.filter(pa.array(~is_foreign)), places[~is_foreign]
        base = bases(pairs.column("pair_id"), self._seed)
        if self.header.rule.dedup == "exact":
            is_new = state.seen.add(base)
            if not is_new.all():
                outcomes[places[~is_new]] = DUPLICATE
                pairs, base = pairs.filter(pa.array(is_new)), base[is_new]
        matches = self._matcher.match(pairs.column("text"))
        increments = increments_of(matches, self._scratch)
        if self.header.rule.final is None:
            is_admitted, won = self._decide_for_now(base, matches, increments, state), _NONE_WON
        else:
            is_admitted, won = self._decide_for_good(base, matches, increments, state, self.header.rule.final)
        chosen = with_entry_ids(pairs, matches).filter(pa.array(is_admitted))
        admitted = pa.RecordBatch.from_arrays([chosen.column(name) for name in self._schema.names], schema=self._schema)
        return Decision(
            batch,
            outcomes,
            base,
            matches,
            increments,
            won,
            is_admitted,
            admitted,
            foreign,
            homes[is_foreign],
            rejections,
        )

    def _decide_for_now(
        self, base: np.ndarray, matches: Matches, increments: tuple[np.ndarray, np.ndarray], state: PartitionState
    ) -> np.ndarray:
        """Whether pairs are admitted until the settler looks at them again: bool[n_pairs]."""
        # counted before they are decided on: every cut that contains one of them contains the whole commit
        state.view.add(state.next, *increments)
        is_admitted: np.ndarray = keep(base, matches, self._keys, state.view.counts, self.header.rule.threshold)
        return is_admitted

    def _decide_for_good(
        self,
        base: np.ndarray,
        matches: Matches,
        increments: tuple[np.ndarray, np.ndarray],
        state: PartitionState,
        final: FinalDecisions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether pairs are accepted, one after the other, bool[n_pairs]; and the coins won, bool[n_matches]."""
        view = state.view
        threshold = self.header.rule.threshold
        accepted, won = decide(base, matches, self._keys, view.counts, view.coins, view.n_unique, threshold, final)
        view.remember(Delta(state.next, *increments, self._coins(increments[0], matches, won), len(base)))
        if self.header.rule.dedup == "none":
            rows = np.flatnonzero(accepted)
            accepted[rows[~state.seen.add(base[rows])]] = False
        return accepted, won

    def _coins(self, entry_ids: np.ndarray, matches: Matches, won: np.ndarray) -> np.ndarray:
        """int64[n]: how many coins each of the distinct entries among `matches` has won."""
        np.add.at(self._scratch, matches.entry_ids[won], 1)
        coins: np.ndarray = self._scratch[entry_ids]
        self._scratch[entry_ids] = 0
        return coins

    def ledger_records(self, decision: Decision, state: PartitionState, next_position: int) -> list[LedgerRecord]:
        """The ledger records for a commit of the range from `state.next` to `next_position`, none of them too large."""
        return list(self._of_range(decision, state, 0, len(decision.batch), next_position))

    def _of_range(
        self, decision: Decision, state: PartitionState, start: int, stop: int, next_position: int
    ) -> Iterator[LedgerRecord]:
        """One for the batch's records from `start` to `stop`; when it would be too large, those of the halves."""
        record = self._record(decision, state, start, stop, next_position)
        if record.nbytes <= _MAX_COLUMN_BYTES or stop - start <= 1:
            yield record
            return
        middle = (start + stop) // 2
        yield from self._of_range(decision, state, start, middle, next_position)
        yield from self._of_range(decision, state, middle, stop, next_position)

    def _record(
        self, decision: Decision, state: PartitionState, start: int, stop: int, next_position: int
    ) -> LedgerRecord:
        batch, outcomes = decision.batch, decision.outcomes
        is_last = stop == len(batch)
        first = state.next if start == 0 else int(batch.positions[start])
        n_before = int(np.count_nonzero(outcomes[:start] == UNIQUE))
        n_unique = int(np.count_nonzero(outcomes[start:stop] == UNIQUE))
        unique = slice(n_before, n_before + n_unique)
        offsets = decision.matches.offsets[n_before : n_before + n_unique + 1]
        of_range = slice(offsets[0], offsets[-1])
        matches = Matches(offsets - offsets[0], decision.matches.entry_ids[of_range])
        is_whole = start == 0 and is_last
        entry_ids, increments = decision.increments if is_whole else increments_of(matches, self._scratch)
        n_admitted_before = int(np.count_nonzero(decision.is_admitted[:n_before]))
        n_admitted = int(np.count_nonzero(decision.is_admitted[unique]))
        coins = NO_COINS
        if self.header.rule.final is not None:
            coins = self._coins(entry_ids, matches, decision.won[of_range])
        return LedgerRecord(
            header=self.header,
            partition=state.partition,
            first=first,
            next=next_position if is_last else int(batch.positions[stop]),
            is_last=is_last,
            view_cut=state.view.cut,
            numbers=Numbers(
                n_unique=n_unique,
                n_duplicate=int(np.count_nonzero(outcomes[start:stop] == DUPLICATE)),
                n_matched=int(np.count_nonzero(np.diff(matches.offsets))),
                n_matches=len(matches.entry_ids),
                n_admitted=n_admitted,
                rejected=self._rejected(decision, start, stop),
                n_forwarded=int(np.count_nonzero(outcomes[start:stop] == FORWARDED)),
            ),
            n_received=int(np.count_nonzero(batch.was_forwarded[start:stop])),
            entry_ids=entry_ids,
            increments=increments,
            seen=self._remembered(decision.base[unique], decision.is_admitted[unique]),
            admitted=decision.admitted.slice(n_admitted_before, n_admitted),
            coins=coins,
        )

    def _remembered(self, base: np.ndarray, is_admitted: np.ndarray) -> np.ndarray:
        """The hashes that `PartitionState.seen` has of these pairs."""
        rule = self.header.rule
        if rule.dedup == "exact":
            return base
        return base[:0] if rule.final is None else base[is_admitted]

    @staticmethod
    def _rejected(decision: Decision, start: int, stop: int) -> dict[str, int]:
        """How many records of the range were rejected, by reason."""
        if not decision.rejections or start == stop:
            return {}
        low, high = int(decision.batch.positions[start]), int(decision.batch.positions[stop - 1])
        counted: dict[str, int] = {}
        for rejection in decision.rejections:
            if low <= rejection.source_row <= high:
                counted[rejection.reason.value] = counted.get(rejection.reason.value, 0) + 1
        return counted
