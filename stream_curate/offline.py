"""Offline MetaCLIP, plain: the two passes over a finished pool that the online way must equal.

    pass 1   match every distinct valid pair, count the matches of each entry
    pass 2   keep a pair iff some matched entry e has draw(e) * c_e < t

This module is the reference, written to be checked by eye against the paper (MetaCLIP, arXiv 2309.16671, section 3 and
algorithm 1). With the online way it shares the validator and pair_ids of `pairs.py` and the spacing of texts. The
matching, the set of pairs that came before, the counts, the draws and the rule are its own: an automaton, a Python set,
a dict or the sketch of Apache DataSketches, integer arithmetic and loops.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter as Multiset
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasketches import count_min_sketch

from stream_curate.counting import Counter
from stream_curate.draft import replacing
from stream_curate.errors import InputError, OutputError, UsageError
from stream_curate.matching.automaton import AutomatonMatcher
from stream_curate.metadata import Metadata
from stream_curate.pairs import PAIR_ID, Records, validate
from stream_curate.reasons import Reason
from stream_curate.rule import Dedup, Rule
from stream_curate.sources import Source
from stream_curate.sources.source import display_name
from stream_curate.sources.standard_input import StandardInput

BATCH_SIZE = 65_536
N_LARGEST = 10

OFFLINE_SCHEMA = pa.schema(
    [
        pa.field("pair_id", PAIR_ID, nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("entry_ids", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),
    ]
)

_MASK = 2**64 - 1


class OfflinePool:
    """Pass 1: the distinct valid pairs in the order they were read, and the entries that each of them matches.

    Under `dedup: none` each valid record is a pair of its own, so that a pair_id can stand there several times. No url
    or text is kept: about 170 bytes a pair and 4 bytes a match.

    Attributes:
        n_read: records read.
        n_duplicate: valid records whose pair had come before; 0 under `dedup: none`.
        n_rejected: records that are no valid pair, by reason. `n_read = len(pool) + n_duplicate + sum of n_rejected`.
        pair_ids: the 16 bytes of each pair.
    """

    def __init__(self, metadata: Metadata, dedup: Dedup = "exact") -> None:
        self.metadata = metadata
        self.dedup = dedup
        self.n_read = 0
        self.n_duplicate = 0
        self.n_rejected: Multiset[Reason] = Multiset()
        self.pair_ids: list[bytes] = []
        self._ends: array[int] = array("q", [0])  # pair i matches _entry_ids[_ends[i]:_ends[i + 1]]
        self._entry_ids: array[int] = array("i")
        self._sources: dict[str, int] = {}  # URI -> its number, from 0 on
        self._read_at: array[int] = array("q")  # source and row of each pair, one after the other
        self._seen: set[bytes] = set()

    @classmethod
    def read(cls, records: Iterable[Records], metadata: Metadata, dedup: Dedup = "exact") -> Self:
        """The pool of all these records."""
        pool = cls(metadata, dedup)
        for batch in records:
            pool.add(batch)
        return pool

    def add(self, records: Records) -> None:
        """Take in the next records."""
        pairs, rejections = validate(records)
        matches = self._matcher.match(pairs.column("text"))
        rows = pairs.column("source_row").to_pylist()
        source = self._sources.setdefault(records.source, len(self._sources))
        for i, pair_id in enumerate(pairs.column("pair_id").to_pylist()):
            if self.dedup == "exact":
                if pair_id in self._seen:
                    self.n_duplicate += 1
                    continue
                self._seen.add(pair_id)
            entry_ids = matches.entry_ids[matches.offsets[i] : matches.offsets[i + 1]]
            self._append(pair_id, entry_ids.tolist(), (source, rows[i]))
        self.n_read += len(records)
        self.n_rejected.update(rejection.reason for rejection in rejections)

    def __len__(self) -> int:
        """The number of pairs: n_unique."""
        return len(self.pair_ids)

    @property
    def n_matched(self) -> int:
        """Pairs with at least one matched entry."""
        return sum(start < end for start, end in zip(self._ends, self._ends[1:], strict=False))

    def matched(self, index: int) -> array[int]:
        """The matched entry ids, ascending, of the pair at `index`."""
        return self._entry_ids[self._ends[index] : self._ends[index + 1]]

    def where(self, index: int) -> tuple[str, int]:
        """The URI of the source, and the 0-based row in it, where the pair at `index` was read (first)."""
        source, row = self._read_at[2 * index : 2 * index + 2]
        return list(self._sources)[source], row

    def take(self, indices: Iterable[int]) -> OfflinePool:
        """The pool of only the pairs at these indices, in this order, for what offline gives of part of the stream.

        Its n_read and other numbers of pass 1 are 0, and nothing should be added to it.
        """
        part = OfflinePool(self.metadata, self.dedup)
        part._sources = self._sources
        for index in indices:
            part._append(self.pair_ids[index], self.matched(index), self._read_at[2 * index : 2 * index + 2])
        return part

    def entry_counts(self, counter: Counter) -> dict[int, int]:
        """c_e of each entry that is matched at all, as this counter has it."""
        increments = Multiset(self._entry_ids)
        if counter.kind == "exact":
            return dict(increments)
        sketch = count_min_sketch(counter.num_hashes, counter.num_buckets)
        for entry_id, increment in increments.items():
            sketch.update(entry_id, increment)
        return {entry_id: int(sketch.get_estimate(entry_id)) for entry_id in increments}

    def kept(self, entry_counts: Mapping[int, int], threshold: int, seed: int) -> list[int]:
        """Pass 2: the indices, ascending, of the pairs that the rule keeps at these counts."""
        key = seed.to_bytes(16, "little")
        return [index for index in range(len(self)) if self._is_kept(index, entry_counts, threshold, key)]

    def _is_kept(self, index: int, entry_counts: Mapping[int, int], threshold: int, key: bytes) -> bool:
        matched = self.matched(index)
        if any(entry_counts[entry_id] <= threshold for entry_id in matched):
            return True  # whatever the draw, which is below 1
        base = siphash_2_4(key, self.pair_ids[index])
        return any(
            draw(base, self.metadata.entry(entry_id)) * entry_counts[entry_id] < threshold for entry_id in matched
        )

    @cached_property
    def _matcher(self) -> AutomatonMatcher:
        return AutomatonMatcher(self.metadata.entries)

    def _append(self, pair_id: bytes, entry_ids: Iterable[int], read_at: Iterable[int]) -> None:
        self.pair_ids.append(pair_id)
        self._read_at.extend(read_at)
        self._entry_ids.extend(entry_ids)
        self._ends.append(len(self._entry_ids))


@dataclass(frozen=True)
class OfflineResult:
    """What an offline run did.

    Attributes:
        rule: what decided.
        out: the parquet file with the curated pairs.
        n_read: records read, `n_unique + n_duplicate + the sum of n_rejected`.
        n_unique: distinct valid pairs (under `dedup: none` the valid records).
        n_matched: of these, with at least one matched entry.
        n_curated: pairs in the file, each pair_id once.
        digest: of the pair_ids in the file.
        n_head, n_tail: entries with a count above t; with one from 1 to t.
        largest: the entries with the largest counts, and these, from the top.
    """

    rule: Rule
    out: Path
    n_read: int
    n_unique: int
    n_duplicate: int
    n_rejected: dict[Reason, int]
    n_matched: int
    n_curated: int
    digest: str
    n_head: int
    n_tail: int
    largest: list[tuple[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON report."""
        return self.__dict__ | {
            "rule": self.rule.as_dict(),
            "out": str(self.out),
            "n_rejected": {str(reason): n for reason, n in self.n_rejected.items()},
            "largest": [{"entry": entry, "count": count} for entry, count in self.largest],
        }


