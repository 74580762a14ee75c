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
    return _users_in(KUBERNETES / "components" / "kafka")


def final_users() -> dict[str, list[Resource]]:
    """The same with the component for final decisions, which adds some."""
    component = KUBERNETES / "components" / "final"
    roles = users() | _users_in(component)
    (kustomization,) = resources(component / "kustomization.yaml")
    for patch in kustomization["patches"]:
        assert patch["target"]["kind"] == "KafkaUser"
        for each in yaml.safe_load(patch["patch"]):
            assert (each["op"], each["path"]) == ("add", "/spec/authorization/acls/-")
            roles[_role_of(patch["target"]["name"])].append(each["value"])
    return roles


def _users_in(component: Path) -> dict[str, list[Resource]]:
    found = resources(component / "users.yaml")
    return {_role_of(each["metadata"]["name"]): each["spec"]["authorization"]["acls"] for each in found}


def _role_of(user: str) -> str:
    return user.removeprefix("stream-curate-")
