"""The manifests are what Kubernetes, Strimzi, KEDA and the Prometheus operator take, and agree with the program."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    OVERLAYS,
    REPOSITORY,
    Resource,
    all_resources,
    final_users,
    resources,
    users,
)
from deploy.tools import HERE, call, kustomize, node_validators, rendered, tool_python

from consumers.settings import AllSettings, load_all_settings
from consumers.topics import topics_of

SASL_USER = "STREAM_CURATE_KAFKA__SASL_USER"
KUBERNETES_VERSIONS = ("1.31.0", "1.37.0")

# what the schemas of the npm packages let pass, and KEDA's documentation names
KNOWN_KEYS = {
    "ScaledObject": {
        "": {
            "scaleTargetRef",
            "minReplicaCount",
            "maxReplicaCount",
            "pollingInterval",
            "fallback",
            "advanced",
            "triggers",
        },
        "scaleTargetRef": {"apiVersion", "kind", "name"},
        "fallback": {"failureThreshold", "replicas"},
        "advanced": {"horizontalPodAutoscalerConfig"},
        "advanced.horizontalPodAutoscalerConfig": {"behavior"},
        "triggers": {"type", "metadata", "authenticationRef"},
    },
    "TriggerAuthentication": {"": {"secretTargetRef"}, "secretTargetRef": {"parameter", "name", "key"}},
    "ServiceMonitor": {
        "": {"selector", "namespaceSelector", "endpoints"},
        "namespaceSelector": {"matchNames"},
        "endpoints": {"port", "path", "interval", "scrapeTimeout"},
    },
    "PrometheusRule": {"": {"groups"}, "groups": {"name", "rules"}},
}
KAFKA_TRIGGER = {
    *("bootstrapServers", "consumerGroup", "topic", "lagThreshold", "activationLagThreshold", "offsetResetPolicy"),
    *("limitToPartitionsWithLag", "ensureEvenDistributionOfPartitions", "excludePersistentLag", "sasl", "tls"),
}


def settings_of(overlay: str) -> tuple[Path, AllSettings]:
    """The settings that an overlay's pods are given in their file."""
    path = KUBERNETES / "overlays" / overlay / "settings.yaml"
    if not path.exists():
        path = KUBERNETES / "base" / "settings.yaml"
    user = {} if SASL_USER in os.environ else {"kafka": {"sasl_user": "somebody"}}  # the pod's environment gives it
    return path, load_all_settings(path, user)


def by_kind(found: list[Resource], kind: str) -> list[Resource]:
    return [each for each in found if each["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_is_as_its_schema_wants_it(overlay: str) -> None:
    built = call([kustomize(), "build", KUBERNETES / "overlays" / overlay])
    assert built.returncode == 0, built.stderr

    checked = call([tool_python(), HERE / "check_schemas.py", *KUBERNETES_VERSIONS], input=built.stdout)
    assert checked.returncode == 0, checked.stderr
    left = [each for each in rendered(KUBERNETES / "overlays" / overlay) if name_of(each) in json.loads(checked.stdout)]
    assert {each["kind"] for each in left} <= set(KNOWN_KEYS)

    validator = call(["node", HERE / "schemas" / "validate.mjs", node_validators()], input=json.dumps(left))
    assert (validator.returncode, validator.stdout) == (0, "[]\n"), validator.stdout + validator.stderr


@pytest.mark.slow
def test_the_validators_find_what_is_wrong() -> None:
    wrong = yaml.safe_dump_all(
        [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": []}},
            {
                "apiVersion": "kafka.strimzi.io/v1beta2",
                "kind": "KafkaUser",
                "metadata": {"name": "b"},
                "spec": {"authorization": {"type": "simple", "acls": [{"resource": {"type": "tpoic"}}], "foo": 1}},
            },
        ]
    )
    checked = call([tool_python(), HERE / "check_schemas.py", *KUBERNETES_VERSIONS], input=wrong)
    assert checked.returncode
    for words in ("Service a", "'port'", "'tpoic'", "'foo'"):
        assert words in checked.stderr
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "c"},
        "spec": {"triggers": 1},
    }
    validator = call(["node", HERE / "schemas" / "validate.mjs", node_validators()], input=json.dumps([scaled]))
    assert "ScaledObject c" in validator.stdout


def name_of(resource: Resource) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