def offline(
    sources: Sequence[Source],
    metadata: Metadata,
    *,
    threshold: int,
    seed: int,
    out: Path,
    counter: Counter = Counter("exact"),  # noqa: B008 (a frozen value)
    dedup: Dedup = "exact",
    up_to: Mapping[str, int] | None = None,
) -> OfflineResult:
    """Curate the pairs of `sources` in two passes; write them to the parquet file `out`, which it replaces at the end.

    Args:
        sources: files that stay as they are meanwhile; they are read twice.
        metadata: the entries.
        threshold: t, the number of pairs near which each entry is capped.
        seed: of the draws, 0 <= seed < 2^128.
        out: where the curated pairs go, in the columns of OFFLINE_SCHEMA.
        counter: `exact` is MetaCLIP itself; a sketch gives what a table curated with that sketch must hold.
        dedup: `exact` drops a pair that came before; `none` counts it again.
        up_to: take only so many rows of each source, by its URI; of a source that is not named, none.

    Raises:
        UsageError: a source cannot be read twice, or `up_to` names one that is not given.
        ConfigError: a setting is out of range.
        InputError: a source cannot be read, or gave something else the second time.
        OutputError: `out` cannot be written.
    """
    rule = Rule.of(metadata, threshold=threshold, seed=seed, counter=counter, dedup=dedup)
    if any(source.uri == StandardInput.uri for source in sources):
        raise UsageError("offline reads its input twice, which standard input does not allow: write it to a file first")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: there is no folder {out.parent}: make it first")
    pool = OfflinePool.read(records_of(sources, up_to), metadata, dedup)
    entry_counts = pool.entry_counts(counter)
    kept = {pool.pair_ids[index]: index for index in pool.kept(entry_counts, threshold, seed)}
    largest = sorted(entry_counts.items(), key=lambda item: (-item[1], item[0]))[:N_LARGEST]
    _write(out, _kept_pairs(records_of(sources, up_to), pool, kept))
    return OfflineResult(
        rule=rule,
        out=out,
        n_read=pool.n_read,
        n_unique=len(pool),
        n_duplicate=pool.n_duplicate,
        n_rejected=dict(pool.n_rejected),
        n_matched=pool.n_matched,
        n_curated=len(kept),
        digest=digest(kept),
        n_head=sum(count > threshold for count in entry_counts.values()),
        n_tail=sum(count <= threshold for count in entry_counts.values()),
        largest=[(metadata.entry(entry_id), count) for entry_id, count in largest],
    )


