"""Two workers and a settler on a real broker, watched from outside by HTTP alone, as Kubernetes and Prometheus do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import TESTS
from deploy.watched import Watched
from kafka_curation import RULE, SETTLER_PACE, short_times
from kafka_fleet import Fleet
from kafka_topics import environment
from kafka_workers import made_pairs, send, send_raw

from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.table.view import TableView

pytestmark = pytest.mark.slow

WAIT_S = 60.0
N_PARTITIONS = 4
SESSION_TIMEOUT_S = 15.0
STALLED_AFTER_S = 10.0  # longer than a busy machine takes for a commit, shorter than the slow rebalance
ENDS_WITHIN_S = 6.0  # 5 s are promised; the rest is for a busy machine

# A worker whose commits wait for as long as a file is there: one thread of it stands still, and no more.
GATED_WORKER = """
import sys, time
from pathlib import Path
from stream_curate.cli import main
from stream_curate.failpoints import listening

def wait(step):
    while step == "commit.begin" and gate.exists():
        time.sleep(0.05)

gate = Path(sys.argv.pop(1))
with listening(wait):
    main()
"""


@pytest.fixture
def settings(broker: str) -> KafkaSettings:
    made = short_times(broker, partitions=N_PARTITIONS, session_timeout_s=SESSION_TIMEOUT_S, http_port=0)
    made = made.model_copy(update={"stalled_after_s": STALLED_AFTER_S})
    create_topics(made)
    return made


@pytest.fixture
def fleet(settings: KafkaSettings, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", settings, RULE) as made:
        yield made


def worker(fleet: Fleet, name: str) -> Watched:
    return Watched(fleet.worker(name).log)


@contextmanager
def gated_worker(settings: KafkaSettings, folder: Path, gate: Path) -> Iterator[Watched]:
    """A worker whose commits stand still while `gate` is there."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
    rule = {f"STREAM_CURATE_{key}": str(value) for key, value in RULE.items()}
    log = folder / "gated.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", GATED_WORKER, str(gate), "worker"],
            env=given | rule | dict(environment(settings)) | {"STREAM_CURATE_KAFKA__HTTP_PORT": "0"},
            cwd=TESTS.parent,
            stdout=out,
            stderr=out,
        )
    try:
        yield Watched(log)
        begun_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
        assert time.monotonic() - begun_s < ENDS_WITHIN_S
    finally:
        process.kill()
        process.wait()


def wait_for(fleet: Fleet, condition: Callable[[], object], what: str) -> None:
    fleet.wait_for(condition, WAIT_S, what, every_s=0.1)


def wait_for_sum(fleet: Fleet, watched: Watched, value: float, name: str, **labels: str) -> None:
    """Each look is a scrape of its own, and what is counted at one place is counted elsewhere a moment later."""
    wait_for(fleet, lambda: watched.sum(name, **labels) == value, f"{name} {labels or ''} to be {value:,}")


