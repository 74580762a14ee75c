"""`stream-curate settler`, and what the other commands say of the table that it makes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from command_line import inspect_json, run, start, wait_until
from kafka_ledgers import Curation, ModelWorkers, many_rows
from kafka_topics import environment

from consumers.settings import KafkaSettings

pytestmark = pytest.mark.slow  # a real broker


@pytest.fixture
def curation(topics: KafkaSettings, tmp_path: Path) -> Curation:
    curation = Curation(topics, tmp_path)
    curation.produce(many_rows(200))
    workers = ModelWorkers(curation)
    workers.work_on_all()
    workers.close()
    return curation


def flags(curation: Curation) -> list[object]:
    _ = curation.settings  # which writes the entries
    return [
        *("--metadata", curation.folder / "entries.txt", "-t", curation.threshold, "--seed", curation.seed),
        *("--counter", "exact"),
    ]


def test_the_table_is_made_and_told_of(curation: Curation) -> None:
    out, env = curation.folder / "t", dict(environment(curation.kafka))
    made = run("settler", "--out", out, "--until", "end", *flags(curation), environment=env).ended(0)
    for word in ("read", "200", "unique", "url_scheme", "curated", str(out)):
        assert word in made.words
    report = inspect_json(out)
    assert report["digest"] == curation.offline_digest()
    assert report["origin"].startswith("kafka:")
    assert report["n_forwarded"] == 0

    shown = run("inspect", out).ended(0).words
    for partition, rows in enumerate(curation.rows):
        assert f"{curation.kafka.topics.pairs}/{partition}" in shown
        assert f"{len(rows):,}" in shown
    assert curation.kafka.topics.ledger not in shown
    assert "offset" in shown

    refused = run("verify", out, curation.folder / "entries.txt", "--seed", 7)
    assert refused.code == 3
    assert "use stream-curate audit" in refused.words
    refused = run("curate", curation.folder / "entries.txt", "--out", out, "--seed", 7, "--format", "tsv")
    assert refused.code == 3
    assert "is fed from Kafka" in refused.words

    again = run("settler", "--out", out, "--until", "end", "--json", *flags(curation), environment=env).ended(0).json
    assert (again["n_read"], again["stopped"]) == (200, False)


def test_sigterm_ends_it_with_0_within_5_seconds(curation: Curation) -> None:
    out, env = curation.folder / "t", dict(environment(curation.kafka))
    with start("settler", "--out", out, *flags(curation), env=os.environ | env) as process:
        wait_until((out / "_delta_log").exists, process)
        start_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - start_s < 5