def records_of(sources: Iterable[Source], up_to: Mapping[str, int] | None = None) -> Iterator[Records]:
    """All records of the sources, one source after the other; or, with `up_to`, the first so many rows of each.

    Raises:
        UsageError: `up_to` wants rows of a source that is not given.
        InputError: a source has fewer rows than `up_to` wants.
    """
    missing = {} if up_to is None else {uri: n_rows for uri, n_rows in up_to.items() if n_rows > 0}
    for source in sources:
        if up_to is None:
            yield from source.read(0, BATCH_SIZE)
            continue
        n_left = missing.pop(source.uri, 0)
        n_wanted = n_left
        batches = source.read(0, BATCH_SIZE) if n_left else iter(())
        while n_left:
            records = next(batches, None)
            if records is None:
                raise InputError(
                    f"{source.name} has {n_wanted - n_left:,} rows where {n_wanted:,} were "
                    "read before: it was cut or replaced"
                )
            records = _first(records, n_left)
            n_left -= len(records)
            yield records
    for uri, n_rows in missing.items():
        raise UsageError(f"{display_name(uri)} is needed too, with its first {n_rows:,} rows: give it as well")


def siphash_2_4(key: bytes, message: bytes) -> int:
    """SipHash-2-4 of `message` with a 16-byte key (Aumasson and Bernstein, 2012, section 2), below 2^64.

    >>> hex(siphash_2_4(bytes(range(16)), bytes(range(15))))  # appendix A of the paper
    '0xa129ca6149be45e5'
    """
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v0, v1, v2, v3 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v3 ^= word
        v0, v1, v2, v3 = _sip_round(*_sip_round(v0, v1, v2, v3))
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(4):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def draw(base: int, entry: str) -> float:
    """The draw, in [0, 1), for this entry of the pair whose keyed hash is `base`; SplitMix64's finaliser mixes them."""
    z = (base + xxhash.xxh3_64_intdigest(entry.encode()) + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return ((z ^ z >> 31) >> 11) * 2.0**-53


def digest(pair_ids: Iterable[bytes]) -> str:
    """What a set of pairs is known by: SHA-256 of its sorted distinct pair_ids in hex, each followed by a newline.

    >>> digest([bytes(16), bytes(16)]) == digest([bytes(16)])
    True
    """
    sha256 = hashlib.sha256()
    for pair_id in sorted(set(pair_ids)):
        sha256.update(f"{pair_id.hex()}\n".encode())
    return sha256.hexdigest()


def _rotate_left(x: int, n_bits: int) -> int:
    return (x << n_bits | x >> (64 - n_bits)) & _MASK


def _sip_round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotate_left(v1, 13) ^ v0
    v0 = _rotate_left(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotate_left(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotate_left(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotate_left(v1, 17) ^ v2
    v2 = _rotate_left(v2, 32)
    return v0, v1, v2, v3


def _first(records: Records, n_rows: int) -> Records:
    """The first `n_rows` of them, or all."""
    if len(records) <= n_rows:
        return records
    return replace(
        records,
        urls=records.urls[:n_rows],
        texts=records.texts[:n_rows],
        kept={name: column[:n_rows] for name, column in records.kept.items()},
        rejected={index: reason for index, reason in records.rejected.items() if index < n_rows},
        raw={index: raw for index, raw in records.raw.items() if index < n_rows},
    )


def _kept_pairs(records: Iterable[Records], pool: OfflinePool, kept: Mapping[bytes, int]) -> Iterator[pa.RecordBatch]:
    """The kept pairs as they are read once more, each pair_id once."""
    missing = dict(kept)
    for batch in records:
        pairs, _ = validate(batch)
        rows, entry_ids = [], []
        for row, pair_id in enumerate(pairs.column("pair_id").to_pylist()):
            index = missing.pop(pair_id, None)
            if index is not None:
                rows.append(row)
                entry_ids.append(pool.matched(index).tolist())
        chosen = pairs.take(pa.array(rows, pa.int64()))
        columns = [chosen.column(name) for name in ("pair_id", "url", "text")]
        columns.append(pa.array(entry_ids, OFFLINE_SCHEMA.field("entry_ids").type))
        yield pa.RecordBatch.from_arrays(columns, schema=OFFLINE_SCHEMA)
    if missing:
        raise InputError(f"{len(missing):,} of the pairs to keep were gone at the second reading: a source was changed")


def _write(out: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a parquet file under another name beside `out`, then put it in its place."""
    try:
        with replacing(out) as draft, pq.ParquetWriter(draft, OFFLINE_SCHEMA, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
