"""What is answered by HTTP while a process starts, works and is in trouble; without a broker."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import small_table
from kafka_workers import header_of, made_metadata
from prometheus_client.parser import text_string_to_metric_families

from consumers import monitor as module
from consumers.messages import position
from consumers.monitor import SettlerMonitor, WorkerMonitor
from consumers.progress import Place
from consumers.settings import KafkaSettings
from stream_curate import exit_codes
from stream_curate.errors import ConfigError
from stream_curate.table.state import Settled

SECRET = "correct-horse-battery"
SETTINGS = KafkaSettings.model_validate(
    {
        "http_port": 0,
        "stalled_after_s": 0.2,
        "commit_interval_s": 0.1,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_user": "curator",
        "sasl_password": SECRET,
    }
)

Monitor = WorkerMonitor | SettlerMonitor


class _NoObserver:
    """There is no broker to ask here."""

    def __init__(self, *given: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Observer", _NoObserver)


def ask(monitor: Monitor, path: str) -> tuple[int, str]:
    assert monitor._server is not None
    connection = http.client.HTTPConnection("127.0.0.1", monitor._server.port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def value(monitor: Monitor, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(ask(monitor, "/metrics")[1]):
        for sample in family.samples:
            if sample.name == f"stream_curate_{name}" and sample.labels == labels:
                return float(sample.value)
    return None


def test_probes_are_answered_before_anything_is_loaded() -> None:
    monitor = WorkerMonitor(SETTINGS)
    with monitor.serve():
        assert ask(monitor, "/livez") == (200, "starting for 0 s\n")
        assert ask(monitor, "/readyz") == (503, "the metadata is being loaded\n")
        assert value(monitor, "owned_partitions", state="ready") == 0
        assert ask(monitor, "/")[0] == 404
        status = json.loads(ask(monitor, "/status")[1])
        assert (status["role"], status["alive"], status["ready"], status["rule"]) == ("worker", True, False, None)


def test_a_worker_becomes_ready_and_stalls_and_goes_on() -> None:
    monitor = WorkerMonitor(SETTINGS)
    header = header_of(made_metadata())
    with monitor.serve(), monitor.observe(header):
        monitor.places = {0: Place(position(5)), 1: Place(is_ready=False)}
        monitor.health.lacks = ""
        assert ask(monitor, "/readyz") == (503, "being restored: partition 1\n")
        monitor.look({0: 9, 1: 3})
        assert value(monitor, "lag_offsets", partition="0") == 4
        assert value(monitor, "lag_offsets", partition="1") is None
        assert value(monitor, "owned_partitions", state="restoring") == 1

        end_s = time.monotonic() + 10
        while ask(monitor, "/livez")[0] == 200:
            assert time.monotonic() < end_s
            time.sleep(0.02)
        assert "partition 0" in ask(monitor, "/livez")[1]
        assert value(monitor, "stalled_partitions") == 1
        monitor.failed(OSError("it is\x1b[31m broken"))
        status = json.loads(ask(monitor, "/status")[1])
        assert status["partitions"]["0"]["stalled"]
        assert status["last_error"]["error"] == "OSError: it is\\x1b[31m broken"
        assert status["rule"] == header.as_dict()

        monitor.places = {0: Place(position(9)), 1: Place(position(3))}
        assert ask(monitor, "/livez") == (200, "alive\n")
        assert ask(monitor, "/readyz") == (200, "ready\n")
        assert value(monitor, "stalled_partitions") == 0
        monitor.places = {1: Place(position(3))}
        assert value(monitor, "lag_offsets", partition="0") is None


def test_no_secret_is_told() -> None:
    monitor = WorkerMonitor(SETTINGS)
    with monitor.serve(), monitor.observe(header_of(made_metadata())):
        for path in ("/metrics", "/livez", "/readyz", "/status"):
            assert SECRET not in ask(monitor, path)[1]


def test_a_settle_is_no_stall_and_no_trouble() -> None:
    monitor = SettlerMonitor(SETTINGS)
    with monitor.serve(), monitor.observe(header_of(made_metadata())):
        monitor.health.lacks = ""
        monitor.places = {0: Place(position(5))}
        monitor.look({0: 9})
        places = monitor.places
        monitor.pause()
        ask(monitor, "/livez")
        time.sleep(0.5)
        assert ask(monitor, "/livez")[0] == ask(monitor, "/readyz")[0] == 200
        monitor.places = places
        assert value(monitor, "ledger_lag_offsets", partition="0") == 4
        assert ask(monitor, "/livez")[0] == 200
        time.sleep(0.5)
        assert ask(monitor, "/livez")[0] == 503


def test_the_age_of_the_cut_is_that_of_what_is_not_settled() -> None:
    monitor = SettlerMonitor(SETTINGS)
    settled = Settled(1, 1, 20, 10, 10, 4, {}, [])
    with monitor.serve():
        monitor.folded(1_000.0)
        monitor.folded(1_060.0)
        monitor.folded(1_050.0)
        assert value(monitor, "ledger_timestamp_seconds") == 1_060
        assert value(monitor, "settled_cut_timestamp_seconds") == 1_000
        monitor.settled(0.1, 1, 4)
        monitor.show_settled(settled, 5_000.0, np.zeros(3, np.int64), 0.0)
        assert value(monitor, "settled_cut_timestamp_seconds") == 1_060

    after_a_start = SettlerMonitor(SETTINGS)
    with after_a_start.serve():
        after_a_start.show_settled(settled, 5_000.0, np.zeros(3, np.int64), 0.0)
        after_a_start.folded(5_010.0)
        assert value(after_a_start, "settled_cut_timestamp_seconds") == 5_000
        after_a_start.settled(0.1, 1, 4)
        assert value(after_a_start, "settled_cut_timestamp_seconds") == 5_010


def test_the_settler_serves_the_page_of_its_table(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    monitor = SettlerMonitor(SETTINGS)
    with monitor.serve():
        assert ask(monitor, "/")[0] == 404
        monitor.show_table(table)
        monitor.show_table(table)
        assert "<html" in ask(monitor, "/")[1]
        assert json.loads(ask(monitor, "/picture")[1])["picture"]["numbers"]["n_read"] == 300
        assert ask(monitor, "/livez")[0] == 200


def test_without_a_port_nothing_is_answered(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    monitor = SettlerMonitor(KafkaSettings())
    with monitor.serve(), monitor.observe(header_of(made_metadata())):
        monitor.show_table(table)
        assert monitor._server is None


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monitor = WorkerMonitor(KafkaSettings(http_port=taken.getsockname()[1]))
        with (
            pytest.raises(ConfigError, match=r"cannot serve on 127.0.0.1, port .* kafka.http_port") as told,
            monitor.serve(),
        ):
            pass
    assert told.value.exit_code == exit_codes.BAD_INPUT
