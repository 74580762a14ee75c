"""How fast workers are, beside merely reading, and how many bytes all of it takes: `make bench-kafka`.

One run starts a broker of its own, fills topics with pairs made from the real shards, and measures one thing after the
other: reading alone, reading and decoding, the whole worker with JSON and with Arrow messages, the same without
transactions, the worker with smaller and larger commits, and bare transactions. What is compared takes turns. The
broker has the first core of the machine, and whatever is measured the last one, so that with two cores the rates are
those of one. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import measured
from bench.data import N_ENTRIES, metadata, write_pairs
from kafka_topics import environment, read_partition

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.dev_broker import OUT, DevBroker
from consumers.messages import MessageReader
from consumers.produce import MessageFormat, produce
from consumers.settings import AllSettings, KafkaSettings, TopicNames
from consumers.topics import create_topics
from stream_curate.failpoints import LOG_VARIABLE
from stream_curate.logs import configure_logs
from stream_curate.sources import ColumnChoice, open_sources

COMMITS = (1_000, 32_768, 100_000)
N_TRANSACTIONS = 300
WARM_PAIRS = 1_000
THRESHOLD = 20
FORMATS: tuple[MessageFormat, ...] = ("json", "arrow")

WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
SIMULATED_PAIRS = 1_000_000_000


@dataclass
class Measured:
    """One line of the table: what was measured once or several times."""

    what: str
    n_pairs: int
    seconds: list[float]
    core_s: list[float]  # seconds of a core that the process took, its threads together
    remark: str = ""
    load: float = 0.0  # processes that wanted a core, over the last minute

    @property
    def rate(self) -> float:
        return self.n_pairs / statistics.median(self.seconds)

    @property
    def core_rate(self) -> float:
        return self.n_pairs / max(statistics.median(self.core_s), 0.01)

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "n_pairs": self.n_pairs,
            "seconds": [round(each, 3) for each in self.seconds],
            "core_s": [round(each, 3) for each in self.core_s],
            "pairs_per_second": round(self.rate),
            "slowest": round(self.n_pairs / max(self.seconds)),
            "fastest": round(self.n_pairs / min(self.seconds)),
            "pairs_per_core_second": round(self.core_rate),
            "remark": self.remark,
            "load": self.load,
        }


class Clock:
    """Seconds, and seconds of a core, since it was made."""

    def __init__(self) -> None:
        self._begin = (time.monotonic(), time.process_time())

    def read(self) -> tuple[float, float]:
        return time.monotonic() - self._begin[0], time.process_time() - self._begin[1]


class Bench:
    """A broker with topics, and what was measured on it.

    Args:
        broker: runs already.
        folder: for files.
        n_partitions: of each topic of pairs.
        variables: of the environment, for workers: the rule.
    """

    def __init__(self, broker: DevBroker, folder: Path, n_partitions: int, variables: dict[str, str]) -> None:
        self.folder = folder
        self.n_pairs: dict[str, int] = {}
        """Of each topic of pairs that is filled."""
        self.variables = variables
        self._lines: dict[str, Measured] = {}
        self._broker = broker
        self._n_partitions = n_partitions
        self._n_runs = 0

    @property
    def lines(self) -> list[Measured]:
        return list(self._lines.values())

    def settings(self, pairs: str, **changes: Any) -> KafkaSettings:
        """For the topic of pairs of this name, with a ledger that is new."""
        self._n_runs += 1
        run = f"run{self._n_runs}"
        settings = KafkaSettings(
            bootstrap_servers=self._broker.bootstrap,
            topics=TopicNames(pairs=pairs, ledger=f"{run}.ledger", counts=f"{run}.counts", dlq=f"{run}.dlq"),
            group_id=run,
            partitions=self._n_partitions,
            replication_factor=1,
            **changes,
        )
        create_topics(settings)
        return settings

    def add(self, what: str, n_pairs: int, seconds: float, core_s: float, remark: str = "") -> None:
        line = self._lines.setdefault(what, Measured(what, n_pairs, [], []))
        line.seconds.append(seconds)
        line.core_s.append(core_s)
        line.remark, line.load = remark, os.getloadavg()[0]
        print(f"{what}: {seconds:.2f} s, {core_s:.2f} s of a core; {remark}", file=sys.stderr, flush=True)

    def n_bytes(self, topic: str) -> int:
        """What the batches of a topic's records take on the broker's disk, and on every way there and back."""
        return sum(path.stat().st_size for path in self._broker.folder.glob(f"data/{topic}-*/*.log"))


def fill(bench: Bench, pairs: str, message_format: MessageFormat, n_pairs: int) -> None:
    path = bench.folder / f"{n_pairs}.parquet"
    if not path.exists():
        write_pairs(path, n_pairs)
    clock = Clock()
    produced = produce(open_sources([str(path)], ColumnChoice()), bench.settings(pairs), format=message_format)
    assert produced.n_sent == n_pairs
    bench.n_pairs[pairs] = n_pairs
    if pairs != "warm.pairs":
        bench.add(f"produce, {message_format}", n_pairs, *clock.read(), f"{produced.n_messages:,} messages")


def polled(settings: KafkaSettings, *, as_it_is: bool = False) -> Iterator[tuple[int, list[Any]]]:
    """All messages of `pairs`, as (partition, those of one poll); by kafka-python as it is, or as workers read them."""
    consumer = make_consumer(settings)
    if as_it_is:
        consumer._fetcher.PartitionRecords = Fetcher.PartitionRecords
    places = [TopicPartition(settings.topics.pairs, partition) for partition in range(settings.partitions)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    ends = consumer.end_offsets(places)
    try:
        while any(consumer.position(place) < ends[place] for place in places):
            for place, messages in consumer.poll(timeout_ms=1_000, max_records=10_000).items():
                yield place.partition, messages
    finally:
        consumer.close(autocommit=False)


def read(bench: Bench, pairs: str, message_format: MessageFormat) -> None:
    settings = bench.settings(pairs)
    clock = Clock()
    n_messages = sum(len(messages) for _, messages in polled(settings, as_it_is=True))
    bench.add(f"reading alone, {message_format}", bench.n_pairs[pairs], *clock.read(), f"{n_messages:,} messages")
    readers = [MessageReader(pairs, partition) for partition in range(settings.partitions)]
    clock = Clock()
    n_valid = 0
    for partition, messages in polled(settings):
        for batch in readers[partition].read(messages):
            n_valid += batch.validate()[0].num_rows
    assert n_valid == bench.n_pairs[pairs]
    bench.add(f"reading, decoding and validating, {message_format}", n_valid, *clock.read())


@dataclass(frozen=True)
class Work:
    """How one worker came to the end of `pairs`.

    Attributes:
        seconds: from when its first partition was ready to when its last commit was done.
        taking_over_s: the part of them until its last partition was ready; they are taken over one after the other.
        whole_s: the whole command, with loading the metadata.
        core_s: seconds of a core for the whole command.
        n_commits: transactions.
    """

    seconds: float
    taking_over_s: float
    whole_s: float
    core_s: float
    n_commits: int


def command(bench: Bench, settings: KafkaSettings, words: list[str], log: Path) -> dict[str, Any]:
    """Run a Python program with these settings; its JSON output."""
    variables = measured.environment() | bench.variables | dict(environment(settings)) | {LOG_VARIABLE: str(log)}
    done = subprocess.run([sys.executable, *words, "--json"], env=variables, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stderr.decode()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def work(bench: Bench, settings: KafkaSettings, n_pairs: int, module: str = "stream_curate") -> Work:
    """Run one worker."""
    log = bench.folder / "steps"
    log.unlink(missing_ok=True)
    begin_s, begin_core_s = time.monotonic(), _children_s()
    report = command(bench, settings, ["-m", module, "worker", "--until", "end"], log)
    whole_s, core_s = time.monotonic() - begin_s, _children_s() - begin_core_s
    assert report["n_unique"] == n_pairs, report
    steps = [(float(seconds), step) for seconds, _, step in (line.split() for line in log.read_text().splitlines())]
    ready = [seconds for seconds, step in steps if step == "restore.sought"]
    commits = [seconds for seconds, step in steps if step == "commit.done"]
    return Work(commits[-1] - ready[0], ready[-1] - ready[0], whole_s, core_s, len(commits))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def work_measured(
    bench: Bench, pairs: str, what: str, start: Work, *, module: str = "stream_curate", **changes: Any
) -> KafkaSettings:
    """As `start`, a worker with nearly nothing to do, tells what it costs to start one."""
    settings = bench.settings(pairs, **changes)
    found = work(bench, settings, bench.n_pairs[pairs], module)
    bench.add(
        what,
        bench.n_pairs[pairs],
        found.seconds,
        found.core_s - start.core_s,
        f"{found.n_commits:,} commits; the whole command {found.whole_s:.1f} s, "
        f"of it {found.taking_over_s:.1f} s until all partitions were ready",
    )
    return settings


def settle(bench: Bench, settings: KafkaSettings) -> dict[str, Any]:
    """Make the table of what a worker wrote, and see what the published counts take."""
    log = bench.folder / "settler"
    out = bench.folder / "table"
    begin_s = time.monotonic()
    command(bench, settings, ["-m", "stream_curate", "settler", "--until", "end", "--out", str(out)], log)
    seconds = time.monotonic() - begin_s
    n_published = len(read_partition(settings, settings.topics.counts, 0))
    n_bytes = bench.n_bytes(settings.topics.counts)
    shutil.rmtree(out)
    return {"seconds": round(seconds, 2), "n_published": n_published, "bytes_of_one": round(n_bytes / n_published)}


def traffic(pairs_bytes: float, ledger_bytes: float, n_entries: int) -> dict[str, Any]:
    """Bytes a pair that go to and from the brokers, by the number of workers, from the bytes measured.

    The pairs are written once and read once; the ledger is written by the workers and read by the settler. After each
    settle, which comes whenever the stream has grown by a quarter, the settler writes the counts once and each worker
    reads them: 8 bytes an entry, as if they could not be compressed. Without replication, restores and forwarded pairs.
    """
    settings = AllSettings()
    n_settles = math.log(SIMULATED_PAIRS / settings.first_settle_records, settings.settle_growth)
    each_reads = n_settles * 8 * n_entries / SIMULATED_PAIRS
    return {
        "n_pairs": SIMULATED_PAIRS,
        "n_settles": round(n_settles),
        "by_workers": [
            {
                "workers": n,
                "pairs": round(2 * pairs_bytes, 3),
                "ledger": round(2 * ledger_bytes, 3),
                "counts": round((1 + n) * each_reads, 3),
                "total": round(2 * pairs_bytes + 2 * ledger_bytes + (1 + n) * each_reads, 3),
            }
            for n in WORKERS
        ],
    }


def bare_transactions(bench: Bench) -> dict[str, float]:
    """Milliseconds for a transaction of one small record in one partition."""
    settings = bench.settings("json.pairs")
    producer = make_producer(settings, transactional_id="bench")
    producer.init_transactions()
    each_ms = []
    for _ in range(N_TRANSACTIONS):
        begin_s = time.monotonic()
        producer.begin_transaction()
        producer.send(settings.topics.ledger, bytes(100), partition=0)
        producer.commit_transaction()
        each_ms.append(1_000 * (time.monotonic() - begin_s))
    end_producer(producer)
    return {
        "median_ms": statistics.median(each_ms),
        "p99_ms": statistics.quantiles(each_ms, n=100)[98],
        "mean_ms": statistics.fmean(each_ms),
    }


def measure(
    folder: Path,
    variables: dict[str, str],
    *,
    n_entries: int,
    n_pairs: Mapping[MessageFormat, int],
    n_partitions: int = 8,
    n_rounds: int = 1,
    commits: Sequence[int] = COMMITS,
) -> dict[str, Any]:
    """All of it, with a broker that is started for it and removed."""
    # as the worker does, or reading alone would look slower than it is
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    cores = os.sched_getaffinity(0)
    broker = DevBroker(OUT / f"bench-{os.getpid()}")
    try:
        os.sched_setaffinity(0, {min(cores)})
        broker.start()
        os.sched_setaffinity(0, {max(cores)})
        bench = Bench(broker, folder, n_partitions, variables)
        for each in FORMATS:
            fill(bench, f"{each}.pairs", each, n_pairs[each])
        # the first worker may have to compile
        fill(bench, "warm.pairs", "json", WARM_PAIRS)
        start = [work(bench, bench.settings("warm.pairs"), WARM_PAIRS) for _ in range(2)][-1]
        for _ in range(n_rounds):
            for each in FORMATS:
                read(bench, f"{each}.pairs", each)
                settings = work_measured(bench, f"{each}.pairs", f"worker, {each}", start)
                without = f"worker, {each}, without transactions"
                work_measured(bench, f"{each}.pairs", without, start, module="bench.worker_without_transactions")
        ledger_bytes = bench.n_bytes(settings.topics.ledger) / n_pairs["arrow"]
        for n_records in commits:
            what = f"worker, arrow, commits of {n_records:,}"
            work_measured(bench, "arrow.pairs", what, start, commit_records=n_records, commit_interval_s=60.0)
        transactions = bare_transactions(bench)
        os.sched_setaffinity(0, cores)
        settled = settle(bench, settings)
        pairs_bytes = {each: bench.n_bytes(f"{each}.pairs") / n_pairs[each] for each in FORMATS}
    finally:
        os.sched_setaffinity(0, cores)
        broker.remove()
    return {
        "n_pairs": dict(n_pairs),
        "partitions": n_partitions,
        "lines": [line.as_dict() for line in bench.lines],
        "transaction": transactions,
        "settle": settled,
        "bytes_per_pair": {
            "pairs, json": round(pairs_bytes["json"], 1),
            "pairs, arrow": round(pairs_bytes["arrow"], 1),
            "ledger": round(ledger_bytes, 1),
        },
        "bytes_of_counts": settled["bytes_of_one"],
        "traffic": traffic(pairs_bytes["arrow"], ledger_bytes, n_entries),
    }


def show(report: dict[str, Any]) -> None:
    found = {line["what"]: line for line in report["lines"]}
    width = max(map(len, found))
    print(f"\n{'':{width}}  {'pairs/s':>10}  {'ratio':>6}  {'a core-s':>10}  {'ratio':>6}  {'load':>5}")
    for what, line in found.items():
        alone = found["reading alone, arrow" if "arrow" in what else "reading alone, json"]
        rate, core_rate = line["pairs_per_second"], line["pairs_per_core_second"]
        print(
            f"{what:{width}}  {rate:10,}  {rate / alone['pairs_per_second']:6.3f}  "
            f"{core_rate:10,}  {core_rate / alone['pairs_per_core_second']:6.3f}  {line['load']:5.1f}  {line['remark']}"
        )
    transaction, sizes = report["transaction"], report["bytes_per_pair"]
    print(
        "\nratio: to reading alone the same messages. a core-s: pairs for each second of a core, of a worker without "
        "what it takes to start one. A bare transaction of one record in one partition: "
        f"{transaction['median_ms']:.1f} ms (median), {transaction['p99_ms']:.1f} ms (99 of 100). Bytes a pair: "
        + ", ".join(f"{topic} {n}" for topic, n in sizes.items())
        + f"; the counts published after a settle {report['bytes_of_counts']:,}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500_000, help="in the topic (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=8, help="of it (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="of what is compared (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    given = parser.parse_args()
    configure_logs()
    measured.end_in_order_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "metadata.txt.zst"
        metadata().save(path, zstd_level=1)
        report = measure(
            Path(folder),
            rule_of(path, THRESHOLD),
            n_entries=N_ENTRIES,
            n_pairs=dict.fromkeys(FORMATS, given.pairs),
            n_partitions=given.partitions,
            n_rounds=given.rounds,
        )
    facts = measured.machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    show(report)
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": facts} | report, indent=2) + "\n")


def rule_of(path: Path, threshold: int) -> dict[str, str]:
    """The environment of a worker with this list of entries."""
    return {
        "STREAM_CURATE_SEED": "7",
        "STREAM_CURATE_THRESHOLD": str(threshold),
        "STREAM_CURATE_METADATA": str(path),
    }


if __name__ == "__main__":
    main()
