"""How long a worker takes to restore a partition: `python tests/bench/restore.py --help`.

One run starts a broker of its own, writes the ledger of one partition as workers would have written it (real captions,
commits of 20,000 pairs, a fifth of them admitted), and has the worker's own code restore it: from the ledger alone,
from the ledger while the cache is written, and from the cache. The parts are measured on their own too. Nothing here
passes or fails; the aim is 10 million pairs in under 15 s from the ledger, and under 3 s from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import TopicPartition

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.measured import machine
from million import real_pairs

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.decision import Decider
from consumers.dev_broker import OUT, DevBroker
from consumers.ledger import LedgerRecord, RuleHeader, admitted_schema
from consumers.messages import position
from consumers.owned_partition import OwnedPartition
from consumers.settings import AllSettings, KafkaSettings
from consumers.topics import create_topics
from consumers.watchdog import Watchdog
from consumers.worker import RESTORE_SLICE_S
from stream_curate.counting import increments_of
from stream_curate.logs import configure_logs
from stream_curate.matching import make_matcher
from stream_curate.metadata import Metadata
from stream_curate.open_curation import load_metadata, make_rule
from stream_curate.pairs import pair_ids
from stream_curate.seen import ExactSeen
from stream_curate.table.state import Numbers

COMMIT_PAIRS = 20_000
ADMITTED_SHARE = 0.2
PARTITION = 0


def records(header: RuleHeader, metadata: Metadata, n_pairs: int) -> Iterator[LedgerRecord]:
    """The ledger of a partition of `n_pairs` unique pairs."""
    rng = np.random.default_rng(1)
    pairs = real_pairs().combine_chunks()
    matcher = make_matcher("trie", metadata.entries)
    scratch = np.zeros(len(metadata), np.int64)
    schema = admitted_schema(header.kept_columns)
    n_commits = -(-n_pairs // COMMIT_PAIRS)
    for number in range(n_commits):
        n = min(COMMIT_PAIRS, n_pairs - number * COMMIT_PAIRS)
        chosen = pairs.take(pa.array(rng.integers(0, len(pairs), n))).combine_chunks().to_batches()[0]
        matches = matcher.match(chosen.column("text").cast(pa.string()))
        entry_ids, increments = increments_of(matches, scratch)
        admitted = chosen.slice(0, int(n * ADMITTED_SHARE))
        k = len(admitted)
        columns: dict[str, pa.Array] = {
            "pair_id": pair_ids(admitted.column("url").cast(pa.binary()), admitted.column("text").cast(pa.binary())),
            "url": admitted.column("url").cast(pa.string()),
            "text": admitted.column("text").cast(pa.string()),
            "entry_ids": pa.ListArray.from_arrays(
                pa.array(matches.offsets[: k + 1].astype(np.int32)),
                pa.array(matches.entry_ids[: matches.offsets[k]]),
                type=schema.field("entry_ids").type,
            ),
            "source_row": pa.array(position(number * COMMIT_PAIRS) + np.arange(k) * position(1)),
        }
        empty = {name: pa.nulls(k, pa.string()) for name in schema.names if name not in columns}
        arrays = [(columns | empty)[name].cast(schema.field(name).type) for name in schema.names]
        yield LedgerRecord(
            header=header,
            partition=PARTITION,
            first=position(number * COMMIT_PAIRS),
            next=position(number * COMMIT_PAIRS + n),
            is_last=True,
            view_cut=(0,) * header.n_partitions,
            numbers=Numbers(n_unique=n, n_matched=n, n_matches=len(matches.entry_ids), n_admitted=k),
            n_received=0,
            entry_ids=entry_ids,
            increments=increments,
            seen=rng.integers(0, 2**64, n, np.uint64),
            admitted=pa.RecordBatch.from_arrays(arrays, schema=schema),
        )


def write(settings: KafkaSettings, written: Iterator[LedgerRecord]) -> dict[str, Any]:
    producer = make_producer(settings, transactional_id="bench")
    producer.init_transactions()
    n_bytes = n_records = n_entries = 0
    for record in written:
        value = record.encode()
        producer.begin_transaction()
        producer.send(settings.topics.ledger, value, partition=PARTITION)
        producer.commit_transaction()
        n_bytes += len(value)
        n_entries += len(record.entry_ids)
        n_records += 1
    end_producer(producer)
    return {"n_records": n_records, "n_bytes": n_bytes, "entries_per_record": round(n_entries / n_records)}


def read(settings: KafkaSettings) -> Iterator[Any]:
    consumer = make_consumer(settings)
    place = TopicPartition(settings.topics.ledger, PARTITION)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    end = consumer.end_offsets([place])[place]
    try:
        while consumer.position(place) < end:
            for messages in consumer.poll(timeout_ms=1_000).values():
                yield from messages
    finally:
        consumer.close(autocommit=False)


def parts(settings: KafkaSettings, n_pairs: int) -> dict[str, float]:
    """Seconds for each part alone. The parts overlap, so they do not add up to the whole."""
    seconds: dict[str, float] = {}
    begin_s = time.monotonic()
    for _ in read(settings):
        pass
    seconds["reading"] = time.monotonic() - begin_s
    begin_s = time.monotonic()
    seen, deltas = [], []
    for message in read(settings):
        record = LedgerRecord.decode(message.value, "here")
        seen.append(record.seen.copy())
        deltas.append((record.entry_ids, record.increments))
    seconds["reading and decoding"] = time.monotonic() - begin_s
    counts = np.zeros(1 + max(int(entry_ids.max()) for entry_ids, _ in deltas), np.int64)
    begin_s = time.monotonic()
    for entry_ids, increments in deltas:
        counts[entry_ids] += increments
    seconds["adding up the deltas"] = time.monotonic() - begin_s
    for together, name in ((1, "each commit alone"), (50, "a million at a time"), (len(seen), "all at once")):
        added = ExactSeen()
        begin_s = time.monotonic()
        for k in range(0, len(seen), together):
            added.add(np.concatenate(seen[k : k + together]))
        seconds[f"remembering hashes, {name}"] = time.monotonic() - begin_s
        assert len(added) == n_pairs
    return seconds


def restore(settings: KafkaSettings, decider: Decider, n_pairs: int) -> dict[str, float]:
    """Take the partition over as a worker does; seconds, and the longest that no poll of the group would come."""
    watchdog = Watchdog()
    consumer = make_consumer(settings)
    longest_s = 0.0
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
    owned = OwnedPartition(settings, PARTITION, decider, None, watchdog)
    taken_s = time.monotonic()
    is_done = False
    while not is_done:
        slice_s = time.monotonic()
        is_done = owned.restore(consumer, RESTORE_SLICE_S)
        longest_s = max(longest_s, time.monotonic() - slice_s)
    seconds, cpu_s = time.monotonic() - begin_s, time.process_time() - begin_cpu_s
    assert owned.state is not None
    assert len(owned.state.seen) == n_pairs
    owned.close()
    consumer.close(autocommit=False)
    watchdog.close()
    return {"seconds": seconds, "cpu_s": cpu_s, "taking_over_s": taken_s - begin_s, "longest_slice_s": longest_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000, help="of the partition (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    given = parser.parse_args()
    configure_logs()

    broker = DevBroker(OUT / f"bench-{os.getpid()}")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        broker.start()
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap, partitions=1, replication_factor=1)
        create_topics(settings)
        metadata = load_metadata(AllSettings(), None)
        header = RuleHeader(make_rule(AllSettings(), metadata, 7), settings.partitions)
        decider = Decider(header, metadata, 7)
        ledger = write(settings, records(header, metadata, given.pairs))
        print(
            f"{given.pairs:,} pairs: {ledger['n_records']:,} records, {ledger['n_bytes'] / 1e6:,.0f} MB, "
            f"{ledger['n_bytes'] / given.pairs:.0f} bytes a pair, {ledger['entries_per_record']:,} entries a record"
        )
        alone = parts(settings, given.pairs)
        with_cache = settings.model_copy(update={"cache_dir": folder})
        restored = {
            "from the ledger": restore(settings, decider, given.pairs),
            "from the ledger, writing the cache": restore(with_cache, decider, given.pairs),
            "from the cache": restore(with_cache, decider, given.pairs),
        }
        n_cached = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        broker.remove()
        shutil.rmtree(folder)
    facts = machine() | {"load": os.getloadavg()[0]}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for name, seconds in alone.items():
        print(f"{name:45} {seconds:7.2f} s")
    for name, found in restored.items():
        print(
            f"restore {name:37} {found['seconds']:7.2f} s ({found['cpu_s']:.2f} s of a core), "
            f"of it taking over {found['taking_over_s']:.2f} s; "
            f"longest slice {found['longest_slice_s']:.2f} s"
        )
    print(f"the cache is {n_cached / 1e6:,.0f} MB")
    if given.json is not None:
        report = {"machine": facts, "n_pairs": given.pairs, "ledger": ledger, "parts": alone, "restored": restored}
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
