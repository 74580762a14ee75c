"""How fast workers are, beside merely reading: `make bench-kafka`, or `python tests/bench/kafka_rates.py --help`.

One run starts a broker of its own, fills topics with pairs made from the real shards, and measures one thing after the
other: reading alone, reading and decoding, the whole worker with JSON and with Arrow messages, the worker with smaller
and larger commits, and bare transactions. Everything runs on one machine, broker included, so it is the ratios that
tell; where other work goes on meanwhile (look at the load), the rates for a second of a core tell more. Nothing here
passes or fails.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kafka
from kafka import TopicPartition

sys.path.insert(0, str(Path(__file__).parents[1]))
from kafka_topics import environment
from million import write_repeated

from consumers.clients import end_producer, make_consumer, make_producer
from consumers.dev_broker import OUT, DevBroker
from consumers.messages import MessageReader
from consumers.produce import MessageFormat, produce
from consumers.settings import KafkaSettings, TopicNames
from consumers.topics import create_topics
from stream_curate.failpoints import LOG_VARIABLE
from stream_curate.logs import configure_logs
from stream_curate.sources import ColumnChoice, open_sources

COMMITS = (1_000, 20_000, 100_000)
N_TRANSACTIONS = 300
WARM_PAIRS = 1_000
FORMATS: tuple[MessageFormat, ...] = ("json", "arrow")


@dataclass
class Measured:
    """One line of the table."""

    what: str
    n_pairs: int
    seconds: float
    core_s: float  # seconds of a core that the process took, its threads together
    remark: str = ""
    load: float = 0.0  # processes that wanted a core, over the last minute

    @property
    def rate(self) -> float:
        return self.n_pairs / self.seconds

    @property
    def core_rate(self) -> float:
        return self.n_pairs / max(self.core_s, 0.01)


class Clock:
    """Seconds, and seconds of a core, since it was made."""

    def __init__(self) -> None:
        self._begin = (time.monotonic(), time.process_time())

    def read(self) -> tuple[float, float]:
        return time.monotonic() - self._begin[0], time.process_time() - self._begin[1]


class Bench:
    """A broker with topics, and what was measured on it."""

    def __init__(self, broker: DevBroker, n_pairs: int, n_partitions: int) -> None:
        self.n_pairs = n_pairs
        self.lines: list[Measured] = []
        self._broker = broker
        self._n_partitions = n_partitions
        self._n_runs = 0

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

    def add(self, what: str, seconds: float, core_s: float, remark: str = "") -> None:
        line = Measured(what, self.n_pairs, seconds, core_s, remark, os.getloadavg()[0])
        self.lines.append(line)
        print(f"{what}: {seconds:.2f} s, {core_s:.2f} s of a core; {remark}", file=sys.stderr, flush=True)


def fill(bench: Bench, folder: Path, pairs: str, message_format: MessageFormat, n_pairs: int) -> None:
    path = folder / f"{n_pairs}.parquet"
    if not path.exists():
        write_repeated(path, n_pairs)
    clock = Clock()
    produced = produce(open_sources([str(path)], ColumnChoice()), bench.settings(pairs), format=message_format)
    assert produced.n_sent == n_pairs
    if n_pairs == bench.n_pairs:
        bench.add(f"produce, {message_format}", *clock.read(), f"{produced.n_messages:,} messages")


def polled(settings: KafkaSettings) -> Iterator[tuple[int, list[Any]]]:
    """All messages of `pairs`, as (partition, those of one poll)."""
    consumer = make_consumer(settings)
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
    n_messages = sum(len(messages) for _, messages in polled(settings))
    bench.add(f"reading alone, {message_format}", *clock.read(), f"{n_messages:,} messages")
    readers = [MessageReader(pairs, partition) for partition in range(settings.partitions)]
    clock = Clock()
    n_valid = 0
    for partition, messages in polled(settings):
        for batch in readers[partition].read(messages):
            n_valid += batch.validate()[0].num_rows
    assert n_valid == bench.n_pairs
    bench.add(f"reading, decoding and validating, {message_format}", *clock.read())


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


def work(settings: KafkaSettings, folder: Path, n_pairs: int) -> Work:
    """Run one worker."""
    log = folder / "steps"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "stream_curate", "worker", "--until", "end", "--json"]
    variables = os.environ | dict(environment(settings)) | {"STREAM_CURATE_SEED": "7", LOG_VARIABLE: str(log)}
    begin_s, begin_core_s = time.monotonic(), _children_s()
    done = subprocess.run(command, env=variables, capture_output=True, check=False)
    whole_s, core_s = time.monotonic() - begin_s, _children_s() - begin_core_s
    if done.returncode:
        raise SystemExit(f"the worker ended with {done.returncode}:\n{done.stderr.decode()}")
    report = json.loads(done.stdout)
    assert report["n_unique"] == n_pairs, report
    steps = [(float(seconds), step) for seconds, _, step in (line.split() for line in log.read_text().splitlines())]
    ready = [seconds for seconds, step in steps if step == "restore.sought"]
    commits = [seconds for seconds, step in steps if step == "commit.done"]
    return Work(commits[-1] - ready[0], ready[-1] - ready[0], whole_s, core_s, len(commits))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def work_measured(bench: Bench, folder: Path, pairs: str, what: str, start: Work, **changes: Any) -> None:
    """As `start`, a worker with nearly nothing to do, tells what it costs to start one."""
    found = work(bench.settings(pairs, **changes), folder, bench.n_pairs)
    bench.add(
        what,
        found.seconds,
        found.core_s - start.core_s,
        f"{found.n_commits:,} commits; the whole command {found.whole_s:.1f} s, "
        f"of it {found.taking_over_s:.1f} s until all partitions were ready",
    )


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


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "n_cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kafka_python": kafka.__version__,
        "broker": "Apache Kafka, one broker on the same machine, 512 MiB heap",
    }


def show(facts: dict[str, Any], lines: list[Measured], transactions: dict[str, float]) -> None:
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    found = {line.what: line for line in lines}
    width = max(len(line.what) for line in lines)
    print(f"\n{'':{width}}  {'pairs/s':>10}  {'ratio':>6}  {'a core-s':>10}  {'ratio':>6}  {'load':>5}")
    for line in lines:
        alone = found["reading alone, arrow" if "arrow" in line.what else "reading alone, json"]
        print(
            f"{line.what:{width}}  {line.rate:10,.0f}  {line.rate / alone.rate:6.3f}  "
            f"{line.core_rate:10,.0f}  {line.core_rate / alone.core_rate:6.3f}  {line.load:5.1f}  {line.remark}"
        )
    print(
        "\nratio: to reading alone the same messages. a core-s: pairs for each second of a core, of a worker without "
        "what it takes to start one. A bare transaction of one record in one partition: "
        f"{transactions['median_ms']:.1f} ms (median), {transactions['p99_ms']:.1f} ms (99 of 100)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500_000, help="in the topic (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=8, help="of it (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--only", metavar="WORD", default="", help="read, transactions, work or commits: no table then")
    given = parser.parse_args()
    configure_logs()
    # as the worker does, or reading alone would look slower than it is
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)

    def wanted(name: str) -> bool:
        return given.only in name

    broker = DevBroker(OUT / f"bench-{os.getpid()}")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    transactions: dict[str, float] = {}
    try:
        broker.start()
        bench = Bench(broker, given.pairs, given.partitions)

        for each in FORMATS:
            fill(bench, folder, f"{each}.pairs", each, given.pairs)
        for each in FORMATS:
            if wanted(f"read {each}"):
                read(bench, f"{each}.pairs", each)
        if wanted("transactions"):
            transactions = bare_transactions(bench)
        # the first worker may have to compile
        fill(bench, folder, "warm.pairs", "json", WARM_PAIRS)
        start = [work(bench.settings("warm.pairs"), folder, WARM_PAIRS) for _ in range(2)][-1]
        for each in FORMATS:
            if wanted(f"work {each}"):
                work_measured(bench, folder, f"{each}.pairs", f"worker, {each}", start)
        for n_records in COMMITS:
            if wanted(f"commits {n_records}"):
                what = f"worker, arrow, commits of {n_records:,}"
                changes = {"commit_records": n_records, "commit_interval_s": 60.0}
                work_measured(bench, folder, "arrow.pairs", what, start, **changes)
    finally:
        broker.remove()
        shutil.rmtree(folder)
    if given.only:
        return
    facts = machine()
    show(facts, bench.lines, transactions)
    if given.json is not None:
        lines = [
            asdict(line) | {"pairs_per_second": round(line.rate), "pairs_per_core_second": round(line.core_rate)}
            for line in bench.lines
        ]
        report = {"machine": facts, "n_pairs": given.pairs, "partitions": given.partitions}
        given.json.write_text(json.dumps(report | {"lines": lines, "transaction": transactions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
