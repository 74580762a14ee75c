"""`stream-curate worker` as users run it: what it says, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest
from command_line import Outcome, outcome_of, run, start, wait_until
from kafka_reference import check_ledger
from kafka_topics import environment
from kafka_workers import QUICK, RULE_FLAGS, made_pairs, send, send_raw, shard_pairs

from consumers.dev_broker import DevBroker
from consumers.settings import KafkaSettings
from consumers.topics import create_topics
from stream_curate.failpoints import LOG_VARIABLE, VARIABLE

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(kafka: Callable[..., KafkaSettings]) -> KafkaSettings:
    made = kafka(**QUICK)
    create_topics(made)
    return made


def worker(settings: KafkaSettings, *flags: object) -> Outcome:
    return run("worker", *RULE_FLAGS, *flags, environment=environment(settings))


def process(settings: KafkaSettings, steps: Path, *flags: object, **more: str) -> subprocess.Popen[bytes]:
    given = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
    env = given | dict(environment(settings)) | {LOG_VARIABLE: str(steps)} | more
    return start("worker", *RULE_FLAGS, *flags, env=env)


def terminate(running: subprocess.Popen[bytes]) -> tuple[Outcome, float]:
    begun_s = time.monotonic()
    running.send_signal(signal.SIGTERM)
    outcome = outcome_of(running, 30)
    return outcome, time.monotonic() - begun_s


def is_stopped(running: subprocess.Popen[bytes]) -> bool:
    return Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def has(steps: Path, step: str, n: int = 1) -> Callable[[], bool]:
    return lambda: steps.exists() and steps.read_text().count(f" {step}\n") >= n


def test_help_tells_what_it_is_for() -> None:
    words = run("worker", "--help").ended(0).words

    for told in ("--until", "--from-earliest", "--threshold", "--config", "--json", "SIGTERM ends it within 5 seconds"):
        assert told in words
    for not_its_own in ("--out", "--checkpoint-interval"):
        assert not_its_own not in words


def test_a_run_to_the_end_tells_what_it_did(settings: KafkaSettings) -> None:
    send(settings, made_pairs(100))
    send(settings, made_pairs(20), to=0)
    send_raw(settings, [(b"no json", []), (None, [])], 2)
    told = worker(settings, "--until", "end", "--json").ended(0).json

    assert told["n_unique"] == 100
    assert told["n_duplicate"] == 20
    assert told["n_forwarded"] > 5
    assert told["n_read"] == 122 + told["n_forwarded"]
    assert told["rejected"] == {"bad_json": 1, "null_value": 1}
    assert told["stopped"] is False

    words = worker(settings, "--until", "end").ended(0).words
    assert f"Worked on {settings.topics.pairs}" in words
    assert "passed on to their home partition" in words


@pytest.mark.parametrize(
    ("flags", "changes", "code", "words"),
    [
        (("--until", "sometimes"), {}, 2, "Invalid value for '--until'"),
        (("--config", "/none.yaml"), {}, 3, "/none.yaml"),
        (("--keep-columns", "caption"), {}, 2, "this is the name of the url or the text"),
        ((), {"partitions": 5}, 6, "has 3 partitions and kafka.partitions is 5"),
        ((), {"bootstrap_servers": "127.0.0.1:9", "give_up_after_s": 1}, 6, "no broker answers in time at 127.0.0.1:9"),
    ],
)
def test_what_cannot_be_is_told(
    settings: KafkaSettings, flags: tuple[str, ...], changes: dict[str, object], code: int, words: str
) -> None:
    outcome = worker(settings.model_copy(update=changes), "--until", "end", *flags)

    assert words in outcome.ended(code).words


def test_another_seed_ends_with_3(settings: KafkaSettings) -> None:
    send(settings, made_pairs(30))
    worker(settings, "--until", "end").ended(0)
    words = worker(settings, "--until", "end", "--seed", 8).ended(3).words

    assert "was written by a process with other settings: seed_fingerprint: " in words


# --- SIGTERM


def test_sigterm_while_it_waits(settings: KafkaSettings, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    running = process(settings, steps, "--json")
    wait_until(has(steps, "restore.sought", 3), running, 60)
    outcome, seconds = terminate(running)

    assert json.loads(outcome.ended(0).out)["stopped"] is True
    assert seconds < 6


def test_sigterm_while_it_works(settings: KafkaSettings, tmp_path: Path) -> None:
    """Each record is a commit here, so that it is always in the middle of one."""
    send(settings, shard_pairs(3_000))
    steps = tmp_path / "steps"
    running = process(settings.model_copy(update={"commit_records": 1}), steps)
    wait_until(has(steps, "commit.done", 5), running, 60)
    outcome, seconds = terminate(running)

    outcome.ended(0)
    assert seconds < 6
    n_committed = steps.read_text().count(" commit.done\n")
    assert n_committed < 3_000
    assert sum(map(len, check_ledger(settings))) >= n_committed
    worker(settings, "--until", "end").ended(0)
    check_ledger(settings)


def test_sigterm_while_it_restores(settings: KafkaSettings, tmp_path: Path) -> None:
    send(settings, made_pairs(200), to=0)
    worker(settings, "--until", "end").ended(0)
    steps = tmp_path / "steps"
    running = process(settings, steps, **{VARIABLE: "restore.slice:1:stop"})
    wait_until(lambda: is_stopped(running), running, 60)
    Timer(0.2, running.send_signal, (signal.SIGCONT,)).start()  # the signal waits for it
    outcome, seconds = terminate(running)

    outcome.ended(0)
    assert seconds < 6


def test_sigterm_while_no_broker_is_there(tmp_path: Path) -> None:
    broker = DevBroker(tmp_path / "broker")
    try:
        broker.start()
        settings = KafkaSettings(
            **QUICK, bootstrap_servers=broker.bootstrap, partitions=2, replication_factor=1, commit_records=1
        )
        create_topics(settings)
        send(settings, made_pairs(2_000))
        steps = tmp_path / "steps"
        running = process(settings, steps)
        wait_until(has(steps, "commit.done", 5), running, 60)
        broker.kill()
        n_begun = steps.read_text().count("\n")
        wait_until(has(steps, "abort.begin"), running, 60)  # a commit did not come back
        outcome, seconds = terminate(running)
    finally:
        broker.remove()

    outcome.ended(0)
    assert seconds < 6
    assert steps.read_text().count("\n") > n_begun


def test_killed_in_the_middle_of_a_commit_it_goes_on(settings: KafkaSettings, tmp_path: Path) -> None:
    """Each of the three partitions has at most one commit under way, so that the fifth comes after one that is done."""
    send(settings, made_pairs(200))
    small = settings.model_copy(update={"commit_records": 20})
    killed = process(small, tmp_path / "steps", "--until", "end", **{VARIABLE: "commit.flushed:5"})
    assert outcome_of(killed, 90).code == -signal.SIGKILL
    told = worker(settings, "--until", "end", "--json").ended(0).json

    assert 0 < told["n_read"] < 200
    assert sum(record.numbers.n_unique for records in check_ledger(settings) for record in records) == 200
