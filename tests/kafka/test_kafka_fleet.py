"""The harness of the Kafka tests: members are started again, end when they should, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TESTS
from kafka_feed import Feed
from kafka_fleet import Fleet, StepLog
from kafka_reference import Reference

from consumers.settings import KafkaSettings
from stream_curate.metadata import Metadata

pytestmark = pytest.mark.slow

SETTINGS = KafkaSettings(partitions=2)


def fleet_of(folder: Path) -> Fleet:
    return Fleet(folder, SETTINGS, {"THRESHOLD": 5})


def test_a_member_is_started_again_and_a_bad_end_is_told(tmp_path: Path) -> None:
    with fleet_of(tmp_path) as fleet:
        member = fleet.start("version", "--version")
        fleet.wait_for(lambda: member.n_starts > 2, 30, "a third start")
        assert {each.code for each in fleet.exits()} == {0}
        member.restarts = False
        fleet.start("unknown", "nothing-like-it")
        with pytest.raises(AssertionError, match=r"unknown ended with 2(.|\n)*No such command"):
            fleet.wait_for(lambda: False, 30, "nothing")


def test_members_take_failpoints_in_turn_and_steps_are_followed(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("url,text\nhttp://x.org/1,a dog\n")
    flags = ("curate", pairs, "--out", tmp_path / "t", "--threshold", 5)
    points = ["settle.begin:1", "settle.committed:1:stop"]
    with fleet_of(tmp_path / "fleet") as fleet:
        member = fleet.start("curate", *flags, failpoints=points)
        fleet.wait_for(lambda: member.exits, 30, "a kill")
        assert [(each.code, each.was_wanted) for each in member.exits] == [(-signal.SIGKILL, True)]
        assert member.steps.last(member.exits[0].pid).name == "settle.begin"  # type: ignore[union-attr]
        fleet.wait_for(member.is_stopped, 30, "a stop")
        assert member.last_step() == "settle.committed"
        member.restarts = False
        fleet.go_on("curate")
        fleet.wait_for(lambda: member.process is None, 30, "the end")
        assert member.exits[-1].code == 0
        member.steps.read()
        assert member.steps.steps[-1].name.startswith(("settle.", "vacuum."))


def test_a_fleet_takes_its_processes_with_it(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from pathlib import Path
from consumers.settings import KafkaSettings
from kafka_fleet import Fleet
fleet = Fleet(Path({str(tmp_path)!r}), KafkaSettings(), {{}})
member = fleet.start("a", "--version", failpoints=[])
while True:
    if member.pid:
        print(member.pid, flush=True)
    time.sleep(0.1)
"""
    test = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert test.stdout is not None
    pids = {int(test.stdout.readline()) for _ in range(3)}
    test.kill()
    test.communicate()
    end_s = time.monotonic() + 20
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end_s
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "stream_curate" in Path(f"/proc/{pid}/cmdline").read_text()


def test_half_a_line_of_steps_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "steps")
    assert log.last() is None
    log.path.write_text("1.5 7 a.one\n2.5 7 a.t")
    assert [step.name for step in log.read()] == ["a.one"]
    with open(log.path, "a") as file:
        file.write("wo\n3.0 8 b\n")
    assert [step.name for step in log.read()] == ["a.two", "b"]
    assert log.last(7).name == "a.two"  # type: ignore[union-attr]


def test_the_feed_sends_all_pairs_and_the_reference_finds_them(topics: KafkaSettings) -> None:
    with Feed(topics, seed=1, pairs_per_s=20_000, n_pairs=3_000) as feed:
        end_s = time.monotonic() + 60
        while not feed.is_done:
            assert time.monotonic() < end_s
            time.sleep(0.05)
    metadata = Metadata.load(TESTS / "golden" / "golden-metadata.txt")
    reference = Reference(topics, metadata, threshold=20, seed=7)

    assert reference.n_rejected == feed.n_invalid > 0
    assert reference.n_away > 0
    assert reference.pool.n_duplicate > 0
    # nobody forwards here: what was sent elsewhere only is not there
    assert set(reference.pool.pair_ids) < feed.pair_ids()
    plain = reference.pool.kept(reference.pool.entry_counts(reference._counter), 20, 7)
    assert {reference.pool.pair_ids[index] for index in plain} == reference.kept()
    half = {f"kafka:{topics.topics.pairs}/{p}": end // 2 for p, end in enumerate(reference.ends)}
    assert 0 < reference.n_unique(half) < len(reference.pool)
    assert reference.kept(half) != reference.kept()
