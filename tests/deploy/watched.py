"""A process of ours as Kubernetes and Prometheus see it: by what it answers at its port."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

ANSWERS_WITHIN_S = 30.0  # on a machine that has much else to do


class Watched:
    """A process that was started with `kafka.http_port: 0`; its log tells the port.

    Args:
        log: where its standard error goes. Of several processes, the last counts.
    """

    def __init__(self, log: Path) -> None:
        self.log = log

    @property
    def port(self) -> int:
        """Raises ConnectionError while there is none yet."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        found = re.findall(r"url=http://127\.0\.0\.1:(\d+)/", text)
        if not found:
            raise ConnectionError("it has no port yet")
        return int(found[-1])

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWERS_WITHIN_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def says(self, path: str, status: int) -> bool:
        """Whether it answers, and with this status."""
        try:
            return self.ask(path)[0] == status
        except (OSError, http.client.HTTPException):
            return False

    def families(self) -> dict[str, Metric]:
        """Its metrics, by the names that Prometheus gives them."""
        status, text = self.ask("/metrics")
        assert status == 200
        return {family.name: family for family in text_string_to_metric_families(text.decode())}

    def sum(self, name: str, **labels: str) -> float:
        """Of all samples of a metric that have these labels."""
        return sum(
            sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def partitions(self, name: str = "stream_curate_lag_offsets") -> set[int]:
        """Those that a metric has a label for."""
        return {int(sample.labels["partition"]) for sample in self.families()[name].samples}

    def status(self) -> Any:
        """What it says at /status."""
        status, body = self.ask("/status")
        assert status == 200
        return json.loads(body)
