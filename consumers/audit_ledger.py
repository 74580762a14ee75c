"""The ledger as an audit reads it: a decoder of its own for the documented format, and what holds of records alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from consumers.audit_reading import position_in_words
from consumers.audit_report import AuditReport, CheckName

_JSON_KEY = b"stream_curate"
_FORMATS = (1, 2)  # of provisional and of final decisions
_ADMITTED = pa.schema(
    {
        "pair_id": pa.binary(16),
        "url": pa.string(),
        "text": pa.string(),
        "entry_ids": pa.list_(pa.field("element", pa.int32(), nullable=False)),
        "source_row": pa.int64(),
    }
)
_NUMBERS = ("n_unique", "n_duplicate", "n_forwarded", "n_matched", "n_matches", "n_admitted", "n_evicted")


class Unreadable(Exception):
    """A record is not of the documented format; the message says what is wrong with it."""


@dataclass(frozen=True)
class LedgerRange:
    """One record of the ledger, with nothing in it believed yet.

    Attributes:
        where: topic, partition and offset, in words.
        offset: of the record in the ledger.
        header: the rule header, as it stands there.
        numbers: all of them but `rejected`.
        rejected: the number of rejected records by reason.
        admitted: a row for each admitted pair.
        coins: won by each of the entry ids; of none where decisions are provisional.
    """

    where: str
    offset: int
    partition: int
    first: int
    next: int
    is_last: bool
    header: dict[str, Any]
    view_cut: tuple[int, ...]
    numbers: dict[str, int]
    rejected: dict[str, int]
    n_received: int
    entry_ids: np.ndarray
    increments: np.ndarray
    seen: np.ndarray
    admitted: pa.RecordBatch
    coins: np.ndarray

    @property
    def n_read(self) -> int:
        """Records of the input that it tells of."""
        outcomes = ("n_unique", "n_duplicate", "n_forwarded")
        return sum(self.numbers[name] for name in outcomes) + sum(self.rejected.values())


def read_range(value: bytes | None, where: str, offset: int) -> LedgerRange:
    """The record that this value is. Raises Unreadable."""
    head, row = read_row(value)
    try:
        admitted = pa.RecordBatch.from_struct_array(row.column("admitted").flatten())
        for field in _ADMITTED:
            column = admitted.column(field.name)
            if column.type != field.type or column.null_count:
                raise ValueError(f"the admitted pairs have {field.name} of {column.type}, {column.null_count} null")
        if len(row.column("entry_ids").flatten()) != len(row.column("increments").flatten()):
            raise ValueError("not as many increments as entry ids")
        coins = np.zeros(0, np.int64)
        if has_coins(head):
            coins = _values(row, "coins", pa.int64())
            if len(coins) != len(row.column("entry_ids").flatten()):
                raise ValueError("not as many coins as entry ids")
        numbers = dict(head["numbers"])
        rejected = {str(reason): int(n) for reason, n in numbers.pop("rejected").items()}
        return LedgerRange(
            where=where,
            offset=offset,
            partition=int(head["partition"]),
            first=int(head["first"]),
            next=int(head["next"]),
            is_last=bool(head["is_last"]),
            header=dict(head["header"]),
            view_cut=tuple(int(position) for position in head["view_cut"]),
            numbers={name: int(numbers[name]) for name in _NUMBERS},
            rejected=rejected,
            n_received=int(head["n_received"]),
            entry_ids=_values(row, "entry_ids", pa.int32()),
            increments=_values(row, "increments", pa.int64()),
            seen=_values(row, "seen", pa.uint64()),
            admitted=admitted,
            coins=coins,
        )
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def read_row(value: bytes | None) -> tuple[dict[str, Any], pa.RecordBatch]:
    """The JSON object and the one row of a record. Raises Unreadable."""
    try:
        with pa.ipc.open_stream(value or b"") as stream:
            table = stream.read_all()
        table.validate(full=True)
        head = json.loads((table.schema.metadata or {})[_JSON_KEY])
        (row,) = table.to_batches()
        if not isinstance(head, dict) or row.num_rows != 1 or head.get("format") not in _FORMATS:
            raise ValueError(f"{row.num_rows} rows, JSON {str(head)[:80]}")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return head, row


def has_coins(head: dict[str, Any]) -> bool:
    """Whether the record that this JSON object is of has the coins of final decisions. Raises ValueError."""
    is_final = "decisions" in head["header"]
    if head["format"] != _FORMATS[is_final]:
        raise ValueError(f"format {head['format']} with the decisions {head['header'].get('decisions', 'provisional')}")
    return is_final


def _values(row: pa.RecordBatch, name: str, kind: pa.DataType) -> np.ndarray:
    values = row.column(name).flatten().cast(kind)
    if values.null_count:
        raise ValueError(f"{values.null_count} of {name} are null")
    return np.asarray(values.to_numpy(zero_copy_only=False))


class LedgerChecker:
    """Takes the records of one partition in their order, and checks what can be checked without the input.

    Args:
        report: where differences go.
        topic: of the input, for the words.
        partition: which.
        header: what the rule header of each record must be, the threshold apart.
        begin: the position where the input begins today.

    Attributes:
        covered: the `next` of the last record; None before the first.
        commit_ends: the `next` of each complete commit, in their order.
    """

    def __init__(self, report: AuditReport, topic: str, partition: int, header: dict[str, Any], begin: int) -> None:
        self._report = report
        self._topic = topic
        self._partition = partition
        self._header = header
        self._begin = begin
        self._last: LedgerRange | None = None
        self.covered: int | None = None
        self.commit_ends: list[int] = []

    def take(self, record: LedgerRange) -> None:
        """Check one record against itself and the one before."""
        self._check_range(record)
        self._check_commit(record)
        self._check_header(record)
        self._check_numbers(record)
        self._check_view(record)
        self._last = record
        self.covered = max(self.covered or 0, record.next)
        if record.is_last:
            self.commit_ends.append(record.next)

    def end(self) -> None:
        """There are no more records."""
        if self._last is not None and not self._last.is_last:
            self._report.differ(
                CheckName.RANGES,
                f"{self._last.where}: half a commit: it is not the last of its commit, and none follows",
            )

    def _check_range(self, record: LedgerRange) -> None:
        self._report.compare(CheckName.RANGES)
        if record.partition != self._partition:
            self._report.differ(CheckName.RANGES, f"{record.where}: it says it is of partition {record.partition}")
        if not 0 <= record.first <= record.next:
            self._report.differ(CheckName.RANGES, f"{record.where}: its range is [{record.first}, {record.next})")
        if self.covered is None:
            self._check_start(record)
        elif record.first > self.covered:
            self._report.differ(
                CheckName.RANGES,
                f"{record.where}: a gap: nothing tells of the input from "
                f"{position_in_words(self._topic, self._partition, self.covered)} to position {record.first}",
            )
        elif record.first < self.covered:
            self._report.differ(
                CheckName.RANGES,
                f"{record.where}: an overlap: its range begins at "
                f"{position_in_words(self._topic, self._partition, record.first)}, "
                f"where the records before it end at position {self.covered}",
            )

    def _check_start(self, record: LedgerRange) -> None:
        where = position_in_words(self._topic, self._partition, record.first)
        if record.first > self._begin:
            self._report.differ(
                CheckName.RANGES,
                f"{record.where}: a gap: the ledger begins at {where}, and the input at position {self._begin}",
            )
        elif record.first > 0:
            self._report.beyond_checking.append(
                f"the ledger of partition {self._partition} begins at {where}: what stood there before was removed, "
                "and was never curated"
            )

    def _check_commit(self, record: LedgerRange) -> None:
        """A commit is one transaction, and the marker of its end takes an offset."""
        last = self._last
        if last is None:
            return
        is_next = record.offset == last.offset + 1
        if not last.is_last and not is_next:
            self._report.differ(
                CheckName.RANGES,
                f"{last.where}: half a commit: its transaction ends, and it is not the last of its commit",
            )
        elif last.is_last and is_next:
            self._report.differ(
                CheckName.RANGES, f"{record.where}: no transaction has ended between it and the commit before"
            )

    def _check_header(self, record: LedgerRange) -> None:
        self._report.compare(CheckName.RULE)
        for words in header_differences(record.header, self._header):
            self._report.differ(CheckName.RULE, f"{record.where}: {words}")

    def _check_numbers(self, record: LedgerRange) -> None:
        self._report.compare(CheckName.NUMBERS)
        numbers = record.numbers
        negative = {name: n for name, n in (numbers | record.rejected).items() if n < 0}
        if negative:
            self._report.differ(CheckName.NUMBERS, f"{record.where}: below 0: {negative}")
        seen = numbers["n_unique"] if self._header["dedup"] == "exact" else 0
        is_final = "decisions" in self._header
        if is_final and self._header["dedup"] == "none":
            seen = numbers["n_admitted"]
        for found, expected, words in (
            (len(record.seen), seen, "seen hashes:"),
            (len(np.unique(record.seen)), len(record.seen), "distinct seen hashes:"),
            (int(record.increments.sum()), numbers["n_matches"], "the sum of the increments is"),
            (len(np.unique(record.entry_ids)), len(record.entry_ids), "distinct entry ids:"),
            (len(record.admitted), numbers["n_admitted"], "admitted pairs:"),
            (numbers["n_evicted"], 0, "n_evicted is"),
        ):
            self._report.expect(CheckName.NUMBERS, found, expected, f"{record.where}: {words}")
        if not numbers["n_admitted"] <= numbers["n_matched"] <= min(numbers["n_unique"], numbers["n_matches"]):
            self._report.differ(CheckName.NUMBERS, f"{record.where}: admitted, matched and unique are {numbers}")
        if len(record.coins) and not bool(np.all((record.coins >= 0) & (record.coins <= record.increments))):
            self._report.differ(CheckName.NUMBERS, f"{record.where}: coins below 0, or more of them than matches")
        if is_final and int(record.coins.sum()) < numbers["n_admitted"]:
            self._report.differ(CheckName.NUMBERS, f"{record.where}: fewer coins than accepted pairs")
        if len(record.increments) and record.increments.min() < 1:
            self._report.differ(CheckName.NUMBERS, f"{record.where}: an increment below 1")
        rows = record.admitted.column("source_row").to_numpy()
        if len(rows) and not (record.first <= rows[0] and rows[-1] < record.next and bool(np.all(np.diff(rows) > 0))):
            self._report.differ(
                CheckName.NUMBERS,
                f"{record.where}: the positions of admitted pairs do not grow inside [{record.first}, {record.next})",
            )

    def _check_view(self, record: LedgerRange) -> None:
        self._report.compare(CheckName.VIEWS)
        if len(record.view_cut) != self._header["n_partitions"]:
            self._report.differ(CheckName.VIEWS, f"{record.where}: its view cut has {len(record.view_cut)} positions")
        elif self._last is not None and not self._last.is_last and record.view_cut != self._last.view_cut:
            self._report.differ(
                CheckName.VIEWS,
                f"{record.where}: its view cut is {record.view_cut}, and earlier in its commit {self._last.view_cut}",
            )


def header_differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """In words, what a rule header has different from what it should have; if decisions are provisional, t apart."""
    apart = set() if "decisions" in expected else {"threshold"}
    keys = sorted((set(found) | set(expected)) - apart - ({"pairs_id"} if not found.get("pairs_id") else set()))
    words = [
        f"its rule header has {key} {json.dumps(found.get(key))}, where the table has {json.dumps(expected.get(key))}"
        for key in keys
        if found.get(key) != expected.get(key)
    ]
    if not (isinstance(found.get("threshold"), int) and found["threshold"] >= 1):
        words.append(f"its rule header has the threshold {json.dumps(found.get('threshold'))}")
    return words


def is_below(cut: Sequence[int], other: Sequence[int]) -> bool:
    """Whether `cut` is below `other` in any partition."""
    return any(mine < its for mine, its in zip(cut, other, strict=True))
