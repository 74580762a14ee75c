"""One curation on Kafka as the large tests run it: its rule, its pace, how it is brought to its end and looked at."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from kafka_fleet import Fleet, Member
from kafka_reference import Reference, SettledVersion, check_ledger
from kafka_topics import environment

from consumers.settings import KafkaSettings, TopicNames
from stream_curate.metadata import Metadata

METADATA = Path(__file__).parent / "golden" / "golden-metadata.txt"
THRESHOLD = 20
SEED = 7
RULE = {"METADATA": METADATA, "THRESHOLD": THRESHOLD, "SEED": SEED, "COUNTER": "exact"}
SETTLER_PACE = {
    "KEEP_VERSIONS": "true",
    "CHECKPOINT_INTERVAL_S": 0.5,
    "SETTLE_GROWTH": 1.1,
    "FIRST_SETTLE_RECORDS": 500,
}
UP_AFTER_S = 15.0
EXIT_AFTER_TERM_S = 6.0  # 5 s are promised; the rest is for a busy machine


def short_times(bootstrap: str, **changes: Any) -> KafkaSettings:
    """Settings with short times and small commits, and names that nobody else has."""
    prefix = f"t{secrets.token_hex(6)}"
    defaults = {
        "bootstrap_servers": bootstrap,
        "topics": TopicNames(
            pairs=f"{prefix}.pairs",
            ledger=f"{prefix}.ledger",
            counts=f"{prefix}.counts",
            dlq=f"{prefix}.dlq",
            accepted=f"{prefix}.accepted",
        ),
        "group_id": prefix,
        "partitions": 8,
        "replication_factor": 1,
        "commit_records": 500,
        "commit_interval_s": 0.3,
        "settle_idle_s": 3.0,
        "transaction_timeout_s": 5.0,
        "request_timeout_s": 2.0,
        "session_timeout_s": 3.0,
        "max_poll_interval_s": 20.0,
        "give_up_after_s": 30.0,
    }
    return KafkaSettings.model_validate(defaults | changes)


def finish(
    fleet: Fleet,
    out: Path,
    pair_ids: Collection[bytes],
    *,
    timeout_s: float = 120,
    all_versions: bool = True,
    say: Callable[[str], None] = print,
) -> list[SettledVersion]:
    """End all members, have two workers and a settler do what is left, and hold everything against the rule.

    Args:
        fleet: whatever runs in it is asked to end, and has to.
        out: the table's folder.
        pair_ids: of all distinct valid pairs that were sent.
        timeout_s: for what is left to do.
        all_versions: look at every settled version, for tables whose old versions are kept; else at the last only.
        say: is told what has been done.

    Returns:
        The settled versions that were looked at.
    """
    for name, member in fleet.members.items():
        if member.process is not None:
            fleet.wait_for(partial(_is_up, member), 60, f"{name} to be at work", every_s=0.2)
            code = fleet.terminate(name, EXIT_AFTER_TERM_S)
            assert code == 0, f"{name} ended with {code} after SIGTERM"
    for name in ("last-1", "last-2"):
        fleet.worker(name, "--until", "end")
    fleet.settler("last-settler", out, "--until", "end", **SETTLER_PACE)
    fleet.wait_for_exit("last-1", "last-2", "last-settler", timeout_s=timeout_s)
    fleet.check()
    say("all is curated")
    check_ledger(fleet.settings)
    reference = Reference(fleet.settings, Metadata.load(METADATA), threshold=THRESHOLD, seed=SEED)
    say("the ledger is as it should be")
    versions = reference.check_versions(out) if all_versions else []
    reference.check_whole(out, set(pair_ids))
    say(f"{len(versions)} settled versions, and the whole, are as offline has them")
    audit(out, fleet.settings, all_versions=all_versions)
    say("audit finds nothing wrong")
    return versions


def _is_up(member: Member) -> bool:
    """Whether its process can be expected to have come to take signals: one that gets nothing to do reaches no step."""
    return member.last_step() != "" or (member.process is not None and time.monotonic() - member.started_s > UP_AFTER_S)


def audit(out: Path, settings: KafkaSettings, *, all_versions: bool) -> None:
    """`stream-curate audit` finds nothing wrong."""
    rule = {f"STREAM_CURATE_{key}": str(value) for key, value in RULE.items()}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "stream_curate",
            "audit",
            "--out",
            str(out),
            *(["--all-versions"] if all_versions else []),
        ],
        env=clean | rule | dict(environment(settings)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"audit ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
