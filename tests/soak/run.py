"""Leaves a curation alone for a while, with a fault each half minute, and looks whether it grows, falls behind or errs.

    PYTHONPATH=tests python -m soak.run --minutes 30 --seed 1        # what `make soak` does

On a broker of its own two workers, `mortal-1` and `mortal-2`, are killed, ended and started again; a third, `steady`,
and the settler are not, so that there are processes whose memory can be followed for the whole time. All of them are
stopped for seconds, lose their connections (a proxy stands before the broker), and see the broker stop and die.

Half of the top rate is sent. The top rate is measured first, on the same machine with as many processes: what comes
into the ledger in a second while the producer sends as fast as it may. See `soak.feed` for what is sent: pairs known
from the warm-up, and one new pair in a hundred messages. A new pair takes 11 to 14 bytes of a worker for good, as its
hash is remembered; at 10,000 messages/s these are 0.08 MB a minute, of all workers together. That is not taken off:
the bound of 1 MB a minute is for all there is.

At the end all that was sent has to be in the ledger soon, `stream-curate audit` has to find nothing wrong, and the
table has to have the digest of offline. The audit looks at each message, some 10,000 a second.

The warm-up is over when each kind of fault has come once, so that whatever is made for the first time then is made; and
not before 4 minutes (less in CI), in which the settler comes to the sizes that its table stays at.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka_curation import EXIT_AFTER_TERM_S, METADATA, RULE, SEED, THRESHOLD, short_times
from kafka_fleet import Fleet
from kafka_proxy import KafkaProxy
from kafka_topics import environment
from soak.faults import BROKER_STARTS_S, Faults
from soak.feed import SHARE_NEW, Plan, SoakFeed
from soak.result import Bounds, Result
from soak.watch import Places, Watch

from consumers.clients import make_consumer
from consumers.dev_broker import DevBroker, free_port
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.counting import Counter
from stream_curate.logs import configure_logs
from stream_curate.metadata import Metadata
from stream_curate.offline import OfflinePool, digest
from stream_curate.pairs import Records
from stream_curate.table.view import TableView

LASTING = ("steady", "settler")
MORTAL = ["mortal-1", "mortal-2"]
FAULT_EVERY_S = 30.0
# often enough for many settles in any of these minutes, at any rate
SETTLER_PACE = {"CHECKPOINT_INTERVAL_S": 2.0, "FIRST_SETTLE_RECORDS": 2_000, "SETTLE_GROWTH": 1.05}
N_KNOWN = 100_000
KNOWN_S = 20.0  # they are sent in that time at most
MOST_WARM_UP_S = 600.0
CALIBRATION_S = 20.0
CALIBRATION_WARM_UP_S = 10.0
BETWEEN_S = 5.0
LEAST_WARM_UP_S = 240.0
AT_WORK_S = 180.0
FINISH_S = 600.0
OUT = Path("out") / "soak"

Say = Callable[[str], None]


def soak(
    folder: Path,
    *,
    minutes: float,
    seed: int,
    rate: float | None = None,
    bounds: Bounds | None = None,
    least_warm_up_s: float = LEAST_WARM_UP_S,
    say: Say = print,
) -> Result:
    """Do all that the module says.

    Args:
        folder: for broker, table, logs.
        minutes: of sending, after the warm-up.
        seed: of faults and of what is sent.
        rate: messages a second; None for half of the top rate.
        bounds: other ones than the usual.
        least_warm_up_s: how long to warm up when each kind of fault comes sooner than that.
        say: is told what happens.

    Raises:
        AssertionError: when a process ends in a way that none should, or something does not come within a limit that is
            far from all bounds.
    """
    proxy = KafkaProxy()
    broker = DevBroker(folder / "broker", proxy_port=proxy.port)
    try:
        broker.start(BROKER_STARTS_S)
        assert broker.behind_proxy is not None
        proxy.forward_to(broker.behind_proxy)
        top_rate = None
        if rate is None:
            top_rate = _top_rate(folder / "calibration", broker, proxy, seed, say)
            rate = top_rate / 2
            say(f"top rate: {top_rate:,.0f} messages/s")
        result = Result(seed, minutes, top_rate, rate, LASTING, bounds or Bounds())
        _Soak(folder, broker, proxy, result, least_warm_up_s, say).run()
        return result
    finally:
        broker.remove()
        proxy.close()


def _settings(broker: DevBroker) -> KafkaSettings:
    """With names of their own, for who goes to the broker straight."""
    return short_times(broker.bootstrap, commit_records=20_000, commit_interval_s=1.0, session_timeout_s=6.0)


@contextmanager
def _curation(folder: Path, settings: KafkaSettings, proxy: KafkaProxy) -> Iterator[Fleet]:
    """Three workers and a settler that go through the proxy, all of them at work."""
    create_topics(settings)
    through_proxy = settings.model_copy(update={"bootstrap_servers": f"127.0.0.1:{proxy.port}"})
    with Fleet(folder / "fleet", through_proxy, RULE) as fleet:
        for name in (LASTING[0], *MORTAL):
            cache = folder / f"{name}-cache"
            fleet.worker(name, KAFKA__CACHE_DIR=cache, KAFKA__INSTANCE_ID=name, KAFKA__HTTP_PORT=free_port())
        fleet.settler(LASTING[1], folder / "table", **SETTLER_PACE, KAFKA__HTTP_PORT=free_port())
        yield fleet


def _http_ports(fleet: Fleet) -> list[int]:
    return [int(member.environment["STREAM_CURATE_KAFKA__HTTP_PORT"]) for member in fleet.members.values()]


def _wait_until_at_work(fleet: Fleet) -> None:
    steps = {name: "checkpoint.committed" if name == LASTING[1] else "commit.done" for name in fleet.members}
    fleet.wait_for(
        lambda: all(fleet.members[name].steps.has(step) for name, step in steps.items()),
        AT_WORK_S,
        "all to be at work",
        every_s=0.2,
    )


def _top_rate(folder: Path, broker: DevBroker, proxy: KafkaProxy, seed: int, say: Say) -> float:
    """Messages a second that come into the ledger while more are sent than that."""
    say("measuring the top rate")
    settings = _settings(broker)
    plan = Plan(settings, seed, N_KNOWN, round(SHARE_NEW * N_KNOWN), None)
    with (
        _curation(folder, settings, proxy) as fleet,
        SoakFeed(plan) as feed,
        closing(Places(settings)) as places,
    ):
        _wait_until_at_work(fleet)
        fleet.wait_for(lambda: feed.n_distinct >= N_KNOWN, AT_WORK_S, "the known pairs to be sent", every_s=0.2)
        time.sleep(CALIBRATION_WARM_UP_S)
        begin_s, begin = time.monotonic(), places.lag()[0]
        time.sleep(CALIBRATION_S)
        end, waiting = places.lag()
        seconds = time.monotonic() - begin_s
        fleet.check()
        feed.check()
        say(f"{feed.n_sent:,} messages were sent, {waiting:,} wait")
    return (end - begin) / seconds


class _Soak:
    """The main part, on a new ledger."""

    def __init__(
        self, folder: Path, broker: DevBroker, proxy: KafkaProxy, result: Result, least_warm_up_s: float, say: Say
    ) -> None:
        self._folder = folder
        self._broker = broker
        self._proxy = proxy
        self._result = result
        self._least_warm_up_s = least_warm_up_s
        self._say = say
        self._table = folder / "table"
        self._settings = _settings(broker)
        n_new = round(SHARE_NEW * result.rate * (60 * result.minutes + MOST_WARM_UP_S))
        n_known = min(N_KNOWN, round(result.rate * KNOWN_S))
        self._plan = Plan(self._settings, result.seed, n_known, n_new, result.rate)

    def run(self) -> None:
        result = self._result
        with _curation(self._folder, self._settings, self._proxy) as fleet:
            with SoakFeed(self._plan) as feed:
                _wait_until_at_work(fleet)
                with Watch(self._settings, lambda: self._pids(fleet), _http_ports(fleet)) as watch:
                    self._do_harm(fleet, feed, watch)
                    result.fed_s = watch.now_s
                    feed.stop()
                    result.n_sent, result.n_distinct = feed.n_sent, feed.n_distinct
                    self._tell(watch, f"{feed.n_sent:,} messages sent; {feed.n_retries} ticks were sent again")
                    result.drain_s = self._drain(fleet)
                    self._tell(watch, f"drained after {result.drain_s:.1f} s")
                result.lives, result.lags, result.faults = watch.lives, watch.lags, watch.faults
                result.n_scrapes = watch.n_scrapes
            self._finish(fleet)
        result.digest = TableView(self._table).digest()
        result.digest_offline = self._digest_offline(result.n_distinct)
        self._say("auditing")
        begin_s = time.monotonic()
        result.audit = self._audit()
        self._say(f"audited in {time.monotonic() - begin_s:.0f} s")

    def _pids(self, fleet: Fleet) -> dict[str, int]:
        return {name: member.pid for name, member in fleet.members.items()} | {"broker": self._broker_pid()}

    def _broker_pid(self) -> int:
        try:
            return int((self._broker.folder / "pid").read_text())
        except (OSError, ValueError):  # it is stopped, or only about to be started
            return 0

    def _do_harm(self, fleet: Fleet, feed: SoakFeed, watch: Watch) -> None:
        faults = Faults(fleet, MORTAL, self._broker, self._proxy, self._result.seed)
        fleet.wait_for(lambda: feed.n_distinct >= self._plan.n_known, AT_WORK_S, "the known pairs", every_s=0.2)
        for _ in range(faults.n_kinds):
            self._do(faults, watch)
            self._wait_until_read(fleet)
            feed.check()
            time.sleep(BETWEEN_S)
        self._wait_until(self._least_warm_up_s, fleet, feed, watch)
        begin_s = self._result.warm_up_s = watch.now_s
        self._tell(watch, "warmed up")
        end_s = begin_s + 60 * self._result.minutes
        for due_s in np.arange(begin_s + FAULT_EVERY_S, end_s - FAULT_EVERY_S / 2, FAULT_EVERY_S).tolist():
            if watch.now_s > due_s:
                continue  # the one before has taken until now
            self._wait_until(due_s, fleet, feed, watch)
            self._do(faults, watch)
        self._wait_until(end_s, fleet, feed, watch)

    def _do(self, faults: Faults, watch: Watch) -> None:
        begin_s = watch.now_s
        kind, words = faults.next()
        watch.faults.append((begin_s, kind, words))
        self._tell(watch, words)

    def _wait_until_read(self, fleet: Fleet) -> None:
        """Until more of each partition is in the ledger than now."""
        settings = self._settings
        places = [TopicPartition(settings.topics.ledger, partition) for partition in range(settings.partitions)]
        with closing(make_consumer(settings)) as consumer:

            def ends() -> dict[TopicPartition, int]:
                try:
                    return dict(consumer.end_offsets(places))
                except KafkaError:
                    return {}

            def have_moved() -> bool:
                now = ends()
                return bool(now) and all(now[place] > before[place] for place in places)

            before = fleet.wait_for(ends, AT_WORK_S, "the ends of the ledger", every_s=0.2)
            fleet.wait_for(have_moved, AT_WORK_S, "commits of all partitions", every_s=0.2)

    def _wait_until(self, due_s: float, fleet: Fleet, feed: SoakFeed, watch: Watch) -> None:
        while watch.now_s < due_s:
            time.sleep(min(1.0, max(0.0, due_s - watch.now_s)))
            fleet.check()
            feed.check()

    def _drain(self, fleet: Fleet) -> float:
        """Seconds until all is in the ledger that stands in the topic now."""
        begin_s = time.monotonic()
        with closing(Places(self._settings)) as places:
            targets: tuple[int, ...] = ()

            def is_done() -> bool:
                nonlocal targets
                try:
                    targets = targets or places.targets()
                    return all(done >= target for done, target in zip(places.reached(), targets, strict=True))
                except KafkaError:
                    return False

            fleet.wait_for(is_done, FINISH_S, "all to be in the ledger", every_s=0.5)
        return time.monotonic() - begin_s

    def _finish(self, fleet: Fleet) -> None:
        """End all in order; what was forwarded last is read and settled by new ones."""
        for name in list(fleet.members):
            code = fleet.terminate(name, EXIT_AFTER_TERM_S)
            assert code == 0, f"{name} ended with {code} after SIGTERM"
        fleet.worker("last-worker", "--until", "end")
        fleet.settler("last-settler", self._table, "--until", "end")
        fleet.wait_for_exit("last-worker", "last-settler", timeout_s=FINISH_S)
        fleet.check()

    def _digest_offline(self, n_distinct: int) -> str:
        pairs = self._plan.pairs().slice(0, n_distinct)
        pool = OfflinePool(Metadata.load(METADATA))
        pool.add(Records("feed", 0, *(pairs.column(name).cast(pa.binary()) for name in ("url", "text"))))
        kept = pool.kept(pool.entry_counts(Counter("exact")), THRESHOLD, SEED)
        return digest(pool.pair_ids[index] for index in kept)

    def _audit(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "stream_curate", "audit", "--out", str(self._table), "--json"]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
        rule = {f"STREAM_CURATE_{key}": str(value) for key, value in RULE.items()}
        done = subprocess.run(
            command, env=clean | rule | dict(environment(self._settings)), capture_output=True, text=True, check=False
        )
        assert done.stdout, f"audit ended with {done.returncode}:\n{done.stderr}"
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def _tell(self, watch: Watch, words: str) -> None:
        self._say(f"{watch.now_s:7.1f} s  {words}")


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of sending (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of all chance (default: a new one)")
    parser.add_argument("--rate", type=float, help="messages a second (default: half of the top rate, measured)")
    parser.add_argument("--out", type=Path, default=OUT, help="for soak.json and soak.png (default: %(default)s)")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    configure_logs()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(
            Path(folder),
            minutes=given.minutes,
            seed=given.seed,
            rate=given.rate,
            say=lambda line: print(line, flush=True),
        )
    result.save(given.out)
    print(f"\n{result.words()}\n\nThe curves are in {given.out / 'soak.png'}")
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