def test_records_are_followed_into_the_table_and_partitions_as_they_move(
    fleet: Fleet, settings: KafkaSettings, tmp_path: Path
) -> None:
    out = tmp_path / "table"
    first, settler = worker(fleet, "first"), Watched(fleet.settler("settler", out, **SETTLER_PACE).log)
    wait_for(fleet, lambda: first.says("/livez", 200), "an answer")  # also before there is anything to do
    wait_for(fleet, lambda: first.says("/readyz", 200) and settler.says("/readyz", 200), "both to be ready")
    # a lag is told once somebody has looked where the partition ends
    wait_for(fleet, lambda: first.partitions() == set(range(N_PARTITIONS)), "the lags of all partitions")
    assert first.sum("stream_curate_rebalances_total") >= 1
    wait_for_sum(fleet, first, N_PARTITIONS, "stream_curate_owned_partitions", state="ready")

    # from the topic to the table, in numbers
    begun_s = time.time()
    send(settings, made_pairs(900))
    send(settings, made_pairs(100), to=0)
    send_raw(settings, [(b"no json", []), (None, [])], 1)
    records, admitted = "stream_curate_records_total", {"result": "admitted"}
    n_home = 0

    def is_read() -> bool:
        nonlocal n_home
        n_home = int(first.sum(records) - first.sum(records, result="forwarded"))
        return n_home == 1_002

    wait_for(fleet, is_read, "all records")
    wait_for_sum(fleet, first, 100, records, result="dropped", reason="duplicate")
    wait_for_sum(fleet, first, 1, records, result="rejected", reason="bad_json")
    wait_for_sum(fleet, first, 2, "stream_curate_dead_letters_total")
    n_unique = first.sum(records, **admitted) + sum(
        first.sum(records, result="dropped", reason=reason) for reason in ("unmatched", "balanced")
    )
    assert n_unique == 900
    n_commits = first.sum("stream_curate_commits_total", result="committed")
    wait_for_sum(fleet, first, n_commits, "stream_curate_commit_seconds_count")
    assert first.sum("stream_curate_stage_seconds_total", stage="write") > 0
    wait_for_sum(fleet, first, 0, "stream_curate_lag_offsets")
    progress_s = first.sum("stream_curate_last_progress_timestamp_seconds", partition="0")
    assert begun_s - 1 < progress_s < time.time() + 1
    wait_for_sum(fleet, first, 900, "stream_curate_seen_pairs")

    def is_settled() -> bool:
        if not settler.says("/picture", 200):
            return False
        table = TableView(out).state
        return table.settled is not None and table.settled.n_read == first.sum(records)

    wait_for(fleet, is_settled, "a settle of all")
    n_curated = TableView(out).settled.n_curated
    wait_for_sum(fleet, settler, n_curated, "stream_curate_curated_pairs")
    wait_for_sum(fleet, settler, first.sum(records, **admitted) - n_curated, "stream_curate_evicted_pairs_total")
    wait_for_sum(fleet, settler, 0, "stream_curate_ledger_lag_offsets")
    assert settler.partitions("stream_curate_ledger_lag_offsets") == set(range(N_PARTITIONS))
    newest_s = settler.sum("stream_curate_ledger_timestamp_seconds")
    wait_for_sum(fleet, settler, newest_s, "stream_curate_settled_cut_timestamp_seconds")
    assert begun_s - 1 < newest_s < time.time() + 1
    assert settler.sum("stream_curate_settle_seconds_count") >= 1
    status, page = settler.ask("/")
    assert (status, b"<html" in page) == (200, True)
    assert b'"entries"' in settler.ask("/match", "POST", b"a dog")[1]
    assert first.ask("/")[0] == 404

    # a second worker takes partitions, and their labels go
    second = worker(fleet, "second")
    wait_for(fleet, lambda: second.says("/readyz", 200) and second.partitions(), "the second worker")
    wait_for(
        fleet,
        lambda: (
            first.partitions() | second.partitions() == set(range(N_PARTITIONS))
            and not first.partitions() & second.partitions()
        ),
        "the partitions to be divided",
    )
    wait_for(
        fleet,
        lambda: first.partitions("stream_curate_last_progress_timestamp_seconds") == first.partitions(),
        "the labels of progress to go as those of lag do",
    )
    n_left = len(first.partitions())
    assert n_left < N_PARTITIONS
    wait_for_sum(fleet, first, n_left, "stream_curate_owned_partitions", state="ready")

    told = second.status()
    assert (told["role"], told["alive"], told["ready"]) == ("worker", True, True)
    assert {int(partition) for partition in told["partitions"]} == second.partitions()
    assert told["rule"]["threshold"] == RULE["THRESHOLD"]
    assert settler.status()["role"] == "settler"

    # a slow rebalance: the group waits for a member that does not answer, for longer than the limit for stalls
    fleet.stop("second")
    stopped_s = time.monotonic()
    third = worker(fleet, "third")
    wait_for(fleet, lambda: third.says("/livez", 200), "the third worker")
    n_sent = 1_000
    while not (first.partitions() | third.partitions() == set(range(N_PARTITIONS)) and third.says("/readyz", 200)):
        send(settings, made_pairs(20, n_sent))
        n_sent += 20
        for each in (first, third):
            assert each.sum("stream_curate_stalled_partitions") == 0
            assert each.ask("/livez")[0] == 200
        fleet.check()
        assert time.monotonic() - stopped_s < 2 * WAIT_S
    assert time.monotonic() - stopped_s > STALLED_AFTER_S
    fleet.members["second"].restarts = False
    fleet.kill("second")
    for name in ("third", "settler", "first"):
        assert fleet.terminate(name, ENDS_WITHIN_S) == 0


def test_a_thread_that_stands_still_is_told(fleet: Fleet, settings: KafkaSettings, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with gated_worker(settings, tmp_path, gate) as gated:
        wait_for(fleet, lambda: gated.says("/readyz", 200), "it to be ready")
        send(settings, made_pairs(100))
        wait_for_sum(fleet, gated, 100, "stream_curate_records_total")
        wait_for_sum(fleet, gated, 0, "stream_curate_lag_offsets")
        time.sleep(STALLED_AFTER_S + 1)  # an end that does not move is no reason for alarm
        assert gated.ask("/livez")[0] == 200

        gate.touch()
        begun_s = time.monotonic()
        send(settings, made_pairs(100, 100))
        wait_for(fleet, lambda: gated.says("/livez", 503), "the stall to be told")
        assert time.monotonic() - begun_s > STALLED_AFTER_S
        wait_for_sum(fleet, gated, N_PARTITIONS, "stream_curate_stalled_partitions")
        wait_for_sum(fleet, gated, 100, "stream_curate_lag_offsets")
        assert "no progress" in gated.status()["alive_words"]

        gate.unlink()
        wait_for(fleet, lambda: gated.says("/livez", 200), "it to go on")
        wait_for_sum(fleet, gated, 0, "stream_curate_stalled_partitions")


def test_who_asks_cannot_hold_it_up(fleet: Fleet, settings: KafkaSettings, tmp_path: Path) -> None:
    """Connections that are held without a word, and more of them than are taken."""
    process = worker(fleet, "worker")
    wait_for(fleet, lambda: process.says("/readyz", 200), "it to be ready")
    held = [socket.create_connection(("127.0.0.1", process.port), timeout=10) for _ in range(100)]
    try:
        for connection in held[-50:]:
            connection.sendall(b"GET /metrics HT")
        assert process.ask("/livez")[0] == 200
        send(settings, made_pairs(50))
        wait_for_sum(fleet, process, 50, "stream_curate_records_total")
        assert fleet.terminate("worker", ENDS_WITHIN_S) == 0
    finally:
        for connection in held:
            connection.close()
