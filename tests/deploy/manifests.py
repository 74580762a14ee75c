"""The deployment's files as the tests read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("dev", "production")

Resource = dict[str, Any]


def resources(path: Path) -> list[Resource]:
    """The resources of a file."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def all_resources() -> list[Resource]:
    """Those of base and components, as they stand there."""
    found = []
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        found += [each for each in resources(path) if "kind" in each and "kustomize" not in each["apiVersion"]]
    return found


def users() -> dict[str, list[Resource]]:
    """The rights of each role, from the KafkaUser manifests: `acls` of Strimzi by the role's name."""
    return {
        each["metadata"]["name"].removeprefix("stream-curate-"): each["spec"]["authorization"]["acls"]
        for each in resources(KUBERNETES / "components" / "kafka" / "users.yaml")
    }
