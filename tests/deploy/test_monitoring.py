"""Rules and dashboard ask for nothing but metrics that there are, and Prometheus can read them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import GOLDEN_METADATA, outcome_of, start, wait_until
from deploy.manifests import DEPLOY, KUBERNETES, resources
from deploy.secured_broker import SecuredBroker
from deploy.tools import call, promtool
from deploy.watched import Watched
from kafka_topics import environment

MONITORING = KUBERNETES / "components" / "monitoring"
ADDED = {"namespace", "pod", "le"}  # by Prometheus, and by histograms
NOT_OURS = {"process_resident_memory_bytes"}
_RANGES = {"$__rate_interval": "5m", "$namespace": "stream-curate"}


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each metric in the table of metrics.md."""
    found = {}
    for line in (DEPLOY / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0].startswith("`stream_curate_"):
            found[cells[0].strip("`")] = (cells[1], set(re.findall(r"`(\w+)`", cells[3])))
    return found


def rules() -> dict[str, Any]:
    """The groups of rules as Prometheus itself takes them."""
    (rule,) = resources(MONITORING / "rules.yaml")
    return {"groups": rule["spec"]["groups"]}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def queries() -> list[str]:
    """Each question that rules and dashboard ask."""
    asked = [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    asked += [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return asked


def test_names_and_units_follow_the_convention() -> None:
    for name, (kind, _) in metrics().items():
        assert re.fullmatch(r"stream_curate_[a-z][a-z_]*[a-z]", name)
        assert kind in ("counter", "gauge", "histogram")
        assert name.endswith("_total") == (kind == "counter"), name


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_there_is(query: str) -> None:
    known = metrics()
    asked = re.findall(r"\b((?:stream_curate|process|python)_\w+)(?:\{([^}]*)\})?", query)
    assert asked
    for written, selected in asked:
        if written in NOT_OURS:
            continue
        name = re.sub(r"_(bucket|sum|count)$", "", written)
        assert name in known, written
        kind, labels = known[name]
        assert (name != written) == (kind == "histogram"), written
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected)) <= labels | ADDED, query
    grouped = {label for labels in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", labels)}
    assert grouped <= set().union(*(known[name][1] for name in known)) | ADDED


def test_every_metric_is_looked_at_somewhere() -> None:
    asked = " ".join(queries())
    assert [name for name in metrics() if name not in asked] == []


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^#+ (.*)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for group in rules()["groups"]:
        for rule in group["rules"]:
            path, _, anchor = rule["annotations"]["runbook"].partition("#")
            assert path == "deploy/README.md"
            assert anchor in anchors, rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.fixture(scope="module")
def live(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Watched]]:
    """A worker and a settler at work, with the rights of the manifests and no others."""
    folder = tmp_path_factory.mktemp("live")
    given = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
    rule = {"METADATA": GOLDEN_METADATA, "THRESHOLD": 20, "SEED": 7, "COUNTER": "exact"}
    given |= {f"STREAM_CURATE_{key}": str(value) for key, value in rule.items()}
    processes, watched = [], []
    try:
        for role, words in {"worker": (), "settler": ("--out", folder / "table")}.items():
            settings = secured.settings(f"stream-curate-{role}", http_port=0)
            log = folder / f"{role}.log"
            with open(log, "wb") as stderr:
                processes.append(start(role, *words, env=given | dict(environment(settings)), stderr=stderr))
            watched.append(Watched(log))
        for process, each in zip(processes, watched, strict=True):
            wait_until(lambda each=each: each.says("/readyz", 200), process, 60)  # type: ignore[misc]
        for name, process, each in zip(("lag", "ledger_lag"), processes, watched, strict=True):
            wait_until(lambda each=each, name=name: each.partitions(f"stream_curate_{name}_offsets"), process)  # type: ignore[misc]
        yield watched
    finally:
        for process in processes:
            process.terminate()
            assert outcome_of(process).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("query", queries())
def test_a_query_finds_what_it_asks_for_in_a_process_at_work(live: list[Watched], query: str) -> None:
    """Names, labels, and the values of labels."""
    samples = [sample for each in live for family in each.families().values() for sample in family.samples]
    for name, selected in re.findall(r"\b((?:stream_curate|process)_\w+)(?:\{([^}]*)\})?", query):
        wanted = re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', selected)
        assert any(sample.name == name and _is_selected(sample.labels, wanted) for sample in samples), name


