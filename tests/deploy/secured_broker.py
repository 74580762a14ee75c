"""A real broker as production has it: nobody without a certificate to trust, a login and the rights of the manifests.

Clients come in by SASL_SSL (SCRAM-SHA-512) alone, and StandardAuthorizer allows what an ACL allows and no more. The
controller's own listener is plain, as it is of no interest here: it takes no client's requests for topics.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from consumers.clients import make_admin
from consumers.dev_broker import REPOSITORY, fetch_jars, free_port
from consumers.settings import KafkaSettings

ADMIN = "admin"
MECHANISM = "SCRAM-SHA-512"
START_WITHIN_S = 60

_LOG_SETTINGS = REPOSITORY / "deploy" / "kafka" / "log4j2.properties"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=SECURED://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SECURED://127.0.0.1:{port}
listener.security.protocol.map=SECURED:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SECURED
sasl.enabled.mechanisms={mechanism}
sasl.mechanism.inter.broker.protocol={mechanism}
listener.name.secured.{mechanism_low}.sasl.jaas.config={scram} required username="{admin}" password="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={certificate}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{admin};User:ANONYMOUS
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
_PATTERNS = {"literal": ACLResourcePatternType.LITERAL, "prefix": ACLResourcePatternType.PREFIXED}
_TYPES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactionalId": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {
    "Read": ACLOperation.READ,
    "Write": ACLOperation.WRITE,
    "Describe": ACLOperation.DESCRIBE,
    "DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS,
}


class SecuredBroker:
    """One broker in a folder, with a certificate for 127.0.0.1 and a login for each user.

    Attributes:
        port: where it listens, on 127.0.0.1.
        certificate: what clients have to trust.
        other_certificate: of somebody else, who is not to be trusted.
        passwords: of all users.
    """

    def __init__(self, folder: Path, users: Iterable[str]) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = free_port()
        self.passwords = {user: secrets.token_urlsafe(12) for user in (ADMIN, *users)}
        key, self.certificate = self._certificate("broker")
        _, self.other_certificate = self._certificate("other")
        keystore = folder / "keystore.pem"
        keystore.write_text(key.read_text() + self.certificate.read_text())
        self._log = folder / "broker.log"
        self._properties = folder / "server.properties"
        self._properties.write_text(
            _PROPERTIES.format(
                port=self.port,
                controller=free_port(),
                mechanism=MECHANISM,
                mechanism_low=MECHANISM.lower(),
                scram=_SCRAM,
                admin=ADMIN,
                password=self.passwords[ADMIN],
                keystore=keystore,
                certificate=self.certificate,
                data=folder / "data",
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes requests."""
        classpath = f"{fetch_jars()}/*"
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        logins = [
            word
            for name, password in self.passwords.items()
            for word in ("--add-scram", f"{MECHANISM}=[name={name},password={password}]")
        ]
        tool = ["java", "-cp", classpath, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", *logins]
        formatted = subprocess.run(
            [*tool, "--config", str(self._properties)], capture_output=True, text=True, check=False
        )
        assert formatted.returncode == 0, formatted.stdout + formatted.stderr
        java = ["java", "-Xms256m", "-Xmx512m", f"-Dlog4j2.configurationFile={_LOG_SETTINGS}", "-cp", classpath]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*java, "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end_s = time.monotonic() + START_WITHIN_S
        while b"Kafka Server started" not in self._log.read_bytes() or not _answers(self.port):
            assert self._process.poll() is None, self._log.read_text()[-5_000:]
            assert time.monotonic() < end_s, self._log.read_text()[-5_000:]
            time.sleep(0.1)

    def remove(self) -> None:
        """End it and delete its folder."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def settings(self, user: str, **changes: Any) -> KafkaSettings:
        """What a client of this user is given: the names of the manifests, and short times."""
        password = self.folder / f"{user}.password"
        password.write_text(self.passwords.get(user, ""))
        given = {
            "bootstrap_servers": f"127.0.0.1:{self.port}",
            "partitions": 2,
            "replication_factor": 1,
            "commit_interval_s": 0.3,
            "settle_idle_s": 1.0,
            "session_timeout_s": 3.0,
            "request_timeout_s": 2.0,
            "transaction_timeout_s": 5.0,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": MECHANISM,
            "sasl_user": user,
            "sasl_password_file": password,
            "ssl_cafile": self.certificate,
        }
        return KafkaSettings.model_validate(given | changes)

    def admin(self) -> KafkaAdminClient:
        """A client that may do everything; to be closed."""
        return make_admin(self.settings(ADMIN))

    def _certificate(self, name: str) -> tuple[Path, Path]:
        """A new key, and a certificate for 127.0.0.1 that it has signed itself."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            capture_output=True,
            check=True,
        )
        return key, certificate


def grant(admin: KafkaAdminClient, user: str, acls: Iterable[Mapping[str, Any]]) -> None:
    """Give a user exactly these rights, as Strimzi's user operator does with those of a KafkaUser."""
    everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    admin.delete_acls([ACLFilter(f"User:{user}", "*", ACLOperation.ANY, ACLPermissionType.ANY, everything)])
    wanted = []
    for acl in acls:
        resource = acl["resource"]
        pattern = ResourcePattern(_TYPES[resource["type"]], resource["name"], _PATTERNS[resource["patternType"]])
        wanted += [
            ACL(f"User:{user}", acl.get("host", "*"), _OPERATIONS[operation], ACLPermissionType.ALLOW, pattern)
            for operation in acl["operations"]
        ]
    if wanted:
        assert not admin.create_acls(wanted)["failed"]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