@pytest.mark.parametrize("resource", [each for each in all_resources() if each["kind"] in KNOWN_KEYS], ids=name_of)
def test_no_field_is_misspelled_where_schemas_let_it_pass(resource: Resource) -> None:
    for path, known in KNOWN_KEYS[resource["kind"]].items():
        found: Any = [resource["spec"]]
        for part in path.split(".") if path else []:
            found = [item for each in found for item in (each[part] if isinstance(each[part], list) else [each[part]])]
        for each in found:
            assert set(each) <= known, path
    if resource["kind"] == "ScaledObject":
        (trigger,) = resource["spec"]["triggers"]
        assert set(trigger["metadata"]) == KAFKA_TRIGGER
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_settings(overlay: str) -> None:
    path, settings = settings_of(overlay)
    kafka = settings.kafka
    assert (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    assert settings.seed_file is not None
    assert kafka.sasl_password is None
    assert "sasl_user" not in path.read_text()  # each role has its own


def test_the_environment_of_the_pods_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for resource in by_kind(all_resources(), "StatefulSet"):
        (container,) = resource["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]:
            if variable["name"].startswith("STREAM_CURATE_KAFKA__"):
                key = variable["name"].removeprefix("STREAM_CURATE_KAFKA__").lower()
                monkeypatch.setenv(variable["name"], variable.get("value", "pod-0"))
                assert str(getattr(settings_of("production")[1].kafka, key)) == variable.get("value", "pod-0")


def test_the_program_answers_where_probes_and_services_ask() -> None:
    for resource in by_kind(all_resources(), "StatefulSet"):
        (container,) = resource["spec"]["template"]["spec"]["containers"]
        given = {each["name"].removeprefix("STREAM_CURATE_KAFKA__"): each.get("value") for each in container["env"]}
        (port,) = container["ports"]
        assert given["HTTP_PORT"] == str(port["containerPort"])
        assert given["HTTP_HOST"] == "0.0.0.0"  # the kubelet and Prometheus come from outside of the pod
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == port["name"] == "http"
    for service in by_kind(all_resources(), "Service"):
        assert [(each["port"], each["targetPort"]) for each in service["spec"]["ports"]] == [(9464, "http")]


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_topics_are_as_the_program_wants_them(overlay: str) -> None:
    """What `stream-curate topics check` looks at, for the settings of the same overlay."""
    _, settings = settings_of(overlay)
    wanted = {topic.name: topic for topic in topics_of(settings.kafka)}
    found = {
        each["metadata"]["name"]: each["spec"]
        for each in by_kind(rendered(KUBERNETES / "overlays" / overlay), "KafkaTopic")
    }
    assert set(found) == set(wanted)
    for name, spec in found.items():
        assert spec["partitions"] == wanted[name].n_partitions
        assert spec["replicas"] == settings.kafka.replication_factor
        as_written = {
            key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in spec["config"].items()
        }
        assert as_written == {key: needed.value for key, needed in wanted[name].configs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_component_for_final_decisions_there_is_all_that_they_need(overlay: str, tmp_path: Path) -> None:
    """The topic of accepted pairs as the program wants it, and the rights; and all of it as the schemas want it."""
    paths = {
        name: os.path.relpath(KUBERNETES / part, tmp_path)
        for name, part in (("overlay", f"overlays/{overlay}"), ("final", "components/final"))
    }
    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [paths["overlay"]],
        "components": [paths["final"]],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    built = call([kustomize(), "build", tmp_path])
    assert built.returncode == 0, built.stderr
    found = [each for each in yaml.safe_load_all(built.stdout) if each]

    users_found = {
        each["metadata"]["name"].removeprefix("stream-curate-"): each["spec"]["authorization"]["acls"]
        for each in by_kind(found, "KafkaUser")
    }
    assert users_found == final_users()
    topics = {each["metadata"]["name"]: each["spec"] for each in by_kind(found, "KafkaTopic")}
    kafka = settings_of(overlay)[1].kafka
    wanted = topics_of(kafka, "final")
    assert set(topics) == {topic.name for topic in wanted}
    as_written = {key: str(value).lower() for key, value in topics["accepted"]["config"].items()}
    if overlay == "production":
        assert (topics["accepted"]["partitions"], topics["accepted"]["replicas"]) == (kafka.partitions, 3)
        assert as_written == {key: needed.value for key, needed in wanted[-1].configs.items()}
    checked = call([tool_python(), HERE / "check_schemas.py", *KUBERNETES_VERSIONS], input=built.stdout)
    assert checked.returncode == 0, checked.stderr


def test_the_users_are_for_the_names_in_the_settings() -> None:
    kafka = settings_of("production")[1].kafka
    names = kafka.topics
    known = {
        "topic": {names.pairs, names.ledger, names.counts, names.dlq, names.accepted},
        "group": {kafka.group_id, "follower-"},
        "transactionalId": {f"{names.ledger}-", f"{names.counts}-settler"},
    }
    roles = users()
    assert set(roles) == {"crawler", "worker", "settler", "auditor", "mender", "scaler"}
    assert set(final_users()) - set(roles) == {"follower"}
    assert not any(acl["resource"]["name"] == names.accepted for acls in roles.values() for acl in acls)
    for acl in (acl for acls in final_users().values() for acl in acls):
        assert acl["resource"]["name"] in known[acl["resource"]["type"]]
        assert set(acl["operations"]) <= {"Read", "Write", "Describe", "DescribeConfigs"}


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    """Kubernetes's pod security standard `restricted`, and more; and nothing in an overlay takes it back."""
    found = rendered(KUBERNETES / "overlays" / overlay)
    (namespace,) = by_kind(found, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    sets = by_kind(found, "StatefulSet")
    assert {each["metadata"]["name"] for each in sets} == {"stream-curate-worker", "stream-curate-settler"}
    for each in sets:
        pod = each["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {
            "emptyDir",
            "configMap",
            "secret",
        }
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
            assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_selected_is_there(overlay: str) -> None:
    found = rendered(KUBERNETES / "overlays" / overlay)
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in by_kind(found, "StatefulSet")]
    selectors = [each["spec"]["selector"] for each in by_kind(found, "Service")]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for each in found
        if each["kind"] in ("StatefulSet", "PodDisruptionBudget")
    ]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in by_kind(found, "NetworkPolicy")]
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector
    (policy,) = by_kind(found, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for monitor in by_kind(found, "ServiceMonitor"):
        services = [each["metadata"]["labels"] for each in by_kind(found, "Service")]
        assert all(monitor["spec"]["selector"]["matchLabels"].items() <= each.items() for each in services)
    config_maps = {each["metadata"]["name"] for each in by_kind(found, "ConfigMap")}
    for each in by_kind(found, "StatefulSet"):
        for volume in each["spec"]["template"]["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in config_maps
    for scaled in by_kind(found, "ScaledObject"):
        (workers,) = [
            each
            for each in by_kind(found, "StatefulSet")
            if each["metadata"]["name"] == scaled["spec"]["scaleTargetRef"]["name"]
        ]
        assert "replicas" not in workers["spec"]
        assert scaled["spec"]["maxReplicaCount"] == settings_of(overlay)[1].kafka.partitions


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_brokers_and_group_are_everywhere_those_of_the_settings(overlay: str) -> None:
    found = rendered(KUBERNETES / "overlays" / overlay)
    kafka = settings_of(overlay)[1].kafka
    for scaled in by_kind(found, "ScaledObject"):
        (trigger,) = scaled["spec"]["triggers"]
        asked = trigger["metadata"]
        host, _, port = kafka.bootstrap_servers.rpartition(":")
        # KEDA asks from a namespace of its own
        assert asked["bootstrapServers"] == f"{host}.{scaled['metadata']['namespace']}.svc:{port}"
        assert (asked["consumerGroup"], asked["topic"]) == (kafka.group_id, kafka.topics.pairs)
    (policy,) = by_kind(found, "NetworkPolicy")
    open_ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert int(kafka.bootstrap_servers.rpartition(":")[2]) in open_ports


def test_prometheus_looks_where_the_program_answers() -> None:
    ports = [{port["name"] for port in each["spec"]["ports"]} for each in by_kind(all_resources(), "Service")]
    (monitor,) = by_kind(all_resources(), "ServiceMonitor")
    for endpoint in monitor["spec"]["endpoints"]:
        assert endpoint["path"] == "/metrics"
        assert all(endpoint["port"] in names for names in ports)


def test_pods_end_before_they_are_killed() -> None:
    from consumers.commands.worker import END_WITHIN_S

    for each in by_kind(all_resources(), "StatefulSet"):
        assert each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 2 * END_WITHIN_S


def test_no_secret_is_in_the_manifests() -> None:
    for path in KUBERNETES.rglob("*.yaml"):
        for each in resources(path):
            assert each.get("kind") != "Secret", path
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    assert not re.search(r"-----BEGIN|password: *[\"']?[A-Za-z0-9]{8}", text)


def test_links_of_the_deployment_lead_somewhere() -> None:
    for document in DEPLOY.glob("*.md"):
        text = document.read_text()
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), (document, target)
        for name in re.findall(r"`((?:tests|deploy)/[\w./-]+\.\w+)(?:::(\w+))?", text):
            path = REPOSITORY / name[0]
            assert path.exists(), (document, name[0])
            assert not name[1] or f"def {name[1]}(" in path.read_text(), (document, name)