def _is_selected(labels: dict[str, str], wanted: list[tuple[str, str, str]]) -> bool:
    for label, how, value in wanted:
        if label in ADDED:
            continue
        if label not in labels:
            return False
        if how == "=~" and not re.fullmatch(value, labels[label]):
            return False
        if how != "=~" and (labels[label] == value) != (how == "="):
            return False
    return True


@pytest.mark.slow
def test_prometheus_finds_nothing_wrong_with_what_a_process_tells(live: list[Watched]) -> None:
    for each in live:
        checked = call([promtool(), "check", "metrics"], input=each.ask("/metrics")[1].decode())
        said = (checked.stdout + checked.stderr).splitlines()
        assert [line for line in said if "stream_curate" in line or "error" in line] == []


@pytest.mark.slow
def test_prometheus_reads_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    checked = call([promtool(), "check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.yaml"])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_prometheus_reads_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    for name, value in _RANGES.items():
        asked = [query.replace(name, value) for query in asked]
    group = {"name": "dashboard", "rules": [{"record": f"q:{n}", "expr": query} for n, query in enumerate(asked)]}
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    checked = call([promtool(), "check", "rules", tmp_path / "queries.yaml"])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_the_alerts_come_and_stay_away(tmp_path: Path) -> None:
    """Each alert with a series that has to wake somebody, and none of them on a day like any other."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    (tmp_path / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [quiet_day(), bad_day()]})
    )
    tested = call([promtool(), "test", "rules", "tests.yaml"], cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


WORKER = 'namespace="n",pod="w-0"'
ALERTS = [rule["alert"] for group in rules()["groups"] for rule in group["rules"]]


def quiet_day() -> dict[str, Any]:
    hours = "x600"
    series = {
        'stream_curate_build_info{role="worker"}': f"1+0{hours}",
        'stream_curate_build_info{role="settler"}': f"1+0{hours}",
        f"stream_curate_stalled_partitions{{{WORKER}}}": f"0+0{hours}",
        f'stream_curate_lag_offsets{{{WORKER},partition="0"}}': f"500000-100{hours}",
        f'stream_curate_dead_letters_total{{{WORKER},reason="bad_json"}}': f"0+1{hours}",
        f'stream_curate_records_total{{{WORKER},result="admitted"}}': f"0+10000{hours}",
        'stream_curate_ledger_lag_offsets{namespace="n",partition="0"}': f"5+0{hours}",
        'stream_curate_ledger_timestamp_seconds{namespace="n"}': f"100000+60{hours}",
        'stream_curate_settled_cut_timestamp_seconds{namespace="n"}': f"99000+60{hours}",
        f'stream_curate_commits_total{{{WORKER},result="committed"}}': f"0+20{hours}",
        f'stream_curate_commits_total{{{WORKER},result="failed"}}': f"0+1{hours}",
        f"stream_curate_rebalances_total{{{WORKER}}}": f"3+0{hours}",
    }
    return {
        "name": "quiet",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "9h", "alertname": alert, "exp_alerts": []} for alert in ALERTS],
    }


def bad_day() -> dict[str, Any]:
    hours = "x600"
    series = {
        f"stream_curate_stalled_partitions{{{WORKER}}}": f"1+0{hours}",
        f'stream_curate_lag_offsets{{{WORKER},partition="0"}}': f"500000+100{hours}",
        f'stream_curate_dead_letters_total{{{WORKER},reason="bad_json"}}': f"0+500{hours}",
        f'stream_curate_records_total{{{WORKER},result="admitted"}}': f"0+10000{hours}",
        'stream_curate_ledger_lag_offsets{namespace="n",partition="0"}': f"50000+0{hours}",
        'stream_curate_ledger_timestamp_seconds{namespace="n"}': f"200000+60{hours}",
        'stream_curate_settled_cut_timestamp_seconds{namespace="n"}': f"99000+0{hours}",
        f'stream_curate_commits_total{{{WORKER},result="committed"}}': f"0+20{hours}",
        f'stream_curate_commits_total{{{WORKER},result="failed"}}': f"0+5{hours}",
        f"stream_curate_rebalances_total{{{WORKER}}}": f"3+1{hours}",
    }
    # an alert is compared with its labels and words, so that what is asked here is how many there are
    counted = [
        {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": "9h",
         "exp_samples": [{"labels": "{}", "value": 1}]}
        for alert in ALERTS
    ]  # fmt: skip
    return {
        "name": "bad",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": counted,
    }
