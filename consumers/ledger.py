"""What stands in the topic `ledger`: what came of each range of the input. Ledger formats 1 and 2.

Partition p of the ledger belongs to partition p of `pairs`. One Kafka record tells all that came of one range of
positions `[first, next)` of it (see `messages.position`); `first` is the `next` of the record before. A commit is one
transaction, and one or more such records, of which the last says that it is the last.

The value of a record is an Arrow IPC stream of one row, so that any Arrow reader can look at it. Its columns are lists:

    entry_ids    int32     distinct entries matched by the unique pairs of the range
    increments   int64     how many of these pairs match each
    seen         uint64    the keyed hashes of the unique pairs; empty with `dedup: none`
    admitted     struct    the admitted pairs: pair_id, url, text, entry_ids, source_row (the position), kept columns

That is format 1, of provisional decisions. Where decisions are final it is format 2, the admitted pairs are accepted
for good, `seen` holds with `dedup: none` the hashes of these, and there is one more column:

    coins        int64     how many coins each of `entry_ids` has won in the range (see `stream_curate.final_rule`)

Under the key `stream_curate` the schema's metadata holds a JSON object: `format`; `header`, the *rule header* (the
rule, `n_partitions`, `kept_columns`, `pairs_id`); `partition`, `first`, `next`, `is_last`; `view_cut`, the cut of the
counts that the pairs were decided with (one position for each partition, 0 where nothing was known); `n_received`, how
many of the records read had been forwarded; and `numbers`, in which each record read is one of unique, duplicate,
forwarded or rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa

from consumers.clients import MAX_MESSAGE_BYTES
from stream_curate import exit_codes
from stream_curate.curator import ENTRY_IDS
from stream_curate.errors import StreamCurateError
from stream_curate.pairs import PAIR_ID
from stream_curate.rule import Rule
from stream_curate.table.state import Numbers

PROVISIONAL_FORMAT = 1
FINAL_FORMAT = 2
MAX_LEDGER_BYTES = MAX_MESSAGE_BYTES

NO_COINS = np.zeros(0, np.int64)
"""Of provisional decisions, which toss none."""

_KEY = b"stream_curate"


class DamagedRecord(StreamCurateError):
    """A record of ours in Kafka is not what this program wrote."""

    exit_code = exit_codes.KAFKA


@dataclass(frozen=True)
class RuleHeader:
    """What all processes of one curation must agree on; where decisions are provisional, the threshold apart.

    Attributes:
        rule: by which pairs are kept.
        n_partitions: of `pairs` and the ledger.
        kept_columns: that the table has.
        pairs_id: Kafka's own id of the topic `pairs`: one that is made anew under the same name is another. Empty where
            it is not known, which agrees with all.
    """

    rule: Rule
    n_partitions: int
    kept_columns: tuple[str, ...] = ()
    pairs_id: str = ""

    def differences(self, other: RuleHeader) -> list[str]:
        """In words, what `other` has different from this one; of provisional decisions the threshold may be another."""
        decisions = {"decisions": "provisional"}  # of which a rule says nothing
        mine, its = (decisions | header.as_dict() for header in (self, other))
        if self.rule.final is None:
            its["threshold"] = mine["threshold"]
        if not (self.pairs_id and other.pairs_id):
            its["pairs_id"] = self.pairs_id
        return [f"{key}: {_shown(its[key])} there, {_shown(mine[key])} here" for key in mine if mine[key] != its[key]]

    def replace_threshold(self, threshold: int) -> RuleHeader:
        """The same with another t."""
        return replace(self, rule=replace(self.rule, threshold=threshold))

    def as_dict(self) -> dict[str, Any]:
        """As it stands in records, flat."""
        return self.rule.as_dict() | {
            "n_partitions": self.n_partitions,
            "kept_columns": list(self.kept_columns),
            "pairs_id": self.pairs_id,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        rule = dict(values)
        n_partitions, kept_columns = rule.pop("n_partitions"), tuple(rule.pop("kept_columns"))
        pairs_id = rule.pop("pairs_id", "")
        return cls(Rule.from_dict(rule), n_partitions, kept_columns, pairs_id)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@dataclass(frozen=True)
class LedgerRecord:
    """What came of the input range `[first, next)` of a partition; see the module.

    `coins` is int64[n], one for each of `entry_ids`, and NO_COINS where decisions are provisional.
    """

    header: RuleHeader
    partition: int
    first: int
    next: int
    is_last: bool
    view_cut: tuple[int, ...]
    numbers: Numbers
    n_received: int
    entry_ids: np.ndarray
    increments: np.ndarray
    seen: np.ndarray
    admitted: pa.RecordBatch
    coins: np.ndarray = field(default_factory=lambda: NO_COINS)

    @property
    def nbytes(self) -> int:
        """About what it takes in a Kafka record. More than MAX_LEDGER_BYTES are too much: then divide the range."""
        columns = (self.entry_ids, self.increments, self.coins, self.seen, self.admitted)
        return sum(column.nbytes for column in columns)

    def encode(self) -> bytes:
        """The value of the Kafka record."""
        # pyarrow writes the whole buffers of a slice of no rows
        admitted = self.admitted if len(self.admitted) else pa.RecordBatch.from_pylist([], self.admitted.schema)
        columns = {
            "entry_ids": one_list(pa.array(self.entry_ids, pa.int32())),
            "increments": one_list(pa.array(self.increments, pa.int64())),
            "seen": one_list(pa.array(self.seen, pa.uint64())),
            "admitted": one_list(admitted.to_struct_array()),
        }
        if self.header.rule.final is not None:
            columns["coins"] = one_list(pa.array(self.coins, pa.int64()))
        head = {
            "format": format_of(self.header.rule),
            "header": self.header.as_dict(),
            "partition": self.partition,
            "first": self.first,
            "next": self.next,
            "is_last": self.is_last,
            "view_cut": self.view_cut,
            "numbers": asdict(self.numbers),
            "n_received": self.n_received,
        }
        return encode_row(list(columns), list(columns.values()), head)

    @classmethod
    def decode(cls, value: bytes | None, where: str) -> Self:
        """What `encode` gave.

        Args:
            value: of a Kafka record.
            where: the record's topic, partition and offset, for the error.

        Raises:
            DamagedRecord: when it is something else, or of another format.
        """
        head, row = decode_row(value, where)
        try:
            header = RuleHeader.from_dict(head["header"])
            check_format(head, header.rule)
            admitted = pa.RecordBatch.from_struct_array(row.column("admitted").flatten())
            if not admitted.schema.equals(admitted_schema(header.kept_columns)):
                raise ValueError("the columns of the admitted pairs are not as they should be")
            entry_ids = values_of(row, "entry_ids", pa.int32())
            increments = values_of(row, "increments", pa.int64())
            if len(entry_ids) != len(increments):
                raise ValueError(f"{len(entry_ids)} entry_ids with {len(increments)} increments")
            coins = NO_COINS
            if header.rule.final is not None:
                coins = values_of(row, "coins", pa.int64())
                if len(coins) != len(entry_ids):
                    raise ValueError(f"{len(entry_ids)} entry_ids with {len(coins)} coins")
            return cls(
                header=header,
                partition=int(head["partition"]),
                first=int(head["first"]),
                next=int(head["next"]),
                is_last=bool(head["is_last"]),
                view_cut=tuple(int(each) for each in head["view_cut"]),
                numbers=Numbers(**head["numbers"]),
                n_received=int(head["n_received"]),
                entry_ids=entry_ids,
                increments=increments,
                seen=values_of(row, "seen", pa.uint64()),
                admitted=admitted,
                coins=coins,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(where, error) from error


def admitted_schema(kept: Sequence[str]) -> pa.Schema:
    """The columns of admitted pairs in the ledger. Their source is the partition, and is not repeated."""
    return pa.schema(
        [
            pa.field("pair_id", PAIR_ID, nullable=False),
            pa.field("url", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("entry_ids", ENTRY_IDS, nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            *(pa.field(name, pa.string()) for name in dict.fromkeys(["uid", *kept])),
        ]
    )


def format_of(rule: Rule) -> int:
    """Of the records that are made by this rule."""
    return PROVISIONAL_FORMAT if rule.final is None else FINAL_FORMAT


def check_format(head: dict[str, Any], rule: Rule) -> None:
    """Raise ValueError for a record of another format than its own rule asks for."""
    if head["format"] != format_of(rule):
        raise ValueError(f"it is of format {head['format']}, and its decisions are {rule.decisions}")


def encode_row(names: Sequence[str], columns: Sequence[pa.Array], head: dict[str, Any]) -> bytes:
    """An Arrow IPC stream of one row, with `head` in the schema's metadata."""
    batch = pa.RecordBatch.from_arrays(list(columns), names=list(names))
    batch = batch.replace_schema_metadata({_KEY: orjson.dumps(head)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    value: bytes = sink.getvalue().to_pybytes()
    return value


def decode_row(value: bytes | None, where: str) -> tuple[dict[str, Any], pa.RecordBatch]:
    """What `encode_row` was given, its columns in full and checked.

    Raises:
        DamagedRecord: when it is something else, or of another format.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(value or b"")) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
        head = orjson.loads((batch.schema.metadata or {})[_KEY])
        if batch.num_rows != 1:
            raise ValueError(f"{batch.num_rows} rows where one is wanted")
    except (pa.ArrowException, OSError, StopIteration, KeyError, ValueError) as error:
        raise damaged(where, error) from error
    if not isinstance(head, dict):
        raise damaged(where, TypeError("its head is no JSON object"))
    if head.get("format") not in (PROVISIONAL_FORMAT, FINAL_FORMAT):
        raise DamagedRecord(
            f"{where} is of format {head.get('format')}; this program reads formats {PROVISIONAL_FORMAT} and "
            f"{FINAL_FORMAT}: use the version of stream-curate that wrote it"
        )
    return head, batch


def values_of(row: pa.RecordBatch, name: str, kind: pa.DataType) -> np.ndarray:
    """The values in a list column of what `decode_row` gave. Raises KeyError, TypeError or ValueError."""
    values = row.column(name).flatten()
    if values.type != kind or values.null_count:
        raise TypeError(f"{name}: {values.type} with {values.null_count} nulls where {kind} is wanted")
    found: np.ndarray = values.to_numpy()
    return found


def damaged(where: str, error: Exception) -> DamagedRecord:
    """The error for a record that cannot be read."""
    return DamagedRecord(
        f"{where} is no record of stream-curate ({type(error).__name__}: {error}): another program wrote into this "
        "topic. Give the curation topics of its own, and replay"
    )


def one_list(values: pa.Array) -> pa.ListArray:
    """One row that holds all the values."""
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
